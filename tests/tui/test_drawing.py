"""Bars, charts, numbers and the ASCII filter, without an app."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from support.recorded import sample_estimate
from support.tui import WIDE, Stage, press, to_run

from planner.core.distribution import Distribution
from planner.core.types import Goal
from planner.tui.ascii import to_ascii
from planner.tui.text import (
    count,
    fit,
    money_interval,
    probability,
    rate,
    short_duration,
    time_interval,
)
from planner.tui.widgets.bars import SPARK_LEVELS, Scale, interval, progress, resample, spark
from planner.tui.widgets.front_chart import front_lines, strip_lines


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
    assert [probability(p) for p in (0.0, 0.5, 1.0, None)] == ["<0.01", "0.50", ">0.99", "-"]
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
