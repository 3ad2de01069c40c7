"""Rows that do not belong: a trial beside a noisy neighbour, or of something else.

Each row may be slowed by any factor, with a small chance. Against that stands what the other rows
predict of it: Student's t about what fits to them say, as the size of their errors is estimated
(a normal law with an inverse gamma prior on its variance: Gelman et al., Bayesian Data Analysis,
3rd edition, section 3.3). Bayes' rule gives the odds. Of several rows the most suspicious is looked
at first, and then the rest without it. Noise only slows: a row that is too fast is not suspected,
and shows as misfit.

A row is left out of the fit where that is likelier than not; however little it weighed, a factor of
ten would still move what the other rows leave to the prior. But not the only one of a placement
with more workers than others have: nothing else tells what those workers cost each other, which
may be that much; nor one of two. Then the interval reaches down to where the truth is if the row is
wild.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import lgamma, log, pi, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors import step_law
from predictors.features import Table, take
from predictors.posterior import Fit
from predictors.step_law import Scale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.core.distribution import Array
    from predictors.features import Index

    Mask = NDArray[np.bool_]

Refit = Callable[[Scale, "Array"], Fit]
"""Unit, and rows that each member believes, (members, n) -> members in units of the prior."""
Foresee = Callable[[Scale, "Array", int, "Index"], "tuple[Array, float]"]
"""Unit, draws in units of the prior (draws, parameters), a row, and the rows that they rest on ->
log steps at that row, (draws,), and the standard deviation of a measurement about each."""

CHANCE = 0.02
"""That a trial is wild, before anything is seen of it; a guess."""
SIGMA = 1.5
"""Standard deviation of the logarithm of what a wild trial is off by."""
FREEDOM = 4.0
"""Rows that the expected size of errors counts for."""
SHAKEN = 0.25
"""Standard deviation of log time on a machine where every trial was wild; with the root of their
share where some were. A guess: what slowed one trial may slow some of the run."""
_DRAWS = 64


@dataclass(frozen=True, slots=True)
class Doubt:
    """What is thought of n rows.

    Attributes:
        wild: Those that are not believed.
        share: Chance that a row is wild, of those that are believed.
        off: log(measured / as the other rows have it).
        workers: Of each row.
        nodes: Of each row.
    """

    wild: Mask
    share: Array
    off: Array
    workers: Array
    nodes: Array

    @property
    def sigma(self) -> float:
        """Standard deviation of log time that wild rows add to all."""
        return SHAKEN * sqrt(float(self.wild.mean()))

    def below(self, columns: Table) -> Array:
        """Standard deviation of log time below the median, shape (n,).

        Of the placements that rest on a suspicious row: mean square distance of what is true from
        what was predicted, if it was slowed.
        """
        rests = columns["workers"][:, None] >= self.workers
        rests &= columns["nodes"][:, None] >= self.nodes
        result: Array = np.sqrt(rests @ (np.minimum(self.share, 0.5) * self.off**2))
        return result

    def to_json(self) -> dict[str, list[float]]:
        """Plain JSON values."""
        return {f.name: getattr(self, f.name).astype(float).tolist() for f in fields(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Doubt:
        """What `to_json` gave."""
        given = {f.name: np.asarray(data[f.name], dtype=float) for f in fields(cls)}
        return cls(**{**given, "wild": given["wild"] > 0})


def doubt(columns: Table, y: Array, outrun: Mask, refit: Refit, foresee: Foresee) -> Doubt:
    """Find the wild among n measured steps.

    Args:
        columns: Their configurations.
        y: Step times, s, shape (n,).
        outrun: Those known to be wild (`misfit.outrun`); not all of them.
        refit: Fits the law to some of the rows.
        foresee: What such fits predict.
    """
    n = len(y)
    wild, share, off = outrun.copy(), np.zeros(n), np.zeros(n)
    if n - wild.sum() == 1:  # nothing confirms it
        share, off = np.where(wild, 0.0, CHANCE), np.full(n, SIGMA)
    most = max((n - 1) // 2 - int(wild.sum()), 0)
    for left in range(most, -1, -1) if n - wild.sum() > 1 else ():
        off, found = _left_out(columns, y, refit, foresee, ~wild)
        odds = np.where(wild, 0.0, np.exp(np.minimum(found, 500.0)))
        share = odds / (1.0 + odds.sum())
        worst = int(np.argmax(share))
        if share[worst] <= 0.5 or left == 0 or _alone(columns, worst, ~wild):
            break
        wild[worst] = True
    return Doubt(wild, share, off, columns["workers"], columns["nodes"])


def _alone(columns: Table, row: int, believed: Mask) -> bool:
    """Whether nothing else tells what the workers of a row cost each other."""
    among = {name: columns[name][believed] for name in ("workers", "nodes")}
    alike = [among[name] == columns[name][row] for name in among]
    fewest = columns["workers"][row] == among["workers"].min()
    return not fewest and int(np.sum(alike[0] & alike[1])) == 1


def _left_out(
    columns: Table, y: Array, refit: Refit, foresee: Foresee, believed: Mask
) -> tuple[Array, Array]:
    """Of each row: log(measured / as the other believed rows have it), and log odds; each (n,)."""
    n = len(y)
    keep = believed & ~np.eye(n, dtype=bool)
    scales = [step_law.scale_of(take(columns, row), y[row]) for row in keep]
    off, odds = np.empty(n), np.full(n, -np.inf)
    for scale in dict.fromkeys(scales):
        rows = np.asarray([i for i in range(n) if scales[i] == scale])
        fit = refit(scale, keep[rows].astype(float))
        freedom = FREEDOM + keep[rows].sum(axis=1)
        size = np.sqrt((FREEDOM + fit.cost) / freedom)
        for k, i in enumerate(rows):
            drawn, sigma = foresee(scale, _draws(fit, k, size[k]), i, np.flatnonzero(keep[i]))
            away = np.log(y[i]) - drawn
            off[i] = np.median(away)
            if off[i] > 0:
                odds[i] = log_odds(away, sigma * size[k], float(freedom[k]))
    return off, odds


def _draws(fit: Fit, member: int, size: float) -> Array:
    """Draws of a member's parameters in units of the prior, shape (`_DRAWS`, parameters).

    From the normal law about the most probable ones that has the curvature there (Laplace).
    """
    jacobian = fit.jacobian[member]
    count = jacobian.shape[1]
    root = np.linalg.cholesky(jacobian.T @ jacobian + np.eye(count))
    half = np.random.default_rng(0).standard_normal((_DRAWS // 2, count))
    noise = np.concatenate([half, -half])
    result: Array = fit.theta[member] + size * np.linalg.solve(root.T, noise.T).T
    return result


def log_odds(off: Array, sigma: float, freedom: float) -> float:
    """That a row is wild, against that it is as the others have it; `off` for each draw of them."""
    constant = lgamma((freedom + 1) / 2) - lgamma(freedom / 2) - 0.5 * log(freedom * pi)
    tail = (freedom + 1) / 2 * np.log1p((off / sigma) ** 2 / freedom)
    usual = constant - log(sigma) + _log_mean(-tail)
    strange = _log_mean(-0.5 * (off / SIGMA) ** 2) - log(SIGMA * sqrt(2 * pi))
    return log(CHANCE / (1 - CHANCE)) + strange - usual


def _log_mean(logs: Array) -> float:
    top = float(logs.max())
    return top + log(float(np.mean(np.exp(logs - top))))
