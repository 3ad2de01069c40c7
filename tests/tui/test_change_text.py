"""What the screens say of a change: what is expected, what is in force, what came of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.fake_services import FakeServices, view

from planner.core.adjust import Adjustment, Expectation, planned
from planner.core.types import RunState
from planner.core.units import format_money
from planner.services.adjusttext import in_force_parts, outcome_parts
from planner.services.api import RunView
from planner.tui.agreements import adjust_agreement
from planner.tui.screens.decisions import outcome_lines
from planner.tui.widgets.change_text import change_lines, expectation_lines
from planner.tui.widgets.run_text import progress_lines

EXPECTED = Expectation(
    what="loader workers 0 -> 4",
    how="in_flight",
    samples_per_s_before=41.0,
    usd_per_h_before=0.05,
    usd_per_h=0.05,
    peak_usd_per_h=0.05,
    stall_s=0.5,
    downtime_s=1.0,
)


def adjusted(**changes: Any) -> RunView:
    """A run in which something was changed."""
    shown = view(RunState.RUNNING)
    made = replace(FakeServices().outcome[0], **changes)
    return replace(shown, in_force=planned(shown.plan), crew=(0,), adjustments=(made,))


def test_a_run_that_was_not_changed_says_nothing_of_changes() -> None:
    shown = view(RunState.RUNNING)
    assert change_lines(replace(shown, in_force=planned(shown.plan)), 38, 9) == []


@pytest.mark.parametrize(("width", "height"), [(38, 9), (58, 13)])
def test_changes_fit_into_the_pane_and_tell_what_counts(width: int, height: int) -> None:
    lines = change_lines(adjusted(downtime_s=65.0, redone_samples=640), width, height)
    text = "\n".join(line.plain for line in lines)
    assert all(line.cell_length <= width for line in lines)
    assert len(lines) <= height - 4
    for words in ("in force  1 worker", "stall 0.08 s", "downtime 1m05s", "0 lost, 640 again"):
        assert words in text


def test_low_memory_and_lost_workers_are_told() -> None:
    shown = adjusted(reason="lost", what="went on without worker 1", downtime_s=None)
    assert shown.in_force is not None
    shown = replace(shown, in_force=replace(shown.in_force, memory="low"))
    text = "\n".join(line.plain for line in change_lines(shown, 38, 9))
    assert "memory low" in text
    assert "went on without worker 1" in text


def test_a_roomy_pane_tells_of_the_last_two_changes() -> None:
    shown = adjusted()
    waiting = Adjustment(id=None, command="c2", what="memory normal -> low", state="waiting")
    shown = replace(shown, adjustments=(*shown.adjustments, waiting))
    text = "\n".join(line.plain for line in change_lines(shown, 58, 13))
    assert "workers 1 -> 2  ✓ done" in text
    assert "memory normal -> low  · asked for" in text
    assert "workers" not in "\n".join(x.plain for x in change_lines(shown, 38, 9)[1:])


def test_a_relaunch_says_why_and_long_texts_are_wrapped() -> None:
    expected = replace(
        EXPECTED,
        how="relaunch",
        why="the script cannot change workers in flight",
        notes=("so " * 40,),
    )
    lines = expectation_lines(expected, 66)
    assert "by relaunch: the script cannot change" in lines[0].plain
    assert "in flight" in lines[1].plain
    assert all(line.cell_length <= 66 for line in lines)


def test_decisions_tell_what_was_expected_and_measured_of_a_change() -> None:
    decision = replace(
        view(RunState.RUNNING).decisions[0],
        mode="manual",
        action="adjust: workers 1 -> 2",
        expected="41 -> 78 samples/s (guess)",
    )
    text = "\n".join(line.plain for line in outcome_lines(decision, 60))
    assert "41 -> 78 samples/s (guess)" in text
    assert "not measured yet" in text


def test_long_names_of_changes_are_not_cut() -> None:
    shown = adjusted(what="workers 2 -> 1, micro-batch 64 -> 16", state="going_on", text=None)
    text = "\n".join(line.plain for line in change_lines(shown, 38, 9))
    for words in ("workers 2 -> 1", "micro-batch 64 -> 16", "under way"):
        assert words in text


def test_a_changed_run_is_not_held_against_the_plan_of_the_one_it_was() -> None:
    text = "\n".join(line.plain for line in progress_lines(view(adjusted=True), 38))
    assert "16" in text
    assert "plan" not in text


def test_an_expensive_change_without_a_cap_counts_what_is_left_as_dearer() -> None:
    shown = view(RunState.RUNNING, budget_usd=None)
    expected = replace(FakeServices().expectation, dearer=True)
    agreement = adjust_agreement(shown, expected)
    assert agreement.worst_usd == pytest.approx(2 * shown.rest.worst_usd)
    assert expected.left_s is not None
    more = format_money(expected.left_s / 3600 * expected.usd_per_h)
    assert f"about {more} more" in " ".join(line.plain for line in agreement.lines)
    assert not agreement.capped
    assert all(line.cell_length <= 66 for line in agreement.lines)


def test_both_places_of_a_move_are_told_with_their_price() -> None:
    expected = replace(EXPECTED, usd_per_h=0.1, peak_usd_per_h=0.15)
    text = "\n".join(line.plain for line in expectation_lines(expected, 66))
    assert "$0.15/h: both are held" in text
    assert "nothing tells what it will be" in text


def test_what_is_in_force_names_workers_that_took_over() -> None:
    shown = replace(adjusted(), crew=(2,))
    assert in_force_parts(shown)[0] == "1 worker (number 2)"


def test_what_came_of_a_change_is_not_said_twice() -> None:
    done = FakeServices().outcome[0]
    refused = replace(done, state="refused", text="refused: the cap is near")
    assert outcome_parts(refused) == ("refused: the cap is near",)
    assert outcome_parts(replace(done, state="waiting", text=None)) == ("waiting",)
