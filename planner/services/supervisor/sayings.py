"""What a job says, which may hold anything: numbers out of it, and its form in the journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LONGEST_S = 1e9


def said_whole(value: object, default: int) -> int:
    """A whole number that is not negative, or the default."""
    if isinstance(value, bool) or not isinstance(value, int):
        return default
    return value if value >= 0 else default


def said_number(value: object, default: float) -> float:
    """A positive number, or the default."""
    number = said_duration_s(value)
    return default if number is None or number <= 0 else number


def said_numbers(value: object) -> list[float]:
    """The numbers of a list that are finite and not negative."""
    if not isinstance(value, list):
        return []
    return [number for v in value if (number := said_duration_s(v)) is not None]


def said_duration_s(value: object) -> float | None:
    """A finite number that is not negative, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < _LONGEST_S else None


def checkpoint_data(event: Mapping[str, Any], attempt: int) -> dict[str, Any]:
    """The journal's form of a job's `checkpoint` event."""
    what = ("path", "step", "epoch", "samples", "bytes", "sha256")
    keys = (*what, "duration_s", "stall_s", "reason")
    return {"attempt": attempt, **{key: event.get(key) for key in keys}}


def mean_of(values: list[float | None]) -> float | None:
    """Mean of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None


def rounded(value: float | None) -> float | None:
    """To five digits, which is more than anything here is known to."""
    return None if value is None else float(f"{value:.5g}")
