"""Moving real training from one place to another: the real command, supervisor, runner and SDK."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from planner.core.events import Event
from planner.store.codec import datetime_text, parse_datetime
from tests.support.realruns import SAMPLES, Work, crew_script, small_job

pytestmark = pytest.mark.torch

EPOCHS, GLOBAL_BATCH, STEPS_PER_EPOCH = 2, 4, 83
HERE_USD_PER_H, THERE_USD_PER_H = 36.0, 18.0
PLACES = f"""
[[where]]
runner = "local"
pool = "here"
device = "cpu"
slots = 2
usd_per_slot_h = {HERE_USD_PER_H}

[[where]]
runner = "local"
pool = "there"
device = "cpu"
slots = 1
usd_per_slot_h = {THERE_USD_PER_H}
"""
EVENLY = "time.sleep(STEP_S)"
SLOWER_AT_FIRST = "time.sleep((STEP_S if epoch == 0 else 2.0) if at['attempt'] == 1 else 0.03)"
"""Minutes for those that are to take over, however busy the machine is; seconds for the end."""


@pytest.fixture
def work(tmp_path):
    """A job with two places, both of this machine."""
    made = small_job(tmp_path, workers=1, epochs=EPOCHS, step_s=0.3)
    job = tmp_path / "job.toml"
    text = job.read_text().split("[[where]]")[0].replace("= 32", f"= {GLOBAL_BATCH}")
    text = text.replace('checkpoint_interval = "1s"', 'checkpoint_interval = "5s"')
    job.write_text(text.replace("[32]", f"[{GLOBAL_BATCH}]") + PLACES)
    (tmp_path / "train.py").write_text(crew_script().replace(EVENLY, SLOWER_AT_FIRST))
    yield made
    made.end_all()


def launched_here(work: Work) -> str:
    """A run at the dearer place, which would not be chosen, some way into its first epoch."""
    options = work.json("estimate", "job.toml")["options"]
    (option,) = [o["id"] for o in options if o["resources"]["pool"] == "here"]
    run_id = str(work.json("run", "job.toml", "--option", option, "--yes", "--detach")["run_id"])
    work.wait(run_id, lambda: work.services.view(run_id).step > 3, "the first steps", poll_s=0.1)
    return run_id


def events(work: Work, run_id: str, *kinds: str) -> list[Event]:
    return [event for event in work.services.events(run_id) if event.type in kinds]


def assert_each_sample_counted_once(work: Work, run_id: str) -> None:
    """Of every epoch, in the steps that led to the weights."""
    said = []
    for path in sorted(work.state.run(run_id).output.glob("steps-*.ndjson")):
        said += [json.loads(line) for line in path.read_text().splitlines()]
    kept: dict[int, dict[str, Any]] = {}
    for attempt in sorted({step["attempt"] for step in said}):
        mine = {step["step"]: step for step in said if step["attempt"] == attempt}
        assert len(mine) == sum(step["attempt"] == attempt for step in said), "no step twice"
        kept = {number: step for number, step in kept.items() if number < min(mine)} | mine
    assert sorted(kept) == list(range(len(kept)))
    for epoch in range(EPOCHS):
        seen = [i for step in kept.values() if step["epoch"] == epoch for i in step["samples"]]
        assert sorted(seen) == list(range(SAMPLES)), f"epoch {epoch}"


def assert_paid_by_place(work: Work, run_id: str) -> None:
    """What was spent is the price of what was held, for as long as it was held.

    What nobody looked after was held until its workers ended.
    """
    priced = [
        (parse_datetime(event.data.get("ended_at") or datetime_text(event.ts)), event.data)
        for event in events(work, run_id, "resource.acquired", "resource.released")
    ]
    expected_usd = sum(
        data.get("usd_per_h", 0.0) * (until - since).total_seconds() / 3600
        for (since, data), (until, _) in pairwise(priced)
    )
    spent_usd = work.json("status", run_id)["money"]["spent_usd"]
    assert spent_usd == pytest.approx(expected_usd, rel=0.02)


def moved_in_flight(work: Work, run_id: str) -> None:
    """From the request until the new place has taken over and the old one was let go."""
    told = work.json("adjust", run_id, "move=local:there", "--yes", "--no-wait")["expected"]
    assert told["what"] == "move 1 x cpu at local:here -> 1 x cpu at local:there"
    assert told["how"] == "in_flight"
    assert told["usd_per_h"] == pytest.approx(THERE_USD_PER_H)
    assert told["peak_usd_per_h"] == pytest.approx(HERE_USD_PER_H + THERE_USD_PER_H)

    def moved() -> bool:
        run = work.services.view(run_id)
        return run.crew == (1,) and run.usd_per_h == pytest.approx(THERE_USD_PER_H)

    work.wait(run_id, moved, "the move", poll_s=0.1)
    workers = [p for p in work.processes() if "train.py" in p.cmdline()]
    assert [p.environ()["PLANNER_WORKER"] for p in workers] == ["1"]
    now = work.json("status", run_id)["in_force"]
    assert (now["resources"]["pool"], now["crew"]) == ("there", [1])
    assert "at local:there" in work.planner("status", run_id)


def killed_on_the_way_back(work: Work, run_id: str) -> None:
    """The supervisor dies when the workers that are to take over have just been started."""
    work.planner("adjust", run_id, "move=local:here", "--yes", "--no-wait")
    work.wait(run_id, lambda: len(events(work, run_id, "resource.acquired")) == 3, "new workers")
    work.kill_supervisor(run_id)
    work.wait_alone(run_id)


def test_a_run_is_moved_in_an_epoch_and_moved_back_by_a_supervisor_that_dies_over_it(work):
    run_id = launched_here(work)
    moved_in_flight(work, run_id)
    killed_on_the_way_back(work, run_id)
    work.planner("resume", run_id, "--yes", "--detach")
    assert work.rest(run_id) == "done"
    assert_each_sample_counted_once(work, run_id)
    assert_paid_by_place(work, run_id)

    run = work.json("status", run_id)
    assert run["attempts"] == 2
    assert run["in_force"]["resources"]["pool"] == "here"
    there, back = run["adjustments"]
    assert [(c["state"], c["how"]) for c in (there, back)] == [
        ("done", "in_flight"),
        ("done", "relaunch"),
    ]
    assert there["step"] % STEPS_PER_EPOCH, "it was in the middle of an epoch"
    assert there["stall_s"] < there["downtime_s"]
    decisions = run["decisions"]
    assert f"stall {there['stall_s']:.2f} s" in decisions[0]["measured"]
    assert "by checkpoint and relaunch" in decisions[1]["measured"]
    assert [d["id"] for d in decisions] == [there["id"], back["id"]]
    for change, decision in zip((there, back), decisions, strict=True):
        assert (change["lost_samples"], change["redone_samples"]) == (0, 0)
        assert decision["action"] == f"adjust: {change['what']}"
        assert f"request to first step {change['downtime_s']:.1f} s" in decision["measured"]
        assert "0 samples lost" in decision["measured"]
    assert "$36.00 -> $18.00/h" in decisions[0]["expected"]
    assert "$18.00 -> $36.00/h" in decisions[1]["expected"]
    prices = [e.data["usd_per_h"] for e in events(work, run_id, "resource.acquired")]
    assert prices == pytest.approx([36.0, 54.0, 54.0, 36.0])
