"""Goal fields: what can be read is taken over, what cannot is said and changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.fake_services import FakeServices
from support.recorded import JOB
from support.tui import NARROW, WIDE, Stage, press, settle
from textual.pilot import Pilot

from planner.core.job import AdjustPolicy, LanguageModel
from planner.services.api import EstimateRequest

pytestmark = pytest.mark.asyncio


async def fill(pilot: Pilot[None], name: str, text: str) -> None:
    """Replace what stands in a field."""
    field = pilot.app.screen.query_one(f"#{name}")
    field.focus()
    field.value = ""  # type: ignore[attr-defined]
    await settle(pilot)
    await pilot.press(*text)
    await settle(pilot)


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("deadline", "30", "30 what?"),
        ("deadline", "-5m", "negative"),
        ("budget", "-3", "negative amount"),
        ("budget", "0", "no money"),
        ("budget", "ten", "not an amount"),
    ],
)
async def test_bad_values_are_said_beside_the_field_and_change_nothing(
    stage: Stage, field: str, text: str, said: str
) -> None:
    async with stage.running() as pilot:
        was = stage.app.session.goal
        await fill(pilot, field, "")
        empty = stage.app.session.goal
        assert empty != was
        await fill(pilot, field, text)
        shown = " ".join(stage.screen_text().split())
        assert "! " in shown
        assert said.split(maxsplit=1)[0] in shown
        assert "not taken" in shown
        taken = stage.app.session.goal
        # Each beginning of the text that could be read was taken, the text itself was not.
        assert getattr(taken, "deadline_s" if field == "deadline" else "budget_usd") != -3


async def test_probing_waits_until_the_field_is_right() -> None:
    services = FakeServices()
    stage = Stage(services)
    async with stage.running() as pilot:
        await fill(pilot, "deadline", "x")
        await press(pilot, "enter")
        stage.app.screen.query_one("#form").focus()
        await press(pilot, "enter")
        assert stage.tab == "job"
        assert services.asked("estimate") == []
        await press(pilot, "escape", "enter")
        assert stage.tab == "probes"
        assert len(services.asked("estimate")) == 1


async def test_the_key_bar_says_what_enter_does_here(stage: Stage) -> None:
    async with stage.running() as pilot:
        assert "enter Probe" in stage.screen_text()
        stage.app.screen.query_one("#deadline").focus()
        await pilot.pause()
        assert "enter Next field" in stage.screen_text()
        stage.app.screen.query_one("#form").focus()
        await pilot.pause()
        assert "enter Probe" in stage.screen_text()


async def test_a_deadline_is_shown_as_the_time_it_ends(stage: Stage) -> None:
    async with stage.running() as pilot:
        await fill(pilot, "deadline", "6h")
        assert "→ 17:30" in stage.screen_text()
        assert stage.app.session.goal.deadline_s == 6 * 3600


async def test_what_the_form_says_is_what_the_estimate_is_asked_for() -> None:
    services = FakeServices()
    stage = Stage(services)
    async with stage.running() as pilot:
        await fill(pilot, "deadline", "2h")
        await fill(pilot, "budget", "12.5")
        stage.app.screen.query_one("#confidence").focus()
        await press(pilot, "right")
        stage.app.screen.query_one("#prefer").focus()
        await press(pilot, "right")
        await press(pilot, "escape", "enter")
    (request,) = services.asked("estimate")
    assert isinstance(request, EstimateRequest)
    goal = request.goal
    assert (goal.deadline_s, goal.budget_usd, goal.confidence, goal.prefer) == (
        7200.0,
        12.5,
        0.95,
        "time",
    )


@pytest.mark.parametrize("size", [NARROW, WIDE])
@pytest.mark.parametrize("ask", [(), ("nodes",)])
async def test_what_may_be_turned_is_told_in_full(
    size: tuple[int, int], ask: tuple[str, ...]
) -> None:
    stage = Stage(job=replace(JOB, adjust=AdjustPolicy(ask=ask)))
    async with stage.running(size) as pilot:
        await settle(pilot)
        text = stage.screen_text()
    for name in (*AdjustPolicy().allow, *ask, "global_batch"):
        assert name.replace("_", " ") in text
    for label in ("may turn", "never", "retries", "price", "contract"):
        assert label in text
    assert "…" not in text.split("checks")[0]


async def test_tab_keys_are_text_while_one_types(stage: Stage) -> None:
    async with stage.running() as pilot:
        await fill(pilot, "budget", "3")
        assert stage.tab == "job"
        await press(pilot, "escape", "3")
        assert stage.tab == "options"


async def test_another_goal_scores_the_estimate_again(stage: Stage) -> None:
    async with stage.running() as pilot:
        await press(pilot, "e", "1")
        estimate = stage.app.session.estimate
        assert estimate is not None
        pick = estimate.recommendation.option_id
        await fill(pilot, "deadline", "2m")
        await press(pilot, "escape")
        estimate = stage.app.session.estimate
        assert estimate is not None
        assert estimate.goal.deadline_s == 120
        assert estimate.recommendation.option_id != pick


async def test_without_a_job_the_form_says_how_to_make_one() -> None:
    stage = Stage(FakeServices(), job=None)
    async with stage.running() as pilot:
        assert "planner init --" in stage.screen_text()
        await press(pilot, "enter", "e")
        assert stage.tab == "job"


async def test_a_language_model_is_told_with_the_ways_to_spread_it() -> None:
    model = LanguageModel(hidden=64, layers=2, heads=4, sequence=128, vocabulary=256)
    stage = Stage(FakeServices(), job=replace(JOB, model=model, tensor_parallel=(1, 2)))
    async with stage.running(WIDE):
        assert "2 layers of 64, 128 tokens  tensor 1|2" in stage.screen_text()
