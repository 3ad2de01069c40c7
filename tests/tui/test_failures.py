"""Every pane in its empty, loading and failed state: in words, with what to do."""

from __future__ import annotations

import threading

import pytest
from support.fake_services import FakeServices
from support.tui import Stage, press

from planner.core.errors import DataError, EnvironmentFault, StoreError
from planner.services.api import Check

pytestmark = pytest.mark.asyncio

BROKEN = StoreError("the state folder cannot be read", hint="look at planner doctor")


def failing(*names: str) -> Stage:
    services = FakeServices()
    services.fail = dict.fromkeys(names, BROKEN)
    return Stage(services)


async def test_checks_that_fail_say_so_in_their_pane() -> None:
    async with (stage := failing("doctor", "plan_probes")).running():
        text = stage.screen_text()
    assert text.count("the state folder cannot be read") == 2
    assert "look at planner doctor" in text


async def test_checks_that_take_long_say_that_they_are_awaited() -> None:
    waits = threading.Event()

    class Slow(FakeServices):
        def doctor(self, only: object = ()) -> tuple[Check, ...]:
            waits.wait(5)
            return ()

    stage = Stage(Slow())
    async with stage.app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert "Checking this machine" in stage.screen_text()
        waits.set()


async def test_a_kept_estimate_that_cannot_be_read_is_told_where_it_would_stand() -> None:
    stage = failing("latest_estimate")
    async with stage.running() as pilot:
        assert "cannot be read" not in stage.screen_text()
        await press(pilot, "3")
        assert "! the state folder cannot be read" in stage.screen_text()
        stage.services.fail = {}
        await press(pilot, "r")
        assert "There is no estimate of this job yet" in stage.screen_text()


async def test_an_estimate_that_fails_is_told_on_probes_and_options() -> None:
    services = FakeServices()
    services.fail["estimate"] = DataError("data is empty", hint="put images into it")
    stage = Stage(services)
    async with stage.running() as pilot:
        await press(pilot, "enter")
        text = stage.screen_text()
        assert "! data is empty" in text
        assert "put images into it" in text
        await press(pilot, "3")
        assert "! data is empty" in stage.screen_text()


@pytest.mark.parametrize(
    ("key", "said", "hint"),
    [
        ("2", "Nothing was tried out yet", "Press 1 for the job"),
        ("3", "There is no estimate of this job yet", "enter probes it"),
        ("4", "No run yet", "Launch an option"),
        ("5", "There is no run yet", "Launch an option"),
        ("6", "No run yet", "Launch an option"),
    ],
)
async def test_empty_screens_say_what_to_do(key: str, said: str, hint: str) -> None:
    services = FakeServices()
    services.summaries = ()
    stage = Stage(services)
    async with stage.running() as pilot:
        await press(pilot, key)
        text = stage.screen_text()
    assert said in text
    assert hint in text


@pytest.mark.parametrize(
    ("key", "call"), [("4", "runs"), ("4", "logs"), ("5", "view"), ("6", "runs")]
)
async def test_run_screens_survive_services_that_fail(key: str, call: str) -> None:
    stage = failing(call)
    async with stage.running() as pilot:
        await press(pilot, key)
        text = stage.screen_text()
    assert "! the state folder cannot be read" in text
    assert "look at planner doctor" in text


async def test_a_defect_in_a_service_is_a_message_and_not_a_crash() -> None:
    services = FakeServices()
    services.fail["runs"] = ZeroDivisionError("oops")
    stage = Stage(services)
    async with stage.running() as pilot:
        await press(pilot, "6")
        text = stage.screen_text()
    assert "planner has a defect: ZeroDivisionError: oops" in text


async def test_a_command_that_fails_is_told_and_the_run_stays_in_view() -> None:
    services = FakeServices()
    services.views = services.views[:1]
    services.fail["checkpoint"] = EnvironmentFault("the disk is full", hint="make room")
    stage = Stage(services)
    async with stage.running() as pilot:
        await press(pilot, "4", "k")
        text = stage.screen_text()
    assert "the disk is full" in text
    assert "make room" in text
    assert "running" in text


async def test_below_80_x_24_it_says_what_size_it_needs(stage: Stage) -> None:
    async with stage.running((79, 24)) as pilot:
        text = stage.screen_text()
        assert "This one has 79 x 24 cells" in text
        assert "80 x 24 are needed" in text
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert "This one has" not in stage.screen_text()
        await pilot.resize_terminal(120, 23)
        await pilot.pause()
        assert "This one has 120 x 23 cells" in stage.screen_text()
