"""The non-dominated set in two dimensions."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from planner.core.front import dominators

coordinate = st.integers(0, 8).map(float) | st.floats(0, 1e6)
points = st.lists(st.tuples(coordinate, coordinate), max_size=60)


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a != b


@given(points)
def test_front_equals_brute_force(drawn: list[tuple[float, float]]) -> None:
    first = np.asarray([p[0] for p in drawn])
    second = np.asarray([p[1] for p in drawn])
    found = dominators(first, second)
    for i, point in enumerate(drawn):
        dominated = any(_dominates(other, point) for other in drawn)
        assert (found[i] >= 0) == dominated


@given(points)
def test_whoever_is_named_does_dominate_and_is_on_the_front(
    drawn: list[tuple[float, float]],
) -> None:
    found = dominators(np.asarray([p[0] for p in drawn]), np.asarray([p[1] for p in drawn]))
    for i, by in enumerate(found):
        if by >= 0:
            assert _dominates(drawn[by], drawn[i])
            assert found[by] == -1


def test_equal_points_do_not_dominate_each_other() -> None:
    found = dominators(np.asarray([1.0, 1.0, 2.0]), np.asarray([5.0, 5.0, 5.0]))
    assert found.tolist()[:2] == [-1, -1]
    assert found[2] in (0, 1)


def test_no_points_no_front() -> None:
    assert dominators(np.empty(0), np.empty(0)).tolist() == []
