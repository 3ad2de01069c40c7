"""From the job form to a finished run, with nothing but keys."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from support.fake_services import FakeServices, view
from support.tui import NARROW, RUN_TAKES_S, WIDE, Stage, press, settle, to_options, to_run

from planner.core.nextprobe import NextProbe
from planner.core.types import EstimateResult, RunState
from planner.services.api import EstimateRequest, LogLine

pytestmark = pytest.mark.asyncio


async def test_the_form_says_what_enter_will_do_and_cost(stage: Stage) -> None:
    async with stage.running():
        text = stage.screen_text()
    assert "python train.py --data" in text
    assert "enter  runs 3 probes: about" in text
    assert "at most $1.50" in text
    assert "no GPU found: jobs run on CPU slots" in text


async def test_a_person_with_a_keyboard_gets_from_job_to_history(stage: Stage) -> None:
    async with stage.running() as pilot:
        await press(pilot, "enter")
        assert stage.tab == "probes"
        assert stage.screen_text().count("✓ done") >= 3
        await press(pilot, "enter")
        assert stage.tab == "options"
        assert "P(≤2m50s)" in stage.screen_text()
        await press(pilot, "L")
        assert "Launch option 1?" in stage.screen_text()
        await press(pilot, "y")
        assert stage.tab == "runs"
        stage.clock.sleep(RUN_TAKES_S / 2)
        await press(pilot, "r")
        assert "● running  r-demo1" in stage.screen_text()
        stage.clock.sleep(RUN_TAKES_S)
        await press(pilot, "r")
        text = stage.screen_text()
        assert "✓ done" in text
        assert "✓ inside its 90 %" in text
        await press(pilot, "6")
        assert "r-demo1" in stage.screen_text()
        await press(pilot, "space", "space", "c")
        assert "A r-7f3k" in stage.screen_text()


async def test_number_keys_reach_all_six_tabs(stage: Stage) -> None:
    async with stage.running() as pilot:
        for number, tab in enumerate(
            ("job", "probes", "options", "runs", "decisions", "history"), 1
        ):
            await press(pilot, str(number))
            assert stage.tab == tab


async def test_the_probes_tab_says_what_one_more_probe_would_buy() -> None:
    class Advised(FakeServices):
        def estimate(self, request: EstimateRequest, *args: Any, **kwargs: Any) -> EstimateResult:
            made = super().estimate(request, *args, **kwargs)
            probe = NextProbe(
                option_id=made.options[0].id,
                reason="not_worth",
                time_s=40.0,
                cost_usd=0.003,
                saves_usd=0.001,
                p_change=0.08,
            )
            return replace(made, next_probe=probe)

    stage = Stage(Advised())
    async with stage.running(WIDE) as pilot:
        await press(pilot, "enter")
        text = " ".join(stage.screen_text().split())
    assert "Next probe: local:cpu" in text
    assert "not worth it." in text


async def test_kept_results_give_options_without_probes(stage: Stage) -> None:
    async with stage.running() as pilot:
        await press(pilot, "e", "enter")
        assert stage.tab == "options"
        assert stage.app.session.estimate is not None


async def test_the_cursor_explains_why_an_option_was_not_picked(stage: Stage) -> None:
    async with stage.running() as pilot:
        await to_options(pilot)
        assert "why 1" in stage.screen_text()
        await press(pilot, "down", "down")
        text = stage.screen_text()
        assert "why not" in text
        assert "52s faster and $0.0061 dearer than option 1" in text


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_why_opens_in_full_height_and_closes_again(
    stage: Stage, size: tuple[int, int]
) -> None:
    async with stage.running(size) as pilot:
        await to_options(pilot)
        before = stage.screen_text()
        assert "more lines" in before
        await press(pilot, "w")
        text = stage.screen_text()
        assert "more lines" not in text
        assert "why 1" in text
        await press(pilot, "w")
        assert stage.screen_text() == before


async def test_infeasible_options_are_hidden_until_asked_for(stage: Stage) -> None:
    async with stage.running(WIDE) as pilot:
        await to_options(pilot)
        text = stage.screen_text()
        assert "1 infeasible hidden" in text
        assert " late " not in text
        await press(pilot, "i", "end")
        text = stage.screen_text()
        assert " late " in text
        assert "asked for 0.90" in text


async def test_what_if_shows_another_pick_and_changes_nothing_until_enter(stage: Stage) -> None:
    async with stage.running() as pilot:
        await to_options(pilot)
        was = stage.app.session.goal
        await press(pilot, "x", "shift+left")
        assert "another pick" in stage.screen_text()
        assert stage.app.session.goal == was
        await press(pilot, "escape")
        assert stage.app.session.what_if is None
        await press(pilot, "x", "shift+left", "enter")
        deadline = stage.app.session.goal.deadline_s
        assert deadline is not None and was.deadline_s is not None
        assert deadline < was.deadline_s
        assert stage.app.session.estimate is not None
        assert stage.app.session.estimate.goal == stage.app.session.goal


async def test_marked_options_are_compared_side_by_side(stage: Stage) -> None:
    async with stage.running() as pilot:
        await to_options(pilot)
        await press(pilot, "space", "space", "c")
        text = stage.screen_text()
        assert "A option 1" in text
        assert "B option 2" in text
        assert not any(option.id in text for option in stage.app.session.estimate.options)
        assert "predicted time" in text
        assert "change" in text
        await press(pilot, "escape")
        assert "predicted time" not in stage.screen_text()


async def test_sorting_by_time_puts_the_fastest_first(stage: Stage) -> None:
    async with stage.running() as pilot:
        await to_options(pilot)
        await press(pilot, "s")
        estimate = stage.app.session.estimate
        assert estimate is not None
        fastest = min(estimate.options, key=lambda o: o.total_s.p50)
        table = stage.app.screen.query_one("#options")
        assert table.keys[0] == fastest.id  # type: ignore[attr-defined]
        await press(pilot, "S")
        assert table.keys[-1] == fastest.id  # type: ignore[attr-defined]


async def test_copying_puts_the_published_json_on_the_clipboard(stage: Stage) -> None:
    import json

    async with stage.running() as pilot:
        await to_options(pilot)
        await press(pilot, "y")
        document = json.loads(stage.app.clipboard)
    assert document["schema"].startswith("planner.estimate/")
    assert len(document["options"]) == 5


@pytest.mark.parametrize("tab", "12345")
async def test_where_there_is_nothing_to_copy_the_key_says_so(tab: str) -> None:
    services = FakeServices()
    services.summaries = ()
    stage = Stage(services)
    async with stage.running() as pilot:
        await press(pilot, tab, "y")
        assert "nothing to copy" in stage.screen_text()


async def test_a_run_can_be_paused_and_resumed(stage: Stage) -> None:
    async with stage.running() as pilot:
        await to_run(pilot)
        stage.clock.sleep(RUN_TAKES_S / 2)
        await press(pilot, "r", "p", "r")
        assert stage.services.view("r-demo1").summary.state is RunState.PAUSED
        assert "paused" in stage.screen_text()
        assert "p Resume" in stage.screen_text()
        await press(pilot, "p", "y")
        assert stage.services.view("r-demo1").summary.state is RunState.RUNNING


async def test_stopping_asks_and_the_first_answer_stops_nothing(stage: Stage) -> None:
    async with stage.running() as pilot:
        await to_run(pilot)
        stage.clock.sleep(RUN_TAKES_S / 2)
        await press(pilot, "r", "s")
        assert "Stop r-demo1?" in stage.screen_text()
        assert "cannot be resumed" in stage.screen_text()
        await press(pilot, "enter")
        assert stage.services.view("r-demo1").summary.state is RunState.RUNNING
        await press(pilot, "s", "s")
        assert stage.services.view("r-demo1").summary.state is RunState.RUNNING
        await press(pilot, "c")
        assert stage.services.view("r-demo1").summary.state is RunState.CANCELLED


async def test_extending_shows_was_and_will_be_asks_and_is_noted(stage: Stage) -> None:
    async with stage.running() as pilot:
        await to_run(pilot)
        stage.clock.sleep(RUN_TAKES_S / 2)
        await press(pilot, "r", "+")
        was = stage.services.view("r-demo1").plan.goal
        later = was.deadline_at + timedelta(minutes=30)
        await pilot.press(*"+30")
        await settle(pilot)
        assert "30 what?" in stage.screen_text()
        await pilot.press("m", "tab", *"+2.5")
        await settle(pilot)
        text = stage.screen_text()
        assert "$1.00 → $3.50" in text
        assert f"{was.deadline_at:%H:%M:%S} → {later:%H:%M:%S}" in text
        await press(pilot, "enter")
        assert "Extend r-demo1?" in stage.screen_text()
        assert "$1.00 → $3.50" in stage.screen_text()
        await press(pilot, "enter")  # Back has the focus
        assert stage.services.view("r-demo1").plan.goal == was
        await press(pilot, "+")
        await pilot.press(*"+30m", "tab", *"+2.5")
        await press(pilot, "enter", "y")
        decision = stage.services.view("r-demo1").decisions[-1]
        assert decision.action == "extend deadline +30m00s, cap +$2.50"
        stage.app.clear_notifications()
        await press(pilot, "5")
        assert "cap +$2.50" in stage.screen_text()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (("2", "0", "m"), "20m can mean 20m more, or 20m in all"),
        (("tab", "2"), "2 can mean 2 USD more, or 2 USD in all"),
        (("tab", "+", "0"), "no money"),
        (("+", "2"), "2 what?"),
    ],
)
async def test_an_extension_without_plus_or_unit_is_refused(
    stage: Stage, keys: tuple[str, ...], said: str
) -> None:
    async with stage.running() as pilot:
        await to_run(pilot)
        stage.clock.sleep(RUN_TAKES_S / 2)
        await press(pilot, "r", "+", *keys)
        assert said in stage.screen_text()
        await press(pilot, "enter", "enter")
        assert "Extend r-demo1?" not in stage.screen_text()


async def test_decisions_can_be_stepped_through(stage: Stage) -> None:
    async with stage.running() as pilot:
        await to_run(pilot)
        stage.clock.sleep(RUN_TAKES_S)
        await press(pilot, "5")
        text = stage.screen_text()
        assert "warn of the deadline" in text
        assert "P(on time)" in text
        assert "blocked: not asked for" in text


async def test_the_log_opens_filters_and_follows(stage: Stage) -> None:
    async with stage.running() as pilot:
        await to_run(pilot)
        stage.clock.sleep(RUN_TAKES_S)
        stage.app.clear_notifications()
        await press(pilot, "r", "l")
        text = stage.screen_text()
        assert "epoch 10/10" in text
        assert "following" in text
        await press(pilot, "slash")
        await pilot.press(*"checkpoint")
        await press(pilot, "enter")
        text = stage.screen_text()
        assert "epoch 10/10" not in text
        assert "checkpoint of step 60" in text
        await press(pilot, "escape")
        assert "epoch 10/10" in stage.screen_text()


async def test_a_long_log_is_there_to_its_end_without_waiting() -> None:
    services = FakeServices()
    services.page_lines = 100
    services.lines = tuple(
        LogLine(source="train", rank=0, text=f"line {number}") for number in range(1050)
    )
    stage = Stage(services)
    async with stage.running() as pilot:
        await press(pilot, "4", "l")
        await settle(pilot)
        assert "line 1049" in stage.screen_text()


async def test_leaving_while_a_run_goes_on_says_how_to_come_back() -> None:
    services = FakeServices()
    services.summaries = (view().summary, view(RunState.DONE).summary)
    stage = Stage(services)
    async with stage.running() as pilot:
        await press(pilot, "q")
    assert stage.app.farewell == ["r-7f3k (nightly) goes on; planner attach r-7f3k shows it again."]


async def test_leaving_the_demo_promises_nothing(stage: Stage) -> None:
    async with stage.running() as pilot:
        await to_run(pilot)
        await press(pilot, "q")
    assert stage.app.farewell == []


async def test_leaving_while_probes_run_asks_first() -> None:
    waits = threading.Event()

    class Slow(FakeServices):
        def estimate(self, *args: Any, **kwargs: Any) -> EstimateResult:
            waits.wait(20)
            return super().estimate(*args, **kwargs)

    stage = Stage(Slow())
    async with stage.running() as pilot:
        await pilot.press("enter", "q")
        await pilot.pause()
        assert "Leave while probes are running?" in stage.screen_text()
        await pilot.press("enter")
        await pilot.pause()
        assert stage.app.is_running
        assert "Leave while probes" not in stage.screen_text()
        assert not stage.app.session.board.stopping
        await pilot.press("q", "y")
        await pilot.pause()
        assert stage.app.session.board.stopping
        waits.set()


async def test_a_comparison_of_runs_opens_in_full_height_and_shows_all_of_it(
    stage: Stage,
) -> None:
    async with stage.running() as pilot:
        await press(pilot, "6", "space", "space", "c")
        text = stage.screen_text()
        assert "more lines" in text
        assert "c: in full height" in text
        await press(pilot, "c")
        text = stage.screen_text()
        assert "more lines" not in text
        assert "the same: the work" in text
        await press(pilot, "escape")
        text = stage.screen_text()
        assert "option, batch" in text
        assert "more lines" in text
        await press(pilot, "j")
        table = stage.app.screen.query_one("#history")
        assert stage.app.screen.focused is table


async def test_comparing_at_the_last_row_takes_the_one_above(stage: Stage) -> None:
    async with stage.running() as pilot:
        await press(pilot, "6", "end", "c")
        text = stage.screen_text()
        assert "A r-6c1a" in text
        assert "B r-7f3k" in text


async def test_a_footer_offers_only_what_does_something() -> None:
    services = FakeServices()
    services.summaries = ()
    stage = Stage(services)
    async with stage.running() as pilot:
        await press(pilot, "6")
        footer = stage.screen_text().splitlines()[-1]
        assert "Compare" not in footer
        assert "1 Job" in footer
    services.views = [view(RunState.PAUSED)]
    services.summaries = (view(RunState.PAUSED).summary,)
    stage = Stage(services)
    async with stage.running() as pilot:
        await press(pilot, "4")
        footer = stage.screen_text().splitlines()[-1]
        assert "p Resume" in footer
        assert "s Stop" in footer
        assert "Checkpoint" not in footer


async def test_history_filters_sorts_and_shows_calibration(stage: Stage) -> None:
    async with stage.running() as pilot:
        await press(pilot, "6")
        assert "! late" in stage.screen_text()
        await press(pilot, "g")
        assert "the 90 % interval of time held" in stage.screen_text()
        await press(pilot, "slash")
        await pilot.press(*"7f3")
        await press(pilot, "enter")
        text = stage.screen_text()
        assert "r-7f3k" in text
        assert "r-6c1a" not in text
        await press(pilot, "enter")
        assert stage.tab == "runs"
        text = stage.screen_text()
        assert "r-7f3k" in text
        assert "test accuracy 0.972" in text  # the end of its log, not the beginning


@pytest.mark.parametrize(("size", "told"), [(NARROW, "4 x t2p2"), (WIDE, "4 x cpu   t2p2")])
async def test_options_say_how_replicas_are_spread(size: tuple[int, int], told: str) -> None:
    services = FakeServices()
    first, *others = services.result.options
    knobs = replace(first.knobs, tensor_parallel=2, pipeline_parallel=2)
    spread = replace(first, knobs=knobs, resources=replace(first.resources, workers_per_node=4))
    services.result = replace(services.result, options=(spread, *others))
    stage = Stage(services)
    async with stage.running(size) as pilot:
        await press(pilot, "e", "3")
        assert told in stage.screen_text()
