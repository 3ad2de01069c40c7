"""What a person may type for a duration, a deadline, money and a size, and what is shown back."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core import units
from planner.core.errors import ExitCode, UnitError

NOW = datetime(2026, 11, 21, 11, 40, tzinfo=UTC)


# ---- durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6h", 21600),
        ("1h30m", 5400),
        ("90m", 5400),
        ("2d", 172800),
        ("1:30:00", 5400),
        ("PT6H", 21600),
        ("P1DT2H", 93600),
        ("PT1H30M", 5400),
        ("pt0.5s", 0.5),
        ("P2W", 1209600),
        ("1.5h", 5400),
        ("10 minutes", 600),
        ("  6h  ", 21600),
        ("+2h", 7200),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert units.parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["30", "30.5", "+30"])
def test_a_bare_number_is_asked_for_its_unit(text: str) -> None:
    with pytest.raises(UnitError) as caught:
        units.parse_duration_s(text)
    assert caught.value.text.startswith(f"{text.lstrip('+')} what?")
    assert caught.value.hint == f"write {text}m or {text}s"
    assert caught.value.exit_code is ExitCode.USAGE


def test_nothing_without_a_unit_is_not_asked_to_be_nothing_with_one() -> None:
    with pytest.raises(UnitError) as caught:
        units.parse_duration_s("0")
    assert caught.value.hint == "write for example 6h or 90m"


@pytest.mark.parametrize(
    "text",
    ["", "   ", "-5m", "-1:30:00", "0s", "0h0m", "PT0S", "P", "PT", "P1Y", "h", "abc", "6x",
     "1h30", "6h;rm", "nan", "inf", "9" * 30 + "d", "P99999999999999D"],
)  # fmt: skip
def test_what_is_no_positive_duration_is_refused_with_advice(text: str) -> None:
    with pytest.raises(UnitError) as caught:
        units.parse_duration_s(text)
    assert caught.value.text
    assert caught.value.hint


def test_hours_and_minutes_are_not_confused_with_minutes_and_seconds() -> None:
    with pytest.raises(UnitError) as caught:
        units.parse_duration_s("5:18")
    assert caught.value.hint == "write 5h18m or 5m18s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.000s"),
        (0.085, "0.085s"),
        (4.25, "4.2s"),
        (42, "42s"),
        (59.6, "1m00s"),
        (318, "5m18s"),
        (3599.7, "1h00m"),
        (19080, "5h18m"),
        (14040, "3h54m"),
        (86399, "1d00h"),
        (183600, "2d03h"),
        (-5, "-5.0s"),
        (math.inf, "never"),
        (math.nan, "unknown"),
    ],
)
def test_a_duration_is_shown_with_two_units_at_most(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text


@given(st.floats(min_value=0.001, max_value=3e9, allow_nan=False))
def test_a_shown_duration_reads_back_as_near_as_it_was_shown(seconds: float) -> None:
    shown = units.format_duration(seconds)
    back = units.parse_duration_s(shown)
    assert units.format_duration(back) == shown
    steps = [(1, 0.001), (10, 0.1), (3600, 1), (86400, 60), (math.inf, 3600)]
    resolution = next(step for limit, step in steps if seconds < limit)
    assert abs(back - seconds) <= resolution / 2 * 1.001


@given(st.text(max_size=30))
def test_any_text_is_a_duration_or_a_unit_error(text: str) -> None:
    try:
        seconds = units.parse_duration_s(text)
    except UnitError:
        return
    assert 0 < seconds < 4e9


# ---- deadlines


def test_a_deadline_may_be_a_duration() -> None:
    assert units.parse_deadline("6h", NOW) == (21600, NOW + timedelta(hours=6))


def test_with_seconds_it_is_a_duration() -> None:
    assert units.parse_deadline("1:30:00", NOW)[0] == 5400


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("17:40", "2026-11-21T17:40+00:00"),
        ("11:41", "2026-11-21T11:41+00:00"),
        ("11:40", "2026-11-22T11:40+00:00"),
        ("08:00", "2026-11-22T08:00+00:00"),
        ("17:40Z", "2026-11-21T17:40+00:00"),
        ("17:40 utc", "2026-11-21T17:40+00:00"),
        ("17:40+01:00", "2026-11-21T16:40+00:00"),
        ("2026-11-22T08:00Z", "2026-11-22T08:00+00:00"),
        ("2026-11-22 08:00:30+0200", "2026-11-22T06:00:30+00:00"),
    ],
)
def test_a_deadline_may_be_a_time(text: str, at: str) -> None:
    seconds, deadline = units.parse_deadline(text, NOW, zone=UTC)
    assert deadline == datetime.fromisoformat(at)
    assert deadline.tzinfo is UTC
    assert seconds == (deadline - NOW).total_seconds()


def test_a_clock_time_is_in_the_zone_of_the_person() -> None:
    tokyo = timezone(timedelta(hours=9))
    _, deadline = units.parse_deadline("21:00", NOW, zone=tokyo)
    assert deadline == datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def test_a_clock_time_follows_a_change_of_the_clocks() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    saturday = datetime(2026, 10, 24, 20, 0, tzinfo=UTC)
    _, deadline = units.parse_deadline("09:00", saturday, zone=berlin)
    assert deadline == datetime(2026, 10, 25, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2026-11-21T11:40Z", "2020-01-01T00:00Z"])
def test_a_deadline_in_the_past_is_refused(text: str) -> None:
    with pytest.raises(UnitError, match="in the past"):
        units.parse_deadline(text, NOW)


@pytest.mark.parametrize(
    "text",
    ["", "30", "-6h", "25:00", "17:99", "2026-11-22", "2026-11-22T08:00", "2026-13-01T00:00Z",
     "2026-11-22Tlater", "tomorrow", "9999-01-01T00:00Z", "0h"],
)  # fmt: skip
def test_what_is_no_deadline_is_refused(text: str) -> None:
    with pytest.raises(UnitError) as caught:
        units.parse_deadline(text, NOW, zone=UTC)
    assert caught.value.text


@given(st.text(max_size=30))
def test_any_text_is_a_later_time_or_a_unit_error(text: str) -> None:
    try:
        seconds, at = units.parse_deadline(text, NOW)
    except UnitError:
        return
    assert seconds > 0
    assert at > NOW


# ---- money


@pytest.mark.parametrize(
    ("value", "usd"),
    [("40", 40), ("$40", 40), ("40.50", 40.5), ("$ 40", 40), ("40 USD", 40), ("+10", 10),
     (40, 40), (1.5, 1.5), ("0.000001", 0.000001)],
)  # fmt: skip
def test_money_is_read(value: str | float, usd: float) -> None:
    assert units.parse_money_usd(value) == usd


@pytest.mark.parametrize(
    "value",
    ["", " ", "0", "0.00", "-1", "$-1", "-$1", "abc", "€40", "1,000", "1_000", "nan", "inf",
     "1e99", "0.0000001", 0, 0.0, -1, -0.5, math.nan, math.inf, True, "40$", "$"],
)  # fmt: skip
def test_what_is_no_cap_is_refused(value: str | float) -> None:
    with pytest.raises(UnitError):
        units.parse_money_usd(value)


def test_a_price_may_be_zero_but_not_negative() -> None:
    assert units.parse_money_usd("0", allow_zero=True) == 0
    assert units.parse_money_usd(0.0, allow_zero=True) == 0
    with pytest.raises(UnitError):
        units.parse_money_usd(-0.01, allow_zero=True)


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (13.8, "$13.80"),
        (0.1, "$0.10"),
        (0.09, "$0.0900"),
        (0.0231, "$0.0231"),
        (0, "$0.00"),
        (0.00001, "<$0.0001"),
        (-2.5, "-$2.50"),
        (math.nan, "unknown"),
    ],
)
def test_money_is_shown_with_two_decimals_and_four_under_ten_cents(usd: float, text: str) -> None:
    assert units.format_money(usd) == text


@given(st.integers(min_value=1, max_value=10**10))
def test_shown_money_reads_back(cents: int) -> None:
    assert units.to_microusd(units.parse_money_usd(units.format_money(cents / 100))) == (
        cents * 10_000
    )


def test_money_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(UnitError):
        units.to_microusd(math.nan)


# ---- sizes


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (512, "512 B"), (1500, "1.5 kB"), (97_000_000, "97.0 MB"), (999_999, "1.0 MB"),
     (18_200_000_000, "18.2 GB"), (181_000_000_000, "181 GB"), (2.5e15, "2.5 PB")],
)  # fmt: skip
def test_a_size_is_shown_in_decimal_units(size: int, text: str) -> None:
    assert units.format_bytes(size) == text


def test_importing_the_units_is_light() -> None:
    code = "import sys, planner.core.units; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"pytimeparse", "pydantic", "numpy"} & set(loaded.stdout.split())
