"""Decisions and their regret under joint draws of what is not known.

A decision is the pick of `planner.core.choose`, taken under the mean of the draws. The *regret* of
an option in a draw is what it takes more than the best option of that draw, in money or in time;
an option that misses the goal in a draw, beyond the chance that the goal accepts, has to be done
again, so that all it takes is regret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING

from planner.core.choose import Table as OptionTable
from planner.core.choose import Terms
from planner.core.distribution import I05, I95, mean, prob_below

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from planner.core.distribution import Array

_LEAST_NOISE = 0.01
_ROUNDING = 1e-9
_HOPELESS = 0.98
"""A miss as good as sure: chances from quantiles do not end at 0."""
_GRID = tuple(i / 40 for i in range(-200, 201))
_NORMAL = tuple(NormalDist().cdf(z) for z in _GRID)
_Z95 = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Options that could become the pick, as columns; k of them.

    Attributes:
        log_run: Draws of the logarithm of the whole-run time, centred, shape (draws, k).
        variable: What grows with the run: expected cost or run time, shape (k,).
        constant: What does not: the wait, where time counts; shape (k,).
        limits: Deadline and budget, as far as there are any.
        by_risk: Whether the goal prefers little risk.
    """

    log_run: Array
    variable: Array
    constant: Array
    limits: tuple[Limit, ...]
    by_risk: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A deadline or a budget, and what of options counts against it.

    Attributes:
        most: The limit, s or USD.
        confidence: Chance that it is asked to hold with.
        variable: Expected time or cost that grows with the run, shape (k,).
        constant: The wait, shape (k,).
        noise: Spread that no probe narrows, as a logarithm, shape (k,).
        offset: What the chance now, as predicted, is above what the draws say; shape (k,).
        expected_offset: The same for `expected`.
    """

    most: float
    confidence: float
    variable: Array
    constant: Array
    noise: Array | float = _LEAST_NOISE
    offset: Array | float = 0.0
    expected_offset: Array | float = 0.0

    def chance(self, log_run: Array) -> Array:
        """Chance to keep it, in each draw and for each option, shape of `log_run`."""
        import numpy as np

        if self.most <= 0:
            return np.zeros(log_run.shape)
        amount = self.constant + self.variable * np.exp(log_run)
        slack = np.log(self.most / np.maximum(amount, 1e-12)) / self.noise
        kept: Array = np.clip(np.interp(slack, _GRID, _NORMAL) + self.offset, 0.0, 1.0)
        return kept

    def expected(self, grown: Array, spread: Array) -> Array:
        """The mean chance where runs take `grown` times what is expected, give or take `spread`."""
        import numpy as np

        if self.most <= 0:
            return np.zeros(grown.shape)
        amount = np.maximum(self.constant + self.variable * grown, 1e-12)
        share = self.variable * grown / amount
        slack = np.log(self.most / amount) / np.hypot(self.noise, share * spread)
        kept: Array = np.clip(np.interp(slack, _GRID, _NORMAL) + self.expected_offset, 0.0, 1.0)
        return kept

    def times_over(self, grown: Array) -> Array:
        """The expected amount over the limit, where runs take `grown` times what is expected."""
        result: Array = (self.constant + self.variable * grown) / max(self.most, 1e-9)
        return result


def view_of(
    table: OptionTable, terms: Terms, run_s: Array, mean_run_s: Array, *, in_money: bool
) -> View:
    """Look at options under a goal.

    Args:
        table: k options, as they are scored.
        terms: What is asked for.
        run_s: Joint draws of their whole-run times, shape (draws, k).
        mean_run_s: What their runs are expected to take, shape (k,).
        in_money: Whether money is what they are compared by, else time.
    """
    import numpy as np

    log_run = np.log(np.maximum(run_s, 1e-9))
    log_run -= np.log(np.exp(log_run).mean(axis=0))  # of mean 1 each, as times
    total, cost = mean(table.total_s), mean(table.cost_usd)
    run = np.minimum(mean_run_s, total)
    zero = np.zeros(len(total))
    limits = []
    if terms.deadline_s is not None:
        time = Limit(
            most=terms.deadline_s,
            confidence=terms.confidence,
            variable=run,
            constant=total - run,
        )
        limits.append(_matched(time, table.total_s, log_run))
    if terms.budget_usd is not None:
        money = Limit(
            most=terms.budget_usd,
            confidence=terms.budget_confidence,
            variable=cost,
            constant=zero,
        )
        limits.append(_matched(money, table.cost_usd, log_run))
    return View(
        log_run=log_run,
        variable=cost if in_money else run,
        constant=zero if in_money else total - run,
        limits=tuple(limits),
        by_risk=terms.prefer == "risk",
    )


def _matched(limit: Limit, quantiles: Array, log_run: Array) -> Limit:
    """The limit with the noise that the predicted quantiles hold beside the draws' spread."""
    import numpy as np

    q = np.maximum(quantiles, 1e-9)
    spread = np.log(q[:, I95] / q[:, I05]) / (2 * _Z95)
    amount = np.maximum(limit.constant + limit.variable * np.exp(log_run), 1e-12)
    left = spread**2 - np.log(amount).var(axis=0)
    noisy = replace(limit, noise=np.sqrt(np.maximum(left, _LEAST_NOISE**2)))
    told = prob_below(quantiles, limit.most)
    now = noisy.expected(np.ones(len(told)), log_run.std(axis=0))
    return replace(
        noisy, offset=told - noisy.chance(log_run).mean(axis=0), expected_offset=told - now
    )


