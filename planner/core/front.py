"""The non-dominated set of points that are better when smaller, in two dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from planner.core.distribution import Array


def dominators(first: Array, second: Array) -> NDArray[np.intp]:
    """For each point the index of a point on the front that dominates it, or -1 when none does.

    A point dominates another when it is nowhere larger and somewhere smaller; equal points do not
    dominate each other. Sorting by the first coordinate leaves one question per point: was an
    earlier second coordinate as small? So O(n log n) (Kung, Luccio, Preparata 1975, for two
    dimensions).

    Args:
        first: First coordinate, shape (n,), finite.
        second: Second coordinate, shape (n,), finite.
    """
    import numpy as np

    n = first.shape[0]
    result = np.full(n, -1, dtype=np.intp)
    if n == 0:
        return result
    order = np.lexsort((second, first))
    x, y = first[order], second[order]
    best = np.minimum.accumulate(y)
    is_record = np.concatenate([[True], y[1:] < best[:-1]])
    holder = np.maximum.accumulate(np.where(is_record, np.arange(n), 0))
    dominated = (x[holder] < x) | (y[holder] < y)
    result[order[dominated]] = order[holder[dominated]]
    return result
