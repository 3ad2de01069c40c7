"""Moving real training from one place to another: the real command, supervisor, runner and SDK."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

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
SLOWER_HERE = "time.sleep(STEP_S if RANK == 0 and at['attempt'] == 1 else STEP_S / 10)"
"""More than half a minute is left while others get ready to take over, and seconds after it."""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """One job with two places of this machine for all tests here, estimated once."""
    made = small_job(tmp_path_factory.mktemp("move"), workers=1, epochs=EPOCHS, step_s=0.3)
    job = made.path / "job.toml"
    text = job.read_text().split("[[where]]")[0].replace("= 32", f"= {GLOBAL_BATCH}")
    job.write_text(text.replace("[32]", f"[{GLOBAL_BATCH}]") + PLACES)
    (made.path / "train.py").write_text(crew_script().replace(EVENLY, SLOWER_HERE))
    yield made
    made.end_all()


def launched_here(work: Work, name: str) -> str:
    """A run at the dearer place, some way into its first epoch."""
    options = work.json("estimate", "job.toml")["options"]
    (option,) = [o["id"] for o in options if o["resources"]["pool"] == "here"]
    started = work.json("run", "job.toml", "--option", option, "--yes", "--detach", "--name", name)
    run_id = str(started["run_id"])
    work.wait(run_id, lambda: work.services.view(run_id).step > 3, "the first steps", poll_s=0.1)
    return run_id


def events(work: Work, run_id: str, *kinds: str) -> list[dict[str, Any]]:
    lines = work.planner("status", run_id, "--since", "-1").splitlines()
    return [event for event in map(json.loads, lines) if not kinds or event["type"] in kinds]


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
    """What was spent is the price of what was held, for as long as it was held."""
    priced = [
        (datetime.fromisoformat(event["ts"]), event["data"])
        for event in events(work, run_id, "resource.acquired", "resource.released")
    ]
    expected_usd = sum(
        data.get("usd_per_h", 0.0) * (until - since).total_seconds() / 3600
        for (since, data), (until, _) in pairwise(priced)
    )
    spent_usd = work.json("status", run_id)["money"]["spent_usd"]
    assert spent_usd == pytest.approx(expected_usd, rel=0.02)


def moved(work: Work, run_id: str) -> bool:
    """Whether it is at the new place and the old one was let go."""
    run = work.services.view(run_id)
    return run.crew == (1,) and run.usd_per_h == pytest.approx(THERE_USD_PER_H)


def test_a_move_takes_over_in_flight_in_the_middle_of_an_epoch(work):
    run_id = launched_here(work, "moved")
    expected = work.json("adjust", run_id, "move=local:there", "--yes", "--no-wait")["expected"]
    assert expected["what"] == "move 1 x cpu at local:here -> 1 x cpu at local:there"
    assert expected["how"] == "in_flight"
    assert expected["usd_per_h"] == pytest.approx(THERE_USD_PER_H)
    assert expected["peak_usd_per_h"] == pytest.approx(HERE_USD_PER_H + THERE_USD_PER_H)

    work.wait(run_id, lambda: moved(work, run_id), "the move", poll_s=0.1)
    workers = [p for p in work.processes() if "train.py" in p.cmdline()]
    assert [p.environ()["PLANNER_WORKER"] for p in workers] == ["1"]
    now = work.json("status", run_id)["in_force"]
    assert (now["resources"]["pool"], now["crew"]) == ("there", [1])
    assert "at local:there" in work.planner("status", run_id)

    assert work.rest(run_id) == "done"
    assert_each_sample_counted_once(work, run_id)
    assert_paid_by_place(work, run_id)
    run = work.json("status", run_id)
    (change,) = run["adjustments"]
    assert (change["state"], change["how"]) == ("done", "in_flight")
    assert (change["lost_samples"], change["redone_samples"]) == (0, 0)
    assert change["stall_s"] < change["downtime_s"]
    assert change["step"] % STEPS_PER_EPOCH, "it was in the middle of an epoch"
    (decision,) = run["decisions"]
    assert decision["action"] == f"adjust: {expected['what']}"
    assert "$36.00 -> $18.00/h" in decision["expected"]
    assert f"stall {change['stall_s']:.2f} s" in decision["measured"]
    assert "request to first step" in decision["measured"]
    assert "0 samples lost" in decision["measured"]


def test_a_supervisor_killed_in_the_middle_of_a_move_is_resumed_at_the_new_place(work):
    run_id = launched_here(work, "killed")
    work.planner("adjust", run_id, "move=local:there", "--yes", "--no-wait")
    work.wait(run_id, lambda: len(events(work, run_id, "resource.acquired")) == 2, "the new ones")
    work.kill_supervisor(run_id)
    work.wait_alone(run_id)

    work.planner("resume", run_id, "--yes", "--detach")
    assert work.rest(run_id) == "done"
    run = work.json("status", run_id)
    assert run["in_force"]["resources"]["pool"] == "there"
    assert run["attempts"] == 2
    (change,) = run["adjustments"]
    assert (change["state"], change["how"]) == ("done", "relaunch")
    assert change["lost_samples"] == 0
    (price,) = [
        event["data"]["usd_per_h"]
        for event in events(work, run_id, "resource.acquired")
        if event["data"]["attempt"] == 2
    ]
    assert price == pytest.approx(THERE_USD_PER_H)
    assert_each_sample_counted_once(work, run_id)
