"""Named columns, whatever they come in: DataFrame, structured array or mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from planner.core.distribution import Array


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
    rows = {name: column.shape[:1] for name, column in found.items()}
    if len(set(rows.values())) > 1 or rows[required[0]] == ():
        raise ValueError(f"columns must be as long as each other: {rows}")
    n = len(found[required[0]])
    return {**{name: np.full(n, value) for name, value in defaults.items()}, **found}
