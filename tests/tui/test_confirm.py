"""Nothing is spent by accident: read-only, Back by default, caps that are typed."""

from __future__ import annotations

import pytest
from support.fake_services import FakeServices
from support.tui import Stage, press, settle, to_options

from planner.core.errors import PriceMovedError

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
        assert stage.app.screen.query_one("#launch").disabled
        await press(pilot, "backspace", "1")
        assert not stage.app.screen.query_one("#launch").disabled
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
        assert "It may cost up to $0.0" in text


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
