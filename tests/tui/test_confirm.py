"""Nothing is spent by accident: read-only, Back by default, caps that are typed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.fake_services import FakeServices, view
from support.tui import Stage, press, settle, to_options

from planner.core.distribution import Distribution
from planner.core.errors import PriceMovedError
from planner.core.job import Goal
from planner.core.types import RunState

pytestmark = pytest.mark.asyncio


async def test_the_focus_is_on_back_and_enter_does_not_launch(stage: Stage) -> None:
    async with stage.running() as pilot:
        await to_options(pilot)
        await press(pilot, "L", "enter")
        assert stage.tab == "options"
        assert stage.services.runs()[0].id != "r-demo1"


async def test_the_key_that_asked_does_not_confirm(stage: Stage) -> None:
    async with stage.running() as pilot:
        await to_options(pilot)
        await press(pilot, "L", "L", "L")
        assert "Launch option 1?" in stage.screen_text()


async def test_above_the_limit_the_amount_has_to_be_typed() -> None:
    stage = Stage()
    stage.make(confirm_above_usd=0.5)
    async with stage.running() as pilot:
        await to_options(pilot)
        await press(pilot, "L", "y")
        assert "It may cost up to $1.00" in stage.screen_text()
        stage.app.screen.query_one("#amount").focus()
        await pilot.press(*"2")
        await press(pilot, "enter")
        assert stage.app.screen.query_one("#agree").disabled
        await press(pilot, "backspace", "1")
        assert not stage.app.screen.query_one("#agree").disabled
        await press(pilot, "enter", "enter")
        assert stage.tab == "runs"


async def test_without_a_cap_the_worst_case_is_what_has_to_be_typed() -> None:
    stage = Stage()
    stage.make(confirm_above_usd=0.01)
    async with stage.running() as pilot:
        stage.app.screen.query_one("#budget").value = ""  # type: ignore[attr-defined]
        await settle(pilot)
        await to_options(pilot)
        await press(pilot, "L")
        text = stage.screen_text()
        assert "no cap is set" in text
        assert "It may cost $0.0" in text


async def test_what_was_shown_is_the_highest_price_accepted() -> None:
    services = FakeServices()
    stage = Stage(services)
    async with stage.running() as pilot:
        await to_options(pilot)
        await press(pilot, "L", "y")
    (request,) = services.asked("launch")
    option = request.estimate.option(request.option_id)
    assert request.max_usd_per_h == option.price.usd_per_h


async def test_a_price_that_moved_is_said_and_nothing_opens() -> None:
    services = FakeServices()
    services.fail["launch"] = PriceMovedError(
        "the price rose to $0.90/h", hint="estimate again, or accept it with --max-price"
    )
    stage = Stage(services)
    async with stage.running() as pilot:
        await to_options(pilot)
        await press(pilot, "L", "y")
        assert stage.tab == "options"
        text = stage.screen_text()
        assert "the price rose to $0.90/h" in text
        assert "estimate again" in text


def resting(**changes: Any) -> tuple[FakeServices, Stage]:
    """A run that stands still, and the app on it."""
    services = FakeServices()
    services.views = [view(**{"state": RunState.PAUSED, **changes})]
    stage = Stage(services)
    stage.make(run_id="r-7f3k")
    return services, stage


async def test_resuming_says_what_may_be_spent_and_asks() -> None:
    services, stage = resting(spent_usd=0.25)
    async with stage.running() as pilot:
        await press(pilot, "p")
        text = stage.screen_text()
        assert "Resume r-7f3k?" in text
        assert "$0.25   of $1.00" in text
        assert "at most $0.75 more" in text
        assert "at 40 % of the work" in text
        assert "$0.05/h   at most" in text
        await press(pilot, "enter")
        assert services.asked("resume") == []
        await press(pilot, "p", "p", "escape")
        assert services.asked("resume") == []
        await press(pilot, "p", "y")
        assert services.asked("resume") == ["r-7f3k"]


async def test_resuming_above_the_limit_takes_what_may_still_be_spent_to_be_typed() -> None:
    services, stage = resting(spent_usd=2.0, budget_usd=40.0)
    async with stage.running() as pilot:
        await press(pilot, "p", "y")
        assert "It may cost up to $38.00" in stage.screen_text()
        assert services.asked("resume") == []
        stage.app.screen.query_one("#amount").focus()
        await pilot.press(*"38")
        await press(pilot, "enter", "enter")
        assert services.asked("resume") == ["r-7f3k"]


async def test_without_a_cap_resuming_names_no_limit_and_counts_from_the_checkpoint() -> None:
    services, stage = resting(spent_usd=2.0, budget_usd=None)
    option = replace(services.views[0].plan.option, cost_usd=Distribution.exactly(20.0))
    services.views = [replace(v, plan=replace(v.plan, option=option)) for v in services.views]
    async with stage.running() as pilot:
        await press(pilot, "p")
        text = stage.screen_text()
        assert "no limit; about $12.00 more, retries not counted" in text
        assert "It may cost $12.00" in text


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.STOPPED_BY_CAP])
async def test_what_has_stopped_is_resumed_by_the_same_question(state: RunState) -> None:
    services, stage = resting(state=state)
    async with stage.running() as pilot:
        assert "p Resume" in stage.screen_text()
        await press(pilot, "p")
        assert "Resume r-7f3k?" in stage.screen_text()
        await press(pilot, "y")
    assert services.asked("resume") == ["r-7f3k"]


async def test_a_run_that_nobody_looks_after_is_offered_to_be_resumed() -> None:
    services, stage = resting(state=RunState.RUNNING, supervisor_alive=False)
    async with stage.running() as pilot:
        assert "p Resume" in stage.screen_text()
        await press(pilot, "p", "y")
    assert services.asked("resume") == ["r-7f3k"]
    assert services.asked("pause") == []


async def test_a_pause_that_loses_all_progress_asks() -> None:
    services, stage = resting(
        state=RunState.RUNNING, last_checkpoint_at=None, last_checkpoint_step=None
    )
    services.views = [
        replace(v, plan=replace(v.plan, job=replace(v.plan.job, tier=0))) for v in services.views
    ]
    async with stage.running() as pilot:
        await press(pilot, "p")
        assert "it starts from the beginning" in stage.screen_text()
        await press(pilot, "escape")
        assert services.asked("pause") == []
        await press(pilot, "p", "p")
    assert services.asked("pause") == ["r-7f3k"]


async def test_a_cap_raised_above_the_limit_has_to_be_typed() -> None:
    services, stage = resting(spent_usd=0.5)
    services.views = [
        replace(v, plan=replace(v.plan, goal=replace(v.plan.goal, budget_usd=1.0)))
        for v in services.views
    ]
    async with stage.running() as pilot:
        await press(pilot, "+")
        await pilot.press(*"+20")
        await press(pilot, "enter", "y")
        text = stage.screen_text()
        assert "$1.00 → $21.00" in text
        assert "It may cost up to $20.50" in text
        assert services.asked("extend") == []
        stage.app.screen.query_one("#amount").focus()
        await pilot.press(*"20.5")
        await press(pilot, "enter", "enter")
    assert services.asked("extend") == [(None, 20.0)]


async def test_a_run_without_limits_has_nothing_to_extend() -> None:
    services, stage = resting()
    goal = Goal(deadline_s=None, budget_usd=None)
    services.views = [replace(v, plan=replace(v.plan, goal=goal)) for v in services.views]
    async with stage.running() as pilot:
        await press(pilot, "+")
        assert "neither a deadline nor a cap" in stage.screen_text()


async def test_read_only_refuses_everything_that_changes_something() -> None:
    services = FakeServices()
    stage = Stage(services)
    stage.make(read_only=True)
    async with stage.running() as pilot:
        assert "READ-ONLY" in stage.screen_text()
        await press(pilot, "enter")
        assert stage.tab == "job"
        assert "read-only" in stage.screen_text()
        await press(pilot, "e", "enter", "L")
        assert "Launch option" not in stage.screen_text()
        await press(pilot, "4", "p", "k", "s", "+")
    for name in ("launch", "pause", "cancel", "checkpoint", "extend"):
        assert services.asked(name) == []


async def test_read_only_can_be_switched_while_it_runs(stage: Stage) -> None:
    async with stage.running() as pilot:
        await press(pilot, "ctrl+t")
        assert "READ-ONLY" in stage.screen_text()
        await press(pilot, "ctrl+t")
        assert "READ-ONLY" not in stage.screen_text()
