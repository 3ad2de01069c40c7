"""Changing real training on this machine: the real command, supervisor, runner and SDK."""

from __future__ import annotations

import os

import psutil
import pytest

from tests.support.realruns import Work, crew_script, small_job

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """One worker at first, joined by planner; half a minute of steps where nothing is changed.

    One job for all tests here: the first of them has it estimated.
    """
    made = small_job(tmp_path_factory.mktemp("adjust"), workers=1, epochs=40, step_s=0.1)
    (made.path / "train.py").write_text(crew_script())
    yield made
    made.end_all()


def launched(work: Work, name: str) -> str:
    run_id = work.json("run", "job.toml", "--yes", "--detach", "--name", name)["run_id"]
    work.wait(run_id, lambda: work.services.view(run_id).step > 5, "the first steps", poll_s=0.2)
    return run_id


def joined(work: Work) -> list[psutil.Process]:
    """The training processes that joined later."""
    found = []
    for process in work.processes():
        try:
            if "PLANNER_JOIN" in process.environ() and "train.py" in process.cmdline()[1]:
                found.append(process)
        except (psutil.NoSuchProcess, IndexError):
            continue
    return found


def test_workers_join_die_are_replaced_and_outlive_the_supervisor(work):
    run_id = launched(work, "grows")
    told = work.json("adjust", run_id, "workers=2", "--yes")
    assert told["outcome"]["state"] == "done"
    assert told["outcome"]["how"] == "in_flight"
    assert told["outcome"]["lost_samples"] == 0
    assert told["outcome"]["stall_s"] < told["outcome"]["downtime_s"]
    assert told["run"]["in_force"]["crew"] == [0, 1]
    assert told["run"]["money"]["usd_per_h"] == pytest.approx(72.0)

    os.kill(joined(work)[0].pid, 9)

    def crew():
        return work.json("status", run_id)["in_force"]["crew"]

    work.wait(run_id, lambda: crew() == [0, 2], "the lost worker be replaced", poll_s=0.5)
    changes = work.json("status", run_id)["adjustments"]
    assert [c["reason"] for c in changes] == ["asked", "lost", "replaced"]

    work.kill_supervisor(run_id)
    work.wait_alone(run_id)
    work.planner("resume", run_id, "--yes", "--detach")
    work.wait(
        run_id,
        lambda: work.json("status", run_id)["attempts"] == 2,
        "the next attempt",
        poll_s=0.3,
    )
    assert work.json("status", run_id)["in_force"]["workers"] == 2
    work.hurry(run_id)
    assert work.rest(run_id) == "done"
    run = work.json("status", run_id)
    assert run["progress"]["step"] == run["progress"]["steps_total"]
    assert (work.state.run(run_id).output / "weights.pt").exists()


def test_a_second_planner_asks_and_the_first_change_is_told_too(work):
    run_id = launched(work, "asked-twice")
    work.planner("adjust", run_id, "workers=2", "--yes", "--no-wait")
    told = work.json("adjust", run_id, "micro_batch=8", "--yes")
    assert any("waits for" in note for note in told["expected"]["notes"])
    states = [c["state"] for c in told["run"]["adjustments"]]
    assert states == ["done", "done"]
    work.planner("cancel", run_id, "--now")
    assert work.rest(run_id) == "cancelled"


def test_more_money_is_not_spent_without_a_yes(work):
    run_id = launched(work, "refuses")
    work.planner("adjust", run_id, "workers=2", code=10)
    work.planner("adjust", run_id, "workers=9", "--yes", code=2)
    assert work.json("status", run_id)["adjustments"] == []
    work.planner("cancel", run_id, "--now")
    assert work.rest(run_id) == "cancelled"
