"""What a script tells of a change: measured around it, said once."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from planner.sdk.levers import Knobs
from planner.sdk.reports import Reports

KNOBS = Knobs(global_batch=32, micro_batch=8, loader_workers=0)


class Script:
    """A worker that leads, and what it says. Its clock is the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_t = 100.0
        monkeypatch.setattr(time, "time", lambda: self.now_t)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_t)
        self.said: list[dict[str, Any]] = []
        gear = SimpleNamespace(
            stopwatch=SimpleNamespace(stepped_s=99.0, usual_step_s=0.5),
            keeper=SimpleNamespace(at=SimpleNamespace(step=7, epoch=0, samples=224)),
            workers=SimpleNamespace(leads=True, count=1),
            crew=None,
            courier=SimpleNamespace(say=lambda _kind, **told: self.said.append(told)),
        )
        self.reports = Reports(gear, SimpleNamespace(accumulation=4))  # type: ignore[arg-type]

    def step(self, duration_s: float) -> None:
        self.now_t += duration_s
        self.reports.stepped(KNOBS)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    return Script(monkeypatch)


def test_the_first_step_is_told_by_its_own_time_however_late_that_is(script: Script) -> None:
    script.reports.begin(KNOBS, "d1", "asked")
    for duration_s in (1.0, 0.5, 0.5):
        assert script.said == []
        script.step(duration_s)
    (told,) = script.said
    assert (told["id"], told["step"], told["lost_samples"]) == ("d1", 7, 0)
    assert (told["first_step_t"], script.now_t) == (101.0, 102.0)
    assert (told["stall_s"], told["step_time_s"]) == (2.0, 0.5)


def test_a_change_without_a_step_has_no_first_one(script: Script) -> None:
    script.reports.begin(KNOBS, "d1", "asked")
    script.reports.close(KNOBS)
    (told,) = script.said
    assert (told["first_step_t"], told["stall_s"]) == (None, 0.0)
