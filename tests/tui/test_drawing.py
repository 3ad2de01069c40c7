"""Bars, charts, numbers and the ASCII filter, without an app."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from support.fake_services import FakeServices, view
from support.planning import NOW
from support.recorded import sample_estimate
from support.tui import NARROW, WIDE, Stage, press, to_run

from planner.core.distribution import Distribution
from planner.core.job import Goal
from planner.core.types import RunState
from planner.core.units import format_chance
from planner.services.api import Check, CheckState, RunSummary
from planner.tui.ascii import to_ascii
from planner.tui.screens.history import COLUMNS, run_cells
from planner.tui.text import (
    count,
    fit,
    money_interval,
    rate,
    short_duration,
    time_interval,
)
from planner.tui.widgets.bars import SPARK_LEVELS, Scale, interval, progress, resample, spark
from planner.tui.widgets.front_chart import front_lines, strip_lines
from planner.tui.widgets.job_text import check_lines
from planner.tui.widgets.option_text import columns as option_columns
from planner.tui.widgets.table import LEAST_REST, fit_columns


@given(st.text())
def test_ascii_is_printable_and_as_wide_as_before(text: str) -> None:
    plain = to_ascii(text)
    assert plain.isascii()
    if not any(ord(c) < 32 or ord(c) == 127 for c in text):
        assert len(plain) == cell_len(text) or text.isascii()


def test_box_and_block_characters_have_lookalikes() -> None:
    assert to_ascii("╭─┤ ━━── ▁▃▅▇ ●○ → ≤ …") == "+-+ ==-- _+*# *o > < ."


@given(st.floats(0, 1), st.integers(1, 80))
def test_a_bar_is_as_wide_as_it_was_asked_for(fraction: float, width: int) -> None:
    bar = progress(fraction, width).plain
    assert len(bar) == width
    assert bar.count("━") == round(fraction * width)


def test_the_height_of_a_spark_is_the_peak_of_its_cell() -> None:
    values = [0.0, 1.0, 0.0, 0.0]
    assert resample([0, 1, 2, 3], values, 2) == [(1.0, 0.5), (0.0, 0.0)]
    assert spark([0, 1, 2, 3], values, 2, low=0, high=1).plain == "▇▁"


def test_a_young_run_fills_its_spark_from_the_left() -> None:
    drawn = spark([0, 1], [0.0, 1.0], 6).plain
    assert drawn == f"{SPARK_LEVELS[0]}{SPARK_LEVELS[-1]}    "


def test_an_interval_bar_stands_where_its_scale_says() -> None:
    scale = Scale(0, 100, 101)
    bar = interval(scale, 10, 20, 40, limit=70).plain
    assert (bar.index("├"), bar.index("●"), bar.index("┤"), bar.index("┊")) == (10, 20, 40, 70)


def test_the_deadline_stands_in_the_strip_only_when_it_is_near() -> None:
    estimate = sample_estimate()
    near = strip_lines(estimate.options, Goal(deadline_s=170), None, 70, 6)
    assert "deadline 2m50s" in near[-1].plain
    where = near[0].plain.index("┊")
    assert all(line.plain[where] in "┊┼├●┤" for line in near[:-1])
    far = strip_lines(estimate.options, Goal(deadline_s=86400), None, 70, 6)
    assert "deadline 1d is far off" in far[-1].plain
    assert not any("┊" in line.plain for line in far)


@pytest.mark.parametrize(("width", "height"), [(70, 11), (110, 20), (40, 7)])
def test_the_front_draws_slower_options_above_faster_ones(width: int, height: int) -> None:
    estimate = sample_estimate()
    lines = front_lines(estimate.options, estimate.goal, None, width, height)
    assert all(line.cell_length <= width for line in lines)
    drawn = [line.plain for line in lines if "├" in line.plain]
    by_rank = {str(option.rank): option.total_s.p50 for option in estimate.options}
    times = [by_rank[line.rpartition("┤")[2].strip()[0]] for line in drawn]
    assert len(times) >= 3
    assert all(above >= below for above, below in pairwise(times))


def test_numbers_have_one_form() -> None:
    assert [format_chance(p) for p in (0.0, 0.5, 1.0, None)] == ["<0.01", "0.50", ">0.99", "-"]
    assert [count(n) for n in (62408, 9.5, 0.0)] == ["62 408", "9.50", "0"]
    assert [rate(r) for r in (0.05, 0.5, 2.61, 0.1234)] == [
        "$0.05/h",
        "$0.50/h",
        "$2.61/h",
        "$0.1234/h",
    ]
    assert [short_duration(s) for s in (600, 5400, 3600, 90)] == ["10m", "1h30m", "1h", "1m30s"]
    assert fit("abcdef", 4) == "abc…"
    known = Distribution.exactly(318.0)
    assert time_interval(known).strip() == "5m18s [5m18s-5m18s]"
    assert money_interval(Distribution.exactly(0.0231)).strip() == "$0.0231 [0.0231-0.0231]"
    assert money_interval(Distribution.exactly(0.0)) == "$0.00"


def runs_of_all_sizes() -> list[RunSummary]:
    """Runs whose words are as long as they get."""
    long = Distribution.lognormal(12 * 3600.0, 0.6)
    common = {"predicted_total_s": long, "predicted_cost_usd": Distribution.lognormal(1234, 0.1)}
    return [
        view(
            RunState.DONE, id="r-a001", name="resnet50-imagefolder", total_s=47000.0, **common
        ).summary,
        view(RunState.STOPPED_BY_CAP, id="r-a002", spent_usd=1234.5, **common).summary,
        view(
            RunState.INTERRUPTED, id="r-a003", option_text="4 x A10G local, micro-batch 256"
        ).summary,
        view(created_at=NOW - timedelta(days=40)).summary,
    ]


@pytest.mark.parametrize(
    ("width", "left_out"), [(77, ["range", "cost_planned"]), (117, []), (200, [])]
)
def test_history_has_columns_that_hold_their_words_and_leaves_out_the_rest(
    width: int, left_out: list[str]
) -> None:
    rows = [run_cells(run, NOW) for run in runs_of_all_sizes()]
    columns = fit_columns(COLUMNS, rows, width)
    hidden = [column.key for column in columns if column.hidden]
    assert set(left_out) <= set(hidden)
    assert {"id", "option", "planned", "real", "cost", "ok"}.isdisjoint(hidden)
    for index, column in enumerate(columns):
        if column.hidden or column.width == 0:
            continue
        assert all(len(str(row[index])) <= column.width for row in rows), column.key
    used = sum(c.width or LEAST_REST for c in columns if not c.hidden)
    assert used + sum(not c.hidden for c in columns) - 1 <= width - 2


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_history_cuts_no_word_of_a_run(size: tuple[int, int]) -> None:
    services = FakeServices()
    services.summaries = tuple(runs_of_all_sizes())
    stage = Stage(services)
    async with stage.running(size) as pilot:
        await press(pilot, "6")
        table = stage.screen_text().split("compare")[0]
    for word in ("r-a001", "r-7f3k", "13h03m", "12h00m", "$1234.50", "interrupted", "cap", "✓ yes"):
        assert word in table
    assert ("resnet50-imagefolder" in table) == (size == WIDE)
    assert ("[4h28m-1d08h]" in table) == (size == WIDE)
    assert "…" not in table or size == NARROW


LONG_CHECKS = tuple(
    Check(id=f"c{n}", state="ok", text=f"check {n}" + " with many words" * 4) for n in range(6)
)
SHORT_CHECKS = tuple(Check(id=f"c{n}", state="ok", text=f"check {n}") for n in range(6))


def test_checks_are_wrapped_where_there_is_room_and_counted_where_there_is_none() -> None:
    wrapped = [line.plain for line in check_lines(LONG_CHECKS, 45, 12)]
    assert len(wrapped) == 12
    assert all(line.startswith("     with many words") for line in wrapped[1::2])
    assert all(
        line.endswith("…") for line in [p.plain for p in check_lines(LONG_CHECKS, 30, 12)][1::2]
    )
    assert [line.plain for line in check_lines(LONG_CHECKS, 76, 3)][1:] == [
        "ok   check 1 " + ("with many words " * 4).strip(),
        "… 4 more: planner doctor lists all",
    ]
    two = [line.plain.split() for line in check_lines(SHORT_CHECKS, 76, 3)]
    assert two[0] == ["ok", "check", "0", "ok", "check", "3"]
    bad = Check(id="bad", state="fail", text="it is broken", fix="mend it")
    assert "mend it" in check_lines((*LONG_CHECKS, bad), 76, 3)[0].plain


@pytest.mark.parametrize(
    ("height", "shown", "more"),
    [
        (7, [0, 1], "… 6 more (3 fail, 1 warn): planner doctor lists all"),
        (6, [0], "… 7 more (4 fail, 1 warn): planner doctor lists all"),
        (13, [0, 1, 2, 3], "… 4 more (1 fail, 1 warn): planner doctor lists all"),
        (1, [], "… 8 more (5 fail, 1 warn): planner doctor lists all"),
        (2, [0], "… 7 more (4 fail, 1 warn): planner doctor lists all"),
    ],
)
def test_trouble_that_does_not_fit_is_counted_by_whole_checks(
    height: int, shown: list[int], more: str
) -> None:
    fix = "make room on the disk, or choose another place with --state-dir"
    states: list[CheckState] = ["fail", "fail", "fail", "fail", "fail", "warn", "ok", "ok"]
    checks = [Check(id=f"c{i}", state=s, text=f"check{i}", fix=fix) for i, s in enumerate(states)]
    lines = [line.plain for line in check_lines(checks, 30, height)]
    assert len(lines) <= height
    assert [i for i in range(8) if any(f"check{i}" in line for line in lines)] == shown
    assert lines[-1] == more


def test_the_chance_of_a_deadline_is_headed_by_when_it_ends() -> None:
    def heading(goal: Goal) -> str:
        return next(c.label for c in option_columns(goal) if c.key == "p_time")

    at = datetime(2026, 1, 5, 7, 18, tzinfo=UTC)
    assert heading(Goal(deadline_s=526.0, deadline_at=at)) == "P(≤07:18)"
    assert heading(Goal(deadline_s=600.0)) == "P(≤10m)"
    assert heading(Goal(deadline_s=3 * 86400.0, deadline_at=at)) == "P(≤3d)"


@pytest.mark.asyncio
@pytest.mark.parametrize("keys", ["1", "2", "3", "4", "5", "6", "?", "ctrl+o", "ctrl+p"])
async def test_with_ascii_no_cell_of_any_screen_is_anything_else(keys: str) -> None:
    stage = Stage()
    stage.make(ascii=True)
    async with stage.running(WIDE) as pilot:
        await to_run(pilot)
        stage.clock.sleep(40)
        await press(pilot, keys)
        assert stage.screen_text().isascii()
