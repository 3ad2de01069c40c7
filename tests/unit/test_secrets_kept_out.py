"""What a job says of its own troubles may hold secrets: they are masked before they are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.cli import diagnostics
from planner.core.errors import UsageError
from planner.core.types import RunState
from planner.services.estimating.probewatch import ProbeWatch
from planner.store.files import json_line
from tests.support.runs import make_case

SECRET = "hf_abcdefghijklmnopqrstuvwxyz0123456789"
FAILED = json_line({
    "type": "checkpoint_failed", "t": 0.0, "step": 3, "error": f"403: token={SECRET} is no good",
})  # fmt: skip


def test_a_failed_checkpoint_of_a_run(tmp_path: Path) -> None:
    case = make_case(tmp_path)

    def fail() -> None:
        with open(case.run.attempt(1).path / "events-0.ndjson", "ab") as events:
            events.write(FAILED)

    case.clock.at(40, fail)
    assert case.go() is RunState.DONE
    journal = case.run.journal.read_text()
    assert "checkpoint.failed" in journal
    assert SECRET not in journal + case.run.report.read_text() + json.dumps(case.record.warnings)


def test_a_failed_checkpoint_of_a_probe(tmp_path: Path) -> None:
    (tmp_path / "events-0.ndjson").write_bytes(FAILED)
    watch = ProbeWatch(tmp_path, 1)
    watch.read()
    assert watch.checkpoint_error is not None
    assert "403" in watch.checkpoint_error
    assert SECRET not in watch.checkpoint_error


def test_an_error_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    diagnostics.tell(UsageError(f"cannot use {SECRET}", hint=f"token={SECRET}"))
    shown = capsys.readouterr().err
    assert "cannot use" in shown
    assert SECRET not in shown


def test_a_warning_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    diagnostics.warn(f"cannot use {SECRET}", f"token={SECRET}")
    assert SECRET not in capsys.readouterr().err
