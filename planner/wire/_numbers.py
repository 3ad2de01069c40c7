"""Numbers as they may stand on the wire: finite, in range, without digits that nobody measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

DIGITS = 9
"""Significant ones: more than any measurement has, fewer than binary rounding shows."""


def number(value: float | None) -> float | None:
    """The number, or None when it is unknown or not finite."""
    return value if value is not None and math.isfinite(value) else None


def clip(value: float) -> float:
    """A fraction held between 0 and 1."""
    return min(max(value, 0.0), 1.0)


def share(value: float | None) -> float | None:
    """A fraction between 0 and 1, or None when it is unknown or not finite."""
    known = number(value)
    return None if known is None else clip(known)


def rounded(value: Any) -> Any:
    """Plain JSON values with every float rounded to `DIGITS` significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


def finite(value: Any) -> Any:
    """Plain JSON values with every number that is not finite replaced by None."""
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
