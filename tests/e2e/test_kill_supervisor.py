"""`kill -9` of the supervisor of real training: resumed, it ends as if nothing had been."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
import torch
from support.realruns import EPOCHS, SAMPLES, STEPS_PER_EPOCH, Work, small_job

pytestmark = pytest.mark.torch

WORKERS = 2
IDLE_S = 0.5


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    """One job for all tests here, estimated once."""
    work = small_job(tmp_path_factory.mktemp("kill"), workers=WORKERS)
    work.planner("estimate", "job.toml")
    yield work
    work.end_all()


@pytest.fixture(scope="module")
def undisturbed(work: Work) -> dict[str, torch.Tensor]:
    """The weights of a run that nothing happened to."""
    run_id = launch(work, "undisturbed")
    work.hurry(run_id)
    assert work.rest(run_id) == "done"
    done = {(step["rank"], step["step"]) for step in steps(work, run_id)}
    assert len(done) == EPOCHS * STEPS_PER_EPOCH * WORKERS
    return weights(work, run_id)


def launch(work: Work, name: str) -> str:
    run = work.json("run", "job.toml", "--yes", "--detach", "--name", name)
    return str(run["run_id"])


def steps(work: Work, run_id: str) -> list[dict[str, Any]]:
    """What each worker wrote down of each of its micro-batches, in the order of each worker."""
    found = []
    for rank in range(WORKERS):
        path = work.state.run(run_id).output / f"steps-{rank}.ndjson"
        lines = path.read_text().splitlines() if path.exists() else []
        found += [{"rank": rank, **json.loads(line)} for line in lines]
    return found


def weights(work: Work, run_id: str) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(
        work.state.run(run_id).output / "weights.pt", weights_only=True
    )
    return loaded


def that_lead_to_the_weights(all_steps: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Steps by number: where an attempt went on, what came later before it was thrown away."""
    kept: dict[int, list[dict[str, Any]]] = {}
    for attempt in sorted({step["attempt"] for step in all_steps}):
        mine = [step for step in all_steps if step["attempt"] == attempt]
        first = min(step["step"] for step in mine)
        kept = {number: done for number, done in kept.items() if number < first}
        for step in mine:
            kept.setdefault(step["step"], []).append(step)
    return kept


def checkpoints(work: Work, run_id: str) -> list[int]:
    """Steps of the whole checkpoints on the disk, oldest first."""
    folder = work.state.run(run_id).checkpoints
    return [int(path.name.split("-step")[1]) for path in sorted(folder.glob("0*-step*"))]


def before_the_first_step(work: Work, run_id: str) -> bool:
    return work.state.run(run_id).attempt(1).handle.exists()


def in_an_epoch(work: Work, run_id: str) -> bool:
    return any(step["step"] == STEPS_PER_EPOCH + 5 for step in steps(work, run_id))


def in_a_checkpoint(work: Work, run_id: str) -> bool:
    return any(work.state.run(run_id).checkpoints.glob(".writing-*"))


def in_a_later_checkpoint(work: Work, run_id: str) -> bool:
    return bool(checkpoints(work, run_id)) and in_a_checkpoint(work, run_id)


def in_the_last_epoch(work: Work, run_id: str) -> bool:
    return any(step["epoch"] == EPOCHS - 1 for step in steps(work, run_id))


STAGES = [
    (before_the_first_step, False),
    (in_an_epoch, False),
    (in_an_epoch, True),
    (in_a_checkpoint, False),
    (in_a_later_checkpoint, True),
    (in_the_last_epoch, False),
]


def name_of(stage: object) -> str:
    return ("alone", "with-workers")[stage] if isinstance(stage, bool) else stage.__name__  # type: ignore[attr-defined]


@pytest.mark.parametrize(("stage", "with_workers"), STAGES, ids=name_of)
def test_kill_9_of_the_supervisor_of_real_training(
    work: Work,
    undisturbed: dict[str, torch.Tensor],
    stage: Callable[[Work, str], bool],
    with_workers: bool,
) -> None:
    """Alone, its workers checkpoint and leave; with them, as when a machine loses its power."""
    run_id = launch(work, f"{stage.__name__}-{with_workers}".replace("_", "-"))
    work.wait(run_id, lambda: stage(work, run_id), stage.__name__)
    work.kill_supervisor(run_id, with_workers=with_workers)
    work.wait_alone(run_id)
    (status,) = [run for run in work.json("status")["runs"] if run["run_id"] == run_id]
    assert status["supervisor_alive"] is False
    before, kept = steps(work, run_id), checkpoints(work, run_id)
    time.sleep(IDLE_S)

    work.hurry(run_id)
    work.planner("resume", run_id, "--yes")
    assert work.rest(run_id) == "done"
    trained = that_lead_to_the_weights(steps(work, run_id))
    assert sorted(trained) == list(range(EPOCHS * STEPS_PER_EPOCH))
    for epoch in range(EPOCHS):
        seen = [s for done in trained.values() for s in done if s["epoch"] == epoch]
        assert sorted(i for step in seen for i in step["samples"]) == list(range(SAMPLES))

    again = [step for step in steps(work, run_id) if step["attempt"] == 2]
    went_on = min((step["step"] for step in again), default=EPOCHS * STEPS_PER_EPOCH)
    assert went_on == max(kept, default=0), "from the newest checkpoint there was"
    if before and not with_workers:
        assert went_on == 1 + max(step["step"] for step in before), "no step was done again"
    for name, tensor in weights(work, run_id).items():
        assert torch.equal(tensor, undisturbed[name]), name
    assert_nobodys_time_is_not_counted(work, run_id)


def assert_nobodys_time_is_not_counted(work: Work, run_id: str) -> None:
    """The time without a supervisor and without workers is neither the run's nor paid for."""
    report = json.loads(work.state.run(run_id).report.read_text())
    created_at, ended_at = (
        datetime.fromisoformat(report[f"{at}_at"]) for at in ("created", "ended")
    )
    passed_s = (ended_at - created_at).total_seconds()
    assert report["idle_s"] >= IDLE_S
    assert report["total_s"] == pytest.approx(passed_s - report["idle_s"], abs=0.01)
    assert report["held_s"] <= report["total_s"]
    assert report["spent_usd"] == pytest.approx(report["held_s"] * WORKERS * 0.01, rel=0.01)
