"""The pick among many options: least cost, time or risk, under chance constraints.

An option *fits* when it will hardly run out of memory, and is *feasible* when it also keeps the
deadline and the budget with the probability that was asked for. Among the feasible ones the pick
has the least expected cost (or time, or risk). Everything here works on columns, so that ten
thousand options are scored, filtered and sorted at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from planner.core.distribution import LEVELS, mean, prob_below
from planner.core.front import dominators

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from planner.core.distribution import Array
    from planner.core.job import Goal, Prefer

    Mask = NDArray[np.bool_]
    Indices = NDArray[np.intp]

MAX_P_OOM = 0.05
"""An option more likely than this to run out of memory is refused."""

MIN_BUDGET_CONFIDENCE = 0.95
"""A budget is a hard cap, so that it is asked to hold at least this surely."""

_ROUNDING = 1e-9
_JUST_BEYOND = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Options as columns.

    Attributes:
        total_s: Quantiles of the total time, shape (n, len(LEVELS)).
        cost_usd: Quantiles of the cost, same shape.
        p_oom: Chance to run out of memory, shape (n,).
        usd_per_h: Price now, shape (n,).
        place: A number for each row: rows with the same one change their price together.
        tie: Order among options that are equal in all else, shape (n,).
    """

    total_s: Array
    cost_usd: Array
    p_oom: Array
    usd_per_h: Array
    place: Indices
    tie: Indices


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is asked for, at one moment. `deadline_s` counts from that moment.

    `hour_value_usd` is what an hour saved is worth, beside what it costs.
    """

    deadline_s: float | None = None
    budget_usd: float | None = None
    confidence: float = 0.9
    prefer: Prefer = "cost"
    hour_value_usd: float = 0.0

    @property
    def budget_confidence(self) -> float:
        """The probability that the budget is asked to hold with."""
        return max(self.confidence, MIN_BUDGET_CONFIDENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A table scored against terms.

    Attributes:
        p_deadline: Chance to keep the deadline; None without one.
        p_budget: Chance to keep the budget; None without one.
        fits: Rows that will hardly run out of memory.
        in_time: Rows that keep the deadline surely enough; all of them without one.
        in_budget: Rows that keep the budget surely enough; all of them without one.
        feasible: Rows that fit and meet every term.
        first: What is minimised, in the unit of what is preferred.
        second: What decides between rows that are equal in that.
        order: All rows, best first: feasible ones, then by how far they miss, then misfits.
        pick: The best feasible row, None when there is none.
        mean_total_s: Expected total time.
        mean_cost_usd: Expected cost.
    """

    p_deadline: Array | None
    p_budget: Array | None
    fits: Mask
    in_time: Mask
    in_budget: Mask
    feasible: Mask
    first: Array
    second: Array
    order: Indices
    pick: int | None
    mean_total_s: Array
    mean_cost_usd: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFlip:
    """The pick becomes row `to` when `variable` goes beyond `value`."""

    to: int
    variable: str
    op: Literal["<", ">"]
    value: float
    unit: str


def terms_of(goal: Goal, now: datetime) -> Terms:
    """The goal as it stands at `now`: of a deadline that is a time, what is left."""
    deadline_s = goal.deadline_s
    if goal.deadline_at is not None:
        deadline_s = (goal.deadline_at - now).total_seconds()
    return Terms(
        deadline_s=deadline_s,
        budget_usd=goal.budget_usd,
        confidence=goal.confidence,
        prefer=goal.prefer,
    )


