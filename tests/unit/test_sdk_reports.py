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
            keeper=SimpleNamespace(at=SimpleNamespace(step=7, epoch=0, samples=224, position=224)),
            workers=SimpleNamespace(leads=True, count=1),
            crew=SimpleNamespace(generation=1, workers=(0,)),
            courier=SimpleNamespace(say=lambda _kind, **told: self.said.append(told)),
        )
        self.gear = gear
        self.feed = SimpleNamespace(accumulation=4, steps_per_epoch=10)
        self.reports = Reports(gear, self.feed)  # type: ignore[arg-type]

    def step(self, duration_s: float) -> None:
        self.now_t += duration_s
        self.reports.stepped()


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
    script.reports.close()
    (told,) = script.said
    assert (told["first_step_t"], told["stall_s"]) == (None, None)


def test_each_of_two_changes_is_told_with_what_was_in_force_under_it(script: Script) -> None:
    script.reports.begin(KNOBS, "d1", "asked")
    script.step(1.0)
    script.gear.crew = SimpleNamespace(generation=2, workers=(0, 1))
    script.gear.workers.count, script.feed.accumulation = 2, 1
    script.reports.begin(KNOBS._replace(micro_batch=16), "d2", "asked")
    script.reports.close()
    keys = ("id", "generation", "crew", "workers", "accumulation", "micro_batch", "stall_s")
    assert [tuple(told[key] for key in keys) for told in script.said] == [
        ("d1", 1, [0], 1, 4, 8, 2.0),
        ("d2", 2, [0, 1], 2, 1, 16, None),
    ]


@pytest.mark.parametrize("leads", [(True, False), (False, True)])
def test_a_change_is_told_by_who_led_or_leads(script: Script, leads: tuple[bool, bool]) -> None:
    script.gear.workers.leads, now = leads
    script.reports.begin(KNOBS, None, "lost")
    script.gear.workers.leads = now
    script.reports.close()
    assert len(script.said) == 1
