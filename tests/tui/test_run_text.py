"""What the Runs screen says of a run in each state."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from support.fake_services import view
from support.planning import NOW

from planner.core.distribution import Distribution
from planner.core.job import Goal
from planner.core.plan import Decision
from planner.core.types import RunState
from planner.services.api import RunView, Series
from planner.tui.screens.decisions import observed, outcome_lines
from planner.tui.widgets.run_text import checkpoint_line, money_lines, progress_lines

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
    assert "goes on meanwhile" in text
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
    assert "nobody looks after it" in text
    assert "p resumes it" in text


def test_a_run_that_is_over_shows_the_mean_of_its_speed() -> None:
    seen = {"samples_per_s": Series(at_s=(1.0, 2.0), values=(100.0, 300.0))}
    over = view(RunState.DONE, samples_per_s=None, series=seen)
    assert "200 mean" in "\n".join(line.plain for line in progress_lines(over, 60))


def test_a_run_that_ended_without_checkpoint_does_not_wait_for_one() -> None:
    ended = checkpoint_line(view(RunState.CANCELLED, last_checkpoint_at=None)).plain
    assert ended.endswith("no checkpoint")
    assert checkpoint_line(view(last_checkpoint_at=None)).plain.endswith("no checkpoint yet")


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.PAUSED])
@pytest.mark.parametrize("eta", [None, Distribution.lognormal(300, 0.2)])
def test_money_and_time_fit_into_a_pane_of_35_cells(
    state: RunState, eta: Distribution | None
) -> None:
    shown = view(state, eta_s=eta, cost_at_end_usd=None if eta is None else eta, attempts=2)
    shown = replace(shown, plan=replace(shown.plan, goal=GOAL), p_deadline=0.97, p_budget=0.98)
    assert all(line.cell_length <= 35 for line in money_lines(shown, 35, 9))


def test_what_was_seen_is_told_in_its_unit() -> None:
    assert observed("usd_per_h", 0.05) == ("price", "$0.05/h")
    assert observed("spent_usd", 0.0231) == ("spent", "$0.0231")
    assert observed("loader_wait_fraction", 0.31) == ("loader wait", "31 %")


def test_of_what_a_person_asked_for_nothing_is_expected() -> None:
    asked = Decision(id="d1", at=NOW, action="extend", why="asked for", mode="manual")
    text = "\n".join(line.plain for line in outcome_lines(asked, 60))
    assert "asked for" in text
    assert "nothing was promised" not in text
