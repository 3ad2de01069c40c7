"""Durations, deadlines, money and sizes: what a person types, and what a person is shown.

Nothing is guessed: a number without a unit, a sign, an empty text and anything that can be read in
two ways are refused with an example of what to write. Printed durations and amounts read back.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal, InvalidOperation

from planner.core.errors import UnitError

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86400
_LONGEST_S = 100 * 365 * DAY_S  # beyond it a typing mistake is likelier than a wish
_MOST_USD = Decimal(10) ** 9
_MICRO = 1_000_000

_NUMBER = re.compile(r"\+?\d+(\.\d*)?|\+?\.\d+")
_TWO_PARTS = re.compile(r"(\d{1,2}):(\d{2})")
_ISO_DURATION = re.compile(
    r"P(?=.)(?:(?P<weeks>\d+(?:\.\d+)?)W)?(?:(?P<days>\d+(?:\.\d+)?)D)?"
    r"(?:T(?=.)(?:(?P<hours>\d+(?:\.\d+)?)H)?(?:(?P<minutes>\d+(?:\.\d+)?)M)?"
    r"(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?",
    re.IGNORECASE,
)
# With seconds it is a duration, 1:30:00.
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})\s*(Z|UTC|[+-]\d{2}:?\d{2})?", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


# ---- durations -------------------------------------------------------------------------------


def parse_duration_s(text: str) -> float:
    """Seconds of a duration: `6h`, `1h30m`, `90m`, `2d`, `1:30:00` or ISO 8601 (`PT6H`).

    Raises:
        UnitError: Empty, negative, zero, without a unit, or not a duration.
    """
    raw = _text(text, "duration", "write for example 6h, 1h30m or 90m")
    if _NUMBER.fullmatch(raw):
        number = raw.lstrip("+")
        raise UnitError(
            f"{number} what? A duration needs a unit",
            hint=f"write {raw}m or {raw}s" if float(number) > 0 else "write for example 6h or 90m",
        )
    if two := _TWO_PARTS.fullmatch(raw):
        first, second = two.groups()
        raise UnitError(
            f'"{raw}" can be hours and minutes, or minutes and seconds',
            hint=f"write {int(first)}h{second}m or {int(first)}m{second}s",
        )
    if raw.startswith("-"):
        raise UnitError(f'"{raw}" is negative', hint=f"write {raw.lstrip('-')}")
    seconds = _iso_duration_s(raw)
    if seconds is None:
        from pytimeparse.timeparse import timeparse

        parsed = timeparse(raw.lstrip("+"))
        if parsed is None:
            raise UnitError(
                f'"{_short(raw)}" is not a duration', hint="write for example 6h, 1h30m or 90m"
            )
        seconds = float(parsed)
    if seconds <= 0:
        raise UnitError(f'"{raw}" is no time at all', hint="write for example 6h, 1h30m or 90m")
    if seconds > _LONGEST_S:
        raise UnitError(f'"{_short(raw)}" is more than 100 years', hint="check the unit")
    return seconds


def format_duration(seconds: float) -> str:
    """A duration with two units at the most: `2d03h`, `5h18m`, `5m18s`, `42s`, `0.085s`.

    `5:18` is not used: it reads as hours in one table and as minutes in the next.
    """
    if not math.isfinite(seconds):
        return "unknown" if math.isnan(seconds) else "never"
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds:.3f}s"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < MINUTE_S:
        return f"{whole}s"
    if whole < HOUR_S:
        return f"{whole // MINUTE_S}m{whole % MINUTE_S:02d}s"
    minutes = round(seconds / MINUTE_S)
    if minutes < DAY_S // MINUTE_S:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    hours = round(seconds / HOUR_S)
    return f"{hours // 24}d{hours % 24:02d}h"


def _iso_duration_s(raw: str) -> float | None:
    match = _ISO_DURATION.fullmatch(raw)
    if match is None:
        return None
    parts = {name: float(value) for name, value in match.groupdict().items() if value}
    try:
        return timedelta(**parts).total_seconds()
    except OverflowError:
        return math.inf


# ---- deadlines -------------------------------------------------------------------------------


def parse_deadline(
    text: str, now: datetime, *, zone: tzinfo | None = None
) -> tuple[float, datetime]:
    """Seconds from `now` to a deadline, and the deadline in UTC.

    A deadline is a duration (`6h`), a clock time (`17:40`, `17:40Z`: the next time it is that
    late), or a date with time and zone (`2026-11-22T08:00Z`). A clock time without a zone is in
    `zone`, by default the machine's own.

    Raises:
        UnitError: In the past, a date without a zone, or none of the above.
    """
    raw = _text(text, "deadline", "write for example 6h, 17:40 or 2026-11-22T08:00Z")
    if clock := _CLOCK.fullmatch(raw):
        at = _next_clock_time(clock, now, zone)
    elif _DATE.match(raw):
        at = _date_time(raw)
    else:
        seconds = parse_duration_s(raw)
        try:
            return seconds, (now + timedelta(seconds=seconds)).astimezone(UTC)
        except OverflowError as exc:
            raise UnitError(f'"{_short(raw)}" is too far away', hint="check the unit") from exc
    return deadline_from_time(at, now), at.astimezone(UTC)


def deadline_from_time(at: datetime, now: datetime) -> float:
    """Seconds from `now` until `at`.

    Raises:
        UnitError: `at` has no time zone, or is not after `now`.
    """
    if at.tzinfo is None:
        raise UnitError(
            f"the deadline {at.isoformat(timespec='minutes')} has no time zone",
            hint=f"write {at.isoformat(timespec='minutes')}Z for UTC, or end it with +01:00",
        )
    seconds = (at - now).total_seconds()
    if seconds <= 0:
        raise UnitError(
            f"the deadline {_utc(at)} is in the past: it is {_utc(now)} now",
            hint="give a later time, or a duration such as 6h",
        )
    if seconds > _LONGEST_S:
        raise UnitError(f"the deadline {_utc(at)} is more than 100 years away")
    return seconds


def _next_clock_time(clock: re.Match[str], now: datetime, zone: tzinfo | None) -> datetime:
    try:
        wanted = time(int(clock.group(1)), int(clock.group(2)))
    except ValueError as exc:
        raise UnitError(f'"{clock.group()}" is not a time of day', hint="write HH:MM") from exc
    named = clock.group(3)
    if named is not None:
        upper = named.upper()
        offset = "+00:00" if upper in ("Z", "UTC") else upper
        zone = datetime.fromisoformat(f"2000-01-01T00:00{offset}").tzinfo
    today = _local(now, zone).date()
    for day in (today, today + timedelta(days=1)):
        at = _at(day, wanted, zone)
        if at > now:
            return at
    return _at(today + timedelta(days=2), wanted, zone)


def _at(day: date, wanted: time, zone: tzinfo | None) -> datetime:
    # A naive time's astimezone() takes the machine's zone with the offset of that very day.
    naive = datetime.combine(day, wanted)
    return naive.astimezone() if zone is None else naive.replace(tzinfo=zone)


def _date_time(raw: str) -> datetime:
    if _DATE.fullmatch(raw):
        raise UnitError(f'the deadline "{raw}" has no time', hint=f"write {raw}T08:00Z")
    try:
        return datetime.fromisoformat(raw)
    except ValueError as exc:
        raise UnitError(
            f'"{_short(raw)}" is not a date and time', hint="write it like 2026-11-22T08:00Z"
        ) from exc


def _local(at: datetime, zone: tzinfo | None) -> datetime:
    return at.astimezone(zone)


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


# ---- money -----------------------------------------------------------------------------------


def parse_money_usd(value: str | int | float, *, allow_zero: bool = False) -> float:
    """Dollars: `40`, `40.50`, `$40`. Zero is refused unless it is a price (`allow_zero`).

    Raises:
        UnitError: Empty, negative, zero, another currency, or not an amount.
    """
    if isinstance(value, bool):
        raise UnitError(f"{value} is not an amount of money", hint="write for example 40 or $40.50")
    if isinstance(value, int | float):
        raw = repr(value)
    else:
        raw = _text(value, "amount of money", "write for example 40 or $40.50")
    amount = _decimal_usd(raw)
    if amount < 0:
        raise UnitError(f'"{_short(raw)}" is a negative amount', hint="write for example 40")
    if amount > _MOST_USD:
        raise UnitError(f'"{_short(raw)}" is more than a billion dollars', hint="check the amount")
    micro = round(amount * _MICRO)
    if micro == 0 and (amount != 0 or not allow_zero):
        raise UnitError(
            f'"{_short(raw)}" is no money: a cap must be more than zero',
            hint="leave the cap out to have none",
        )
    return micro / _MICRO


def _decimal_usd(raw: str) -> Decimal:
    sign, body = ("-", raw[1:]) if raw[:1] == "-" else ("", raw.removeprefix("+"))
    body = body.strip().removeprefix("$").strip()
    if body.upper().endswith("USD"):
        body = body[:-3].strip()
    try:
        amount = Decimal(sign + body)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or "_" in body:
        hint = "write for example 40 or $40.50 (US dollars, no thousands separators)"
        raise UnitError(f'"{_short(raw)}" is not an amount of money', hint=hint)
    return amount


def to_microusd(usd: float) -> int:
    """Dollars as whole micro-dollars, rounded half to even.

    Raises:
        UnitError: Not a finite number.
    """
    if not math.isfinite(usd):
        raise UnitError(f"{usd} is not an amount of money")
    return round(Decimal(repr(float(usd))) * _MICRO)


def format_money(usd: float) -> str:
    """`$13.80`, and four decimals under ten cents: `$0.0231`. Never shows some money as none."""
    if not math.isfinite(usd):
        return "unknown"
    sign, size = ("-", -usd) if usd < 0 else ("", usd)
    if size == 0:
        return "$0.00"
    if size < 0.00005:
        return f"<{sign}$0.0001"
    return f"{sign}${size:.2f}" if size >= 0.1 else f"{sign}${size:.4f}"


# ---- chances ---------------------------------------------------------------------------------


def format_chance(p: float | None) -> str:
    """A probability with two digits, `-` when unknown; never a plain 0 or 1: nobody knows that."""
    if p is None:
        return "-"
    if p > 0.99:
        return ">0.99"
    return "<0.01" if p < 0.01 else f"{p:.2f}"


# ---- sizes -----------------------------------------------------------------------------------


def format_bytes(size_bytes: float) -> str:
    """A size in decimal units: `512 B`, `97 MB`, `18.2 GB`."""
    if size_bytes < 0:
        return f"-{format_bytes(-size_bytes)}"
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        # Compared as it will be printed, so that 999 999 bytes are 1.0 MB and not 1000 kB.
        if round(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} PB"


# ---- shared ----------------------------------------------------------------------------------


def _text(value: str, what: str, hint: str) -> str:
    if not isinstance(value, str):
        raise UnitError(f"{value!r} is not a {what}", hint=hint)
    stripped = value.strip()
    if not stripped:
        raise UnitError(f"an empty {what}", hint=hint)
    return stripped


def _short(raw: str) -> str:
    return raw if len(raw) <= 40 else raw[:39] + "…"
