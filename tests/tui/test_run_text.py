"""What the Runs screen says of a run in each state."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from support.fake_services import view
from support.planning import NOW

from planner.core.distribution import Distribution
from planner.core.types import Goal, RunState
from planner.services.api import RunView
from planner.tui.widgets.run_text import money_lines

GOAL = Goal(deadline_s=600.0, deadline_at=NOW + timedelta(seconds=600), budget_usd=1.0)


def said(shown: RunView) -> str:
    """The pane of money and time, with a deadline and what was last told of its chances."""

    shown = replace(shown, plan=replace(shown.plan, goal=GOAL), p_deadline=0.97, p_budget=0.98)
    return "\n".join(line.plain for line in money_lines(shown, 60, 20))


def test_a_run_that_gets_on_shows_its_chances() -> None:
    text = said(view())
    assert "P(on time) 0.97" in text
    assert "P(≤cap) 0.98" in text


@pytest.mark.parametrize("state", [s for s in RunState if s is not RunState.RUNNING])
def test_a_run_that_does_not_get_on_shows_no_chances(state: RunState) -> None:
    text = said(view(state))
    assert "P(on time)" not in text
    assert "P(≤cap)" not in text


def test_a_paused_run_says_that_its_deadline_goes_on() -> None:
    text = said(view(RunState.PAUSED))
    assert "a pause does not stop it" in text
    assert "p resumes it" in text


@pytest.mark.parametrize(
    ("left_s", "words"),
    [(0.0, "any moment now"), (0.2, "any moment now"), (40.0, "in 40s"), (440.0, "in 7m20s")],
)
def test_no_time_left_is_said_in_words(left_s: float, words: str) -> None:
    eta = Distribution.exactly(left_s) if left_s < 1 else Distribution.lognormal(left_s, 0.01)
    text = said(view(eta_s=eta))
    assert words in text
    assert "0.000s" not in text


def test_the_end_of_a_run_that_may_be_over_at_once_is_told_by_its_latest_time() -> None:
    eta = Distribution(quantiles=tuple(0.2 * i for i in range(21)), evidence="probe")
    assert "in 2s [0s-4s]" in said(view(eta_s=eta))
    eta = Distribution(quantiles=(*[0.0] * 18, 1.0, 2.0, 3.0), evidence="probe")
    assert "within 2s" in said(view(eta_s=eta))


def test_a_run_without_its_supervisor_says_so() -> None:
    text = said(view(supervisor_alive=False, eta_s=None))
    assert "nobody looks after this run" in text
    assert "p resumes it" in text
