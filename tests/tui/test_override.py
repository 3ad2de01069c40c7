"""Changing a running job from the app: what it would do, what is asked, what is sent, what came."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.tui import NARROW, RUN_TAKES_S, WIDE, Stage, live, press, settle, to_run
from textual.pilot import Pilot
from textual.widgets import Input

from planner.core.adjust import Expectation, Target, Wish
from planner.core.adjustrules import AdjustRefusedError
from planner.core.types import RunState
from planner.tui.screens.override import OverrideScreen

pytestmark = pytest.mark.asyncio

FREE = Expectation(
    what="loader workers 0 -> 4",
    how="in_flight",
    samples_per_s_before=41.0,
    usd_per_h_before=0.05,
    usd_per_h=0.05,
    peak_usd_per_h=0.05,
    stall_s=0.5,
    downtime_s=1.0,
)
"""A change that costs nothing more and that the job file lets be made."""


async def fill(pilot: Pilot[None], **values: str) -> None:
    """Type these values, then ask at once."""
    for lever, value in values.items():
        field = pilot.app.screen.query_one(f"#{lever}", Input)
        field.focus()
        field.value = value
        await pilot.pause(0)
    await press(pilot, "enter")


# ---- what it would do ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_every_lever_stands_there_with_what_is_in_force(size: tuple[int, int]) -> None:
    services, stage = live()
    async with stage.running(size) as pilot:
        await press(pilot, "o")
        text = stage.screen_text()
        for lever, value in (
            ("workers", "1"),
            ("micro_batch", "16 x 4"),
            ("loader_workers", "0"),
            ("memory", "normal"),
            ("move", "1 x cpu at local:cpu"),
            ("checkpoint_interval", "10m00s"),
            ("global_batch", "64"),
        ):
            assert any(lever in line and value in line for line in text.splitlines()), lever
        assert "Type a new value" in text
        assert "[ Change it ]" in text
    assert services.asked("may adjust") == []


async def test_what_it_would_do_is_shown_before_anything_is_sent() -> None:
    services, stage = live()
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(pilot, workers="2")
        text = stage.screen_text()
        for words in (
            "workers 1 -> 2   in flight",
            "41 -> 78 samples/s [60 - 82]",
            "$0.10/h",
            "more than was agreed to",
            "7m20s -> 3m51s",
            "0.5 s from step to step",
            "asks again: it costs more",
        ):
            assert words in text
    assert services.asked("may adjust") == [Wish(workers=2)]
    assert services.asked("adjust") == []


async def test_it_is_asked_by_itself_once_nothing_more_is_typed() -> None:
    services, stage = live()
    async with stage.running() as pilot:
        await press(pilot, "o")
        stage.app.pace = 0.01
        await pilot.press("2")
        for _ in range(200):
            await pilot.pause(0.01)
            if services.asked("may adjust"):
                break
        await settle(pilot)
        assert "workers 1 -> 2   in flight" in stage.screen_text()


async def test_several_levers_are_changed_together() -> None:
    services, stage = live()
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(
            pilot,
            micro_batch="8",
            memory="low",
            move="local:cpu:2",
            checkpoint_interval="auto",
            loader_workers="2",
        )
    assert services.asked("may adjust")[-1] == Wish(
        micro_batch=8,
        memory="low",
        move=Target(runner="local", pool="cpu", workers=2),
        checkpoint_auto=True,
        loader_workers=2,
    )


async def test_maths_and_relaunch_are_allowed_by_choice() -> None:
    services, stage = live()
    async with stage.running() as pilot:
        await press(pilot, "o")
        for name in ("maths", "lr-rule", "how"):
            stage.app.screen.query_one(f"#{name}").focus()
            await press(pilot, "space")
        await fill(pilot, global_batch="128")
    wanted = Wish(global_batch=128, allow_maths=True, lr_rule="sqrt", relaunch=True)
    assert services.asked("may adjust")[-1] == wanted


async def test_a_value_that_does_not_fit_is_said_and_not_asked_about() -> None:
    services, stage = live()
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(pilot, checkpoint_interval="30")
        assert "30 what? A duration needs a unit" in stage.screen_text()
        await fill(pilot, checkpoint_interval="", workers="none")
        assert "it takes a whole number from 1" in stage.screen_text()
        assert stage.app.screen.query_one("#change").disabled
    assert services.asked("may adjust") == []


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        ("--allow-maths allows it; --lr-rule says how", "let maths change"),
        ("--relaunch does so all the same", "by relaunch, below the fields"),
        ("planner extend r-7f3k --budget +...", "+ raises the cap"),
        ("it offers up to 2", "it offers up to 2"),
    ],
)
async def test_a_refusal_says_why_and_what_to_do_here(hint: str, told: str) -> None:
    services, stage = live()
    services.fail["may adjust"] = AdjustRefusedError("that cannot be done", hint=hint)
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(pilot, workers="9")
        text = stage.screen_text()
        assert "that cannot be done" in text
        assert told in text
        assert "--" not in text
        assert stage.app.screen.query_one("#change").disabled
        del services.fail["may adjust"]
        await press(pilot, "enter")
        assert "workers 1 -> 2   in flight" in stage.screen_text()


async def test_what_was_typed_after_the_question_has_to_be_answered_first() -> None:
    _, stage = live()
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(pilot, workers="2")
        button = stage.app.screen.query_one("#change")
        assert not button.disabled
        stage.app.screen.query_one("#workers").focus()
        await pilot.press("end", "0")
        assert button.disabled
        await press(pilot, "backspace")
        assert not button.disabled


async def test_nothing_to_do_cannot_be_sent() -> None:
    services, stage = live()
    services.expectation = Expectation(what="nothing to do: it is so already", how="nothing")
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(pilot, workers="1")
        assert "it is so already" in stage.screen_text()
        assert stage.app.screen.query_one("#change").disabled


async def test_an_answer_that_comes_after_the_screen_was_left_does_no_harm() -> None:
    _, stage = live()
    async with stage.running() as pilot:
        await press(pilot, "o")
        screen = stage.app.screen
        assert isinstance(screen, OverrideScreen)
        await press(pilot, "escape")
        screen._take(Wish(workers=2), FREE)
        screen._refused(Wish(workers=2), AdjustRefusedError("no"))
        assert stage.tab == "runs"


# ---- agreeing and sending ------------------------------------------------------------------------


async def test_a_dearer_change_is_asked_about_with_the_focus_on_back() -> None:
    services, stage = live()
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(pilot, workers="2")
        await press(pilot, "enter")
        text = stage.screen_text()
        assert "Change r-7f3k?" in text
        assert "at up to $0.10/h, at most $0.99 more" in text
        await press(pilot, "o", "enter")
        assert services.asked("adjust") == []
        await press(pilot, "o")
        await fill(pilot, workers="2")
        await press(pilot, "enter", "y")
    assert services.asked("adjust") == [Wish(workers=2, max_usd_per_h=0.1)]


async def test_above_the_limit_the_amount_has_to_be_typed() -> None:
    services, stage = live(budget_usd=40.0)
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(pilot, workers="2")
        await press(pilot, "enter", "y")
        assert "It may cost up to $39.99" in stage.screen_text()
        assert services.asked("adjust") == []
        stage.app.screen.query_one("#amount").focus()
        await pilot.press(*"39.99")
        await press(pilot, "enter", "enter")
    assert len(services.asked("adjust")) == 1


async def test_what_the_job_file_wants_to_be_asked_about_is_asked_about() -> None:
    services, stage = live()
    services.expectation = replace(FREE, asks=("loader_workers",))
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(pilot, loader_workers="4")
        assert "asks again: loader_workers" in stage.screen_text()
        await press(pilot, "enter")
        assert "the job file wants to be asked about loader_workers" in stage.screen_text()
        assert services.asked("adjust") == []
        await press(pilot, "y")
    assert services.asked("adjust") == [Wish(loader_workers=4, max_usd_per_h=0.05)]


async def test_what_costs_no_more_and_may_be_done_is_sent_by_the_button() -> None:
    services, stage = live()
    services.expectation = FREE
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(pilot, loader_workers="4")
        await press(pilot, "enter")
        assert "Asked for: loader workers 0 -> 4." in stage.screen_text()
    assert services.asked("adjust") == [Wish(loader_workers=4, max_usd_per_h=0.05)]


async def test_back_and_esc_send_nothing() -> None:
    services, stage = live()
    services.expectation = FREE
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(pilot, loader_workers="4")
        await press(pilot, "escape", "o")
        await fill(pilot, loader_workers="4")
        await press(pilot, "shift+tab", "enter")
        assert "Override r-7f3k" not in stage.screen_text()
    assert services.asked("adjust") == []


async def test_a_change_that_is_refused_when_it_is_sent_is_told() -> None:
    services, stage = live()
    services.fail["adjust"] = AdjustRefusedError("the price rose", hint="look again")
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(pilot, workers="2")
        await press(pilot, "enter", "y")
        assert "the price rose" in stage.screen_text()


# ---- what came of it -----------------------------------------------------------------------------


async def test_it_is_told_that_it_is_under_way_and_what_came_of_it() -> None:
    services, stage = live()
    done = services.outcome[0]
    services.outcome = (replace(done, state="going_on", text=None),)
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(pilot, workers="2")
        await press(pilot, "enter", "y")
        assert "workers 1 -> 2  · under way" in stage.screen_text()
        services.views = [replace(v, adjustments=(done,)) for v in services.views]
        await press(pilot, "r")
        text = stage.screen_text()
        assert "workers 1 -> 2  ✓ done" in text
        assert "stall 0.08 s" in text
        assert "3.2s from request to first step" in text
        stage.app.clear_notifications()
        await press(pilot, "r")
        assert "from request to first step" not in stage.screen_text()


async def test_a_change_that_could_not_be_made_is_told_with_the_reason() -> None:
    services, stage = live()
    why = "not done: the new worker did not come; the job goes on as it was"
    services.outcome = (replace(services.outcome[0], state="not_done", text=why),)
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(pilot, workers="2")
        await press(pilot, "enter", "y")
        text = stage.screen_text()
        assert "! not done" in text
        assert "the new worker did not come" in text


# ---- where it is not offered ---------------------------------------------------------------------


async def test_read_only_refuses() -> None:
    services, stage = live()
    stage.make(run_id="r-7f3k", read_only=True)
    async with stage.running() as pilot:
        await press(pilot, "o")
        assert "read-only" in stage.screen_text()
        assert "in force" not in stage.screen_text()
    assert services.asked("may adjust") == []


async def test_the_demo_makes_a_change_up_and_says_so(stage: Stage) -> None:
    async with stage.running(WIDE) as pilot:
        await to_run(pilot)
        stage.clock.sleep(RUN_TAKES_S / 4)
        await press(pilot, "r", "o")
        stage.app.clear_notifications()
        await settle(pilot)
        assert "what you change is made up" in stage.screen_text()
        await fill(pilot, workers="2")
        assert "workers 1 -> 2   in flight" in stage.screen_text()
        await press(pilot, "enter", "y")
        stage.clock.sleep(RUN_TAKES_S / 4)
        await press(pilot, "r")
        assert "workers 1 -> 2  ✓ done" in stage.screen_text()
        stage.app.clear_notifications()
        await press(pilot, "5", "left")
        assert "made up: the recording goes on" in stage.screen_text()


@pytest.mark.parametrize(
    "changes",
    [{"state": RunState.PAUSED}, {"state": RunState.DONE}, {"supervisor_alive": False}],
)
async def test_only_a_run_at_work_can_be_changed(changes: dict[str, Any]) -> None:
    services, stage = live(**changes)
    async with stage.running() as pilot:
        assert "o Override" not in stage.screen_text()
        await press(pilot, "o")
        assert "no run at work here" in stage.screen_text()
    assert services.asked("may adjust") == []


async def test_it_is_offered_on_decisions_too_which_tell_what_came_of_it() -> None:
    services, stage = live()
    done = services.outcome[0]
    async with stage.running(WIDE) as pilot:
        await press(pilot, "5")
        assert "o Override" in stage.screen_text()
        await press(pilot, "o")
        await fill(pilot, workers="2")
        await press(pilot, "enter", "y")
        services.views = [replace(v, adjustments=(done,)) for v in services.views]
        await press(pilot, "r")
        assert "3.2s from request to first step" in stage.screen_text()
    assert services.asked("adjust") == [Wish(workers=2, max_usd_per_h=0.1)]


async def test_decisions_of_a_run_that_is_over_offer_no_change() -> None:
    services, stage = live(state=RunState.DONE)
    async with stage.running() as pilot:
        await press(pilot, "5")
        assert "o Override" not in stage.screen_text()
        await press(pilot, "o")
        assert "no run at work here" in stage.screen_text()
    assert services.asked("may adjust") == []


async def test_the_key_stands_in_footer_help_and_palette() -> None:
    _, stage = live()
    async with stage.running() as pilot:
        assert "o Override" in stage.screen_text()
        await press(pilot, "question_mark")
        assert "Change it as it runs" in stage.screen_text()
        await press(pilot, "question_mark", "colon")
        await pilot.press(*"change it as")
        await pilot.pause(0.4)
        await press(pilot, "enter")
        assert "Override r-7f3k" in stage.screen_text()


async def test_it_can_be_drawn_with_ascii_alone() -> None:
    _, stage = live()
    stage.make(run_id="r-7f3k", ascii=True)
    async with stage.running() as pilot:
        await press(pilot, "o")
        await fill(pilot, workers="2")
        assert "Override r-7f3k" in stage.screen_text()
