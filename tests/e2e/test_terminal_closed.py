"""A terminal that is closed in mid-run, with the real command and real training on it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.realruns import EPOCHS, STEPS_PER_EPOCH, Work, small_job
from support.terminal import Terminal

pytestmark = pytest.mark.torch


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    work = small_job(tmp_path / "closed", workers=1, step_s=0.25)
    work.planner("estimate", "job.toml")
    yield work
    work.end_all()


def test_a_closed_terminal_leaves_real_training_alone(work: Work) -> None:
    environment = {**os.environ, "TERM": "xterm-256color"}
    first = Terminal(work.command("run", "job.toml", "--yes"), work.path, environment)
    first.see("runs on when this terminal closes")
    (run_id,) = work.state.run_ids()
    log = work.state.run(run_id).output / "steps-0.ndjson"
    work.wait(run_id, lambda: log.exists() and log.read_text().count("\n") > 2, "a few steps")
    assert first.close() == -signal.SIGHUP
    assert work.services.view(run_id).summary.supervisor_alive

    second = Terminal(work.command("attach", "@last"), work.path, environment)
    second.see("%")
    work.hurry(run_id)
    assert second.end(timeout_s=120) == 0
    os.close(second.master)
    assert f"{run_id} done" in second.shown
    assert work.rest(run_id) == "done"
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    assert {step["attempt"] for step in steps} == {1}
    assert sorted({step["step"] for step in steps}) == list(range(EPOCHS * STEPS_PER_EPOCH))
    status = work.json("status", "@last")
    assert (status["state"], status["attempts"]) == ("done", 1)
