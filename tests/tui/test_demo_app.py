"""The bundled recording in the app: what comes from then is told from what is asked for now."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.recorded import NOW
from support.tui import WIDE, Stage, press, to_run

from planner.core.clock import ManualClock
from planner.services.demo import RUN_TAKES_S, DemoServices

pytestmark = pytest.mark.asyncio


@pytest.fixture
def bundled() -> Stage:
    """The app on the recording that is shipped."""
    clock = ManualClock(NOW)
    services = DemoServices(clock=clock)
    stage = Stage(services, job=services.job)
    stage.clock = clock
    stage.make()
    return stage


async def test_what_was_asked_for_in_the_recording_is_marked_as_recorded(bundled: Stage) -> None:
    async with bundled.running(WIDE) as pilot:
        await to_run(pilot)
        bundled.clock.sleep(0.6 * RUN_TAKES_S)
        await press(pilot, "r")
        text = bundled.screen_text()
        assert "extend: deadline +1m00s" in text
        assert "asked for when this was recorded" in text
        assert "recorded" in text.split("extend: deadline +1m00s")[1].splitlines()[0]
        await press(pilot, "l")
        assert "asked to extend when this was recorded" in bundled.screen_text()


async def test_the_recorded_extension_is_added_to_the_deadline_asked_for_here(
    bundled: Stage,
) -> None:
    async with bundled.running(WIDE) as pilot:
        bundled.app.screen.query_one("#deadline").value = "20m"  # type: ignore[attr-defined]
        await to_run(pilot)
        began = bundled.services.view("r-demo1").summary.created_at
        bundled.clock.sleep(0.6 * RUN_TAKES_S)
        goal = bundled.services.view("r-demo1").plan.goal
        assert goal.deadline_at - began == timedelta(minutes=21)


async def test_the_recorded_extension_does_not_undo_one_asked_for_here(bundled: Stage) -> None:
    async with bundled.running(WIDE) as pilot:
        await to_run(pilot)
        bundled.clock.sleep(0.1 * RUN_TAKES_S)
        was = bundled.services.view("r-demo1").plan.goal.deadline_at
        bundled.services.extend("r-demo1", deadline_s=600.0)
        bundled.clock.sleep(0.5 * RUN_TAKES_S)
        goal = bundled.services.view("r-demo1").plan.goal
        assert goal.deadline_at - was == timedelta(minutes=11)
