"""Named columns, whatever they come in: DataFrame, structured array or mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.core.distribution import Array

    Mask = NDArray[np.bool_]


def named_columns(X: Any) -> dict[str, Any] | None:
    """The columns of `X` by name, as they are; None where they have no names."""
    names = getattr(getattr(X, "dtype", None), "names", None)
    if names:  # numpy structured array
        return {name: X[name] for name in names}
    if isinstance(X, Mapping):
        return dict(X)
    if hasattr(X, "columns"):  # pandas, polars
        return {str(name): np.asarray(X[name]) for name in X.columns}
    return None


def number_columns(
    X: Any, *, required: Sequence[str], defaults: Mapping[str, float] | None = None
) -> dict[str, Array]:
    """Columns of numbers, all with as many rows; those of `defaults` are filled in.

    Raises:
        ValueError: Columns have no names, one is missing, or their lengths differ.
    """
    raw = named_columns(X)
    if raw is None:
        raise ValueError(f"need named columns {', '.join(required)}; got {type(X).__name__}")
    missing = [name for name in required if name not in raw]
    if missing:
        raise ValueError(f"missing columns {missing}; there are {sorted(raw)}")
    defaults = defaults or {}
    found = {n: np.asarray(raw[n], dtype=float) for n in (*required, *defaults) if n in raw}
    n = one_length(found)
    return {**{name: np.full(n, value) for name, value in defaults.items()}, **found}


def one_length(columns: Mapping[str, Any]) -> int:
    """How many rows all of the columns have.

    Raises:
        ValueError: They differ in it.
    """
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"columns differ in length: {sizes}; give each a value for every row")
    return next(iter(sizes.values()))


def positive(column: Array, name: str) -> None:
    """Refuse a column that does not hold positive numbers, by its first row that is none.

    Raises:
        ValueError: There is one.
    """
    _refuse(column, ~(np.isfinite(column) & (column > 0)), f"column {name!r} must hold positive")


def not_negative(column: Array, name: str) -> None:
    """Refuse a column of numbers, or of quantiles row by row, that are not finite or below 0.

    Raises:
        ValueError: There is one.
    """
    bad = ~(np.isfinite(column) & (column >= 0))
    _refuse(column, bad, f"column {name!r} must hold finite, not negative")


def _refuse(column: Array, bad: Mask, rule: str) -> None:
    if np.any(bad):
        first = np.unravel_index(int(np.argmax(bad)), bad.shape)
        raise ValueError(
            f"{rule} numbers: row {int(first[0])} is {column[first]:g};"
            " correct it or leave the row out"
        )
