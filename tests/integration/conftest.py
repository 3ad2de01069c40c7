"""Planner in the test's own process, on services that say what the test told them to."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_services import FakeServices
from support.planner_calls import JOB, Planner, Result

from planner.cli import invocation
from planner.cli.main import main


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def planner(
    services: FakeServices,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Iterator[Planner]:
    """Call planner in this process, in an empty folder, on the fake services."""
    monkeypatch.setattr(invocation, "open_services", lambda _folder: services)
    monkeypatch.setattr("planner.cli.watch.LOOK_S", 0.001)
    monkeypatch.setattr("planner.cli.commands.logs.LOOK_S", 0.001)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").write_text(JOB)
    (tmp_path / "train.py").write_text("print('hello')\n")
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: str) -> Result:
        state = ("--state-dir", str(tmp_path / "state"))
        with pytest.raises(SystemExit) as ended:
            main([*state, *arguments])
        out, err = capfd.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 0, out, err)

    yield call
    signal.signal(signal.SIGTERM, before)
