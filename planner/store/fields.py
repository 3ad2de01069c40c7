"""Values out of a journal's events, which may hold anything: what does not fit is None or empty."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from planner.store.codec import parse_datetime

T = TypeVar("T")


def as_number(value: object) -> float | None:
    """A number as it is; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def as_whole(value: object) -> int | None:
    """A whole number as it is; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def as_time(value: object) -> datetime | None:
    """A time from its text; None for anything else."""
    try:
        return parse_datetime(str(value))
    except ValueError:
        return None


def as_list(value: object) -> list[Any]:
    """A list as it is; an empty one for anything else."""
    return list(value) if isinstance(value, list | tuple) else []


def as_mapping(value: object) -> Mapping[str, Any]:
    """An object as it is; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def keep(new: T | None, old: T) -> T:
    """What is new where that is known, else what was."""
    return old if new is None else new