def score(table: Table, terms: Terms) -> Scores:
    """Score, filter and sort every row.

    Ties in what is preferred go to the option that is better in the other respect, then to
    `table.tie`. Rows that miss the terms come in the order of how many times over they are, at the
    confidence asked for; rows that do not fit come last, least likely to run out of memory first.
    """
    import numpy as np

    n = table.p_oom.shape[0]
    fits = table.p_oom <= MAX_P_OOM
    in_time = in_budget = np.ones(n, dtype=bool)
    p_deadline = p_budget = None
    if terms.deadline_s is not None:
        p_deadline = prob_below(table.total_s, terms.deadline_s)
        in_time = p_deadline >= terms.confidence - _ROUNDING
    if terms.budget_usd is not None:
        p_budget = prob_below(table.cost_usd, terms.budget_usd)
        in_budget = p_budget >= terms.budget_confidence - _ROUNDING
    feasible = fits & in_time & in_budget
    time, cost = mean(table.total_s), mean(table.cost_usd)
    if terms.prefer == "time":
        first, second = time, cost
    elif terms.prefer == "risk":
        first, second = _risk(table, p_deadline, p_budget)
    else:
        first, second = cost + terms.hour_value_usd * time / 3600, time
    miss = np.where(feasible, 0.0, np.where(fits, _times_over(table, terms), table.p_oom))
    group = np.where(feasible, 0, np.where(fits, 1, 2))
    order = np.lexsort((table.tie, second, first, miss, group))
    return Scores(
        p_deadline=p_deadline,
        p_budget=p_budget,
        fits=fits,
        in_time=in_time,
        in_budget=in_budget,
        feasible=feasible,
        first=first,
        second=second,
        order=order,
        pick=int(order[0]) if n and feasible[order[0]] else None,
        mean_total_s=time,
        mean_cost_usd=cost,
    )


def front_of(scores: Scores) -> tuple[Mask, Indices]:
    """Which rows are on the front of expected time and cost, and which row dominates the others.

    A row that misses the goal dominates no feasible row, and a row that does not fit dominates
    none at all; so a pick by time or by cost is always on the front.

    Returns:
        A mask, and for each row the index of a row that dominates it or -1.
    """
    import numpy as np

    dominated_by = np.full(scores.fits.shape, -1, dtype=np.intp)
    for asked, among in (
        (scores.fits & ~scores.feasible, scores.fits),
        (scores.feasible, scores.feasible),
    ):
        rows = np.flatnonzero(among)
        found = dominators(scores.mean_total_s[rows], scores.mean_cost_usd[rows])
        by = np.where(found >= 0, rows[found], -1) if rows.size else found
        mine = asked[rows]
        dominated_by[rows[mine]] = by[mine]
    return scores.fits & (dominated_by < 0), dominated_by


def flips(table: Table, terms: Terms, scores: Scores) -> tuple[RowFlip, ...]:
    """What would change the pick, one threshold per variable and direction.

    Thresholds are solved for in closed form, then checked: each is kept only when choosing again
    just beyond it gives another pick, and just before it the same one. A threshold beyond which
    nothing would be feasible is left out.
    """
    if scores.pick is None:
        return ()
    found = []
    for variable, op, value, unit in _thresholds(table, terms, scores, scores.pick):
        step = _JUST_BEYOND if op == ">" else -_JUST_BEYOND
        beyond = score(*vary(table, terms, variable, value * (1 + step), scores.pick)).pick
        before = score(*vary(table, terms, variable, value * (1 - step), scores.pick)).pick
        if before == scores.pick and beyond is not None and beyond != scores.pick:
            found.append(RowFlip(to=beyond, variable=variable, op=op, value=value, unit=unit))
    return tuple(found)


def vary(table: Table, terms: Terms, variable: str, value: float, pick: int) -> tuple[Table, Terms]:
    """The same question with one variable changed; `usd_per_h` is that of the pick's place."""
    if variable != "usd_per_h":
        change: dict[str, Any] = {variable: value}
        return table, replace(terms, **change)
    import numpy as np

    factor = np.where(table.place == table.place[pick], value / table.usd_per_h[pick], 1.0)
    varied = replace(
        table,
        cost_usd=table.cost_usd * factor[:, None],
        usd_per_h=table.usd_per_h * factor,
    )
    return varied, terms


def quantile(quantiles: Array, level: float) -> Array:
    """Quantiles at any level, row by row; linear between `LEVELS`, constant beyond them."""
    import numpy as np

    levels = np.asarray(LEVELS)
    level = float(np.clip(level, levels[0], levels[-1]))
    low = int(np.clip(np.searchsorted(levels, level, side="right") - 1, 0, len(LEVELS) - 2))
    part = (level - levels[low]) / (levels[low + 1] - levels[low])
    result: Array = quantiles[:, low] + part * (quantiles[:, low + 1] - quantiles[:, low])
    return result