@dataclass(frozen=True, slots=True)
class Decision:
    """The pick's place in the view, whether it meets the goal, and every option's value."""

    row: int
    meets: bool
    value: Array


def decisions(view: View, log_run: Array, shifts: Array) -> list[Decision]:
    """The picks after several results, each of which moves the draws by a row of `shifts` (r, k).

    The pick has the least value of what is feasible; where nothing is, it is the one that is
    beyond the limits the fewest times over.
    """
    import numpy as np

    grown = np.exp(log_run).mean(axis=0) * np.exp(shifts)
    value = view.constant + view.variable * grown
    spread = log_run.std(axis=0)
    short, missed, over = (np.zeros(value.shape) for _ in range(3))
    for limit in view.limits:
        kept = limit.expected(grown, spread)
        short = np.maximum(short, limit.confidence - kept)
        over = np.maximum(over, limit.times_over(grown))
        missed += 1 - kept
    over = np.where(short > _ROUNDING, over, 0.0)
    first = missed if view.by_risk else value
    found = []
    for r in range(len(shifts)):
        row = int(np.lexsort((value[r], first[r], over[r], short[r] > _ROUNDING))[0])
        found.append(Decision(row, bool(short[r, row] <= _ROUNDING), value[r]))
    return found


def best_of(view: View, log_run: Array) -> tuple[NDArray[np.intp], Array, Array]:
    """The best option of each draw (draws,); value and miss of all, each (draws, k)."""
    import numpy as np

    grown = np.exp(log_run)
    value = view.constant + view.variable * grown
    miss, over = np.zeros(log_run.shape), np.zeros(log_run.shape)
    for limit in view.limits:
        beyond = (limit.confidence - limit.chance(log_run)) / limit.confidence
        miss = np.maximum(miss, np.clip(beyond, 0.0, 1.0))
        over = np.maximum(over, limit.times_over(grown))
    over = np.where(miss >= _HOPELESS, over / max(float(over.max()), 1e-12), 0.0)
    # Less of a miss comes before any difference in value, and so does by how far where all miss.
    key = 1e6 * miss + 1e3 * over + value / max(float(value.max()), 1e-12)
    return np.argmin(key, axis=1), value, miss


def regret(view: View, log_run: Array, rows: Sequence[int]) -> Array:
    """Regret of some options in each draw, shape (draws, len(rows)).

    There is none in a draw where every option is as good as sure to miss the goal.
    """
    import numpy as np

    best, value, miss = best_of(view, log_run)
    least = np.take_along_axis(miss, best[:, None], axis=1)
    cheapest = np.take_along_axis(value, best[:, None], axis=1)
    again = np.clip(miss[:, rows] - least, 0.0, 1.0)
    dearer = 0.0 if view.by_risk else np.maximum(value[:, rows] - cheapest, 0.0)
    result: Array = np.where(least < _HOPELESS, again * value[:, rows] + (1 - again) * dearer, 0.0)
    return result