def _risk(table: Table, p_deadline: Array | None, p_budget: Array | None) -> tuple[Array, Array]:
    """Chance that anything goes wrong, and how bad the bad case is.

    The chances of missing the deadline, the budget and of running out of memory are added: a bound
    on the chance of any of them, whatever their dependence. The bad case is the 95 % quantile of
    time, times one more than that of cost.
    """
    risk = table.p_oom.copy()
    for p in (p_deadline, p_budget):
        if p is not None:
            risk += 1 - p
    return risk, quantile(table.total_s, 0.95) * (1 + quantile(table.cost_usd, 0.95))


def _times_over(table: Table, terms: Terms) -> Array:
    """How many times over deadline or budget a row is, at the confidence asked for."""
    import numpy as np

    over = np.zeros(table.p_oom.shape)
    if terms.deadline_s is not None:
        over = quantile(table.total_s, terms.confidence) / max(terms.deadline_s, 1.0)
    if terms.budget_usd is not None:
        cost = quantile(table.cost_usd, terms.budget_confidence)
        over = np.maximum(over, cost / max(terms.budget_usd, 1e-6))
    return over


_Threshold = tuple[str, Literal["<", ">"], float, str]


def _thresholds(table: Table, terms: Terms, scores: Scores, pick: int) -> list[_Threshold]:
    """Values at which the pick may change, nearest first in each direction; not yet checked."""
    import numpy as np

    total = quantile(table.total_s, terms.confidence)
    cost = quantile(table.cost_usd, terms.budget_confidence)
    found: list[_Threshold] = [
        ("deadline_s", "<", float(total[pick]), "s"),
        ("budget_usd", "<", float(cost[pick]), "usd"),
    ]
    first, second = scores.first, scores.second
    better = (first < first[pick]) | ((first == first[pick]) & (second < second[pick]))
    better &= scores.fits
    found += _nearest("deadline_s", total, better & scores.in_budget, "s")
    found += _nearest("budget_usd", cost, better & scores.in_time, "usd")
    if terms.prefer == "cost":
        found += _hour_value(scores, pick)
    found += _price(table, terms, scores, pick, float(cost[pick]))
    chances = [p[pick] for p in (scores.p_deadline, scores.p_budget) if p is not None]
    if chances and min(chances) < LEVELS[-1]:
        found.append(("confidence", ">", float(np.min(chances)), "probability"))
    return [t for t in found if np.isfinite(t[2]) and t[2] > 0]


def _nearest(variable: str, needed: Array, rows: Mask, unit: str) -> list[_Threshold]:
    """The least value that lets one of the rows in."""
    return [(variable, ">", float(needed[rows].min()), unit)] if rows.any() else []


def _hour_value(scores: Scores, pick: int) -> list[_Threshold]:
    """What an hour must be worth before a dearer, faster feasible option pays."""
    saved_h = (scores.mean_total_s[pick] - scores.mean_total_s) / 3600
    rows = scores.feasible & (saved_h > 0)
    extra_usd = scores.mean_cost_usd[rows] - scores.mean_cost_usd[pick]
    value = extra_usd / saved_h[rows]
    return [("hour_value_usd", ">", float(value.min()), "usd_per_h")] if rows.any() else []


def _price(
    table: Table, terms: Terms, scores: Scores, pick: int, cost_at_confidence: float
) -> list[_Threshold]:
    """The price of the pick's place at which it stops being the cheapest, or breaks the budget."""
    price, expected = float(table.usd_per_h[pick]), float(scores.mean_cost_usd[pick])
    if price <= 0 or expected <= 0 or cost_at_confidence <= 0:
        return []
    factors = []
    elsewhere = scores.feasible & (table.place != table.place[pick])
    if terms.prefer == "cost" and elsewhere.any():
        factors.append(float(scores.mean_cost_usd[elsewhere].min()) / expected)
    if terms.budget_usd is not None:
        factors.append(terms.budget_usd / cost_at_confidence)
    return [("usd_per_h", ">", price * min(factors), "usd_per_h")] if factors else []
