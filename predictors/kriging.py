"""Gaussian processes whose covariance is a sum of given parts, each with a fitted size.

Kriging (Rasmussen and Williams 2006, chapters 2 and 5): `fit_scales` finds the standard deviation
of every part by the marginal likelihood with a log-normal prior, `Posterior` conditions on rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.core.distribution import Array
    from predictors.features import Index

PRIOR_LOG_SD = 1.0
"""How far a fitted standard deviation may be from its first guess: a factor of 2.7."""
_FEWEST_JOBS = 5
_WIDENING = (0.8, 2.0)
_FAR = 2.0
"""Leave-one-out errors, in standard deviations, from which a row counts as an outlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Rows that are independent of those of other blocks.

    Attributes:
        parts: Covariances at size 1, shape (parts, n, n); the last one is the noise, diagonal.
        y: Deviations from the mean function, shape (n,).
    """

    parts: Array
    y: Array

    def covariance(self, log_sd: Array) -> Array:
        """The sum of the parts, shape (n, n)."""
        total: Array = np.einsum("p,pij->ij", np.exp(2 * log_sd), self.parts)
        return total


def fit_scales(
    blocks: Sequence[Block], guess: Sequence[float], *, iterations: int
) -> tuple[Array, list[Array]]:
    """Fit the parts' standard deviations, once, then again with outliers made to weigh less.

    A row whose leave-one-out error is beyond two standard deviations gets as much more noise as
    makes it two: one odd measurement would otherwise bend or widen what all others say.

    Args:
        blocks: Rows to fit to.
        guess: First guesses of the standard deviations, one for each part.
        iterations: Most steps of the optimiser, each time.

    Returns:
        Logarithms of the standard deviations, and for each block the factor on the noise variance
        of every row.
    """
    start = np.log(np.asarray(guess, dtype=float))
    first = _optimise(blocks, start, iterations)
    factors = [noise_factor(block, first) for block in blocks]
    tamed = [
        Block(parts=with_noise(block.parts, factor), y=block.y)
        for block, factor in zip(blocks, factors, strict=True)
    ]
    return _optimise(tamed, start, iterations), factors


def with_noise(parts: Array, factor: Array) -> Array:
    """The parts with the noise variance of every row multiplied."""
    changed = parts.copy()
    changed[-1] = np.diag(np.diag(parts[-1]) * factor)
    return changed


def _optimise(blocks: Sequence[Block], start: Array, iterations: int) -> Array:
    from scipy.optimize import minimize

    def loss(log_sd: Array) -> tuple[float, Array]:
        off = (log_sd - start) / PRIOR_LOG_SD
        value, slope = float(np.sum(off**2)) / 2, off / PRIOR_LOG_SD
        for block in blocks:
            lower = np.linalg.cholesky(block.covariance(log_sd))
            half = np.linalg.inv(lower)
            inverse = half.T @ half
            weights = inverse @ block.y
            value += float(block.y @ weights) / 2 + float(np.log(np.diag(lower)).sum())
            shift = np.einsum("pij,ij->p", block.parts, inverse - np.outer(weights, weights))
            slope = slope + np.exp(2 * log_sd) * shift
        return value, slope

    bounds = [(s - 4 * PRIOR_LOG_SD, s + 4 * PRIOR_LOG_SD) for s in start]
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations}
    )
    best: Array = found.x
    return best


def noise_factor(block: Block, log_sd: Array) -> Array:
    """Factor on the noise variance of every row that makes its leave-one-out error a usual one."""
    inverse = np.linalg.inv(block.covariance(log_sd))
    variance = 1 / np.diag(inverse)
    error = variance * (inverse @ block.y)
    noise = np.exp(2 * log_sd[-1]) * np.diag(block.parts[-1])
    factor: Array = 1 + np.maximum(error**2 / _FAR**2 - variance, 0.0) / noise
    return factor


@dataclass(frozen=True, slots=True)
class Posterior:
    """What known rows say of others.

    Attributes:
        inverse: Of the known rows' covariance, shape (n, n).
        weights: It times their deviations, shape (n,).
    """

    inverse: Array
    weights: Array

    @classmethod
    def of(cls, covariance: Array, y: Array) -> Posterior:
        """From the covariance of known rows and their deviations from the mean function."""
        inverse = np.linalg.inv(covariance).astype(float)
        return cls(inverse, inverse @ y)

    def at(self, cross: Array, own: Array) -> tuple[Array, Array]:
        """Mean and covariance of m other rows.

        Args:
            cross: Covariance with the known rows, shape (m, n).
            own: Covariance among themselves, shape (m, m).
        """
        return cross @ self.weights, own - cross @ self.inverse @ cross.T

    def left_out(self, rows: Index) -> tuple[Array, Array]:
        """Errors, and their covariance, of known rows as the rest of the known rows sees them."""
        covariance = np.linalg.inv(self.inverse[np.ix_(rows, rows)]).astype(float)
        return covariance @ self.weights[rows], covariance


def given(
    mean: Array, covariance: Array, known: NDArray[np.bool_], y: Array
) -> tuple[Array, Array]:
    """Mean and covariance of the rows that are not `known`, once y of those that are is seen."""
    if not np.any(known):
        return mean, covariance
    cross = covariance[np.ix_(known, ~known)]
    gain = np.linalg.solve(covariance[np.ix_(known, known)], cross).T.astype(float)
    left: Array = covariance[np.ix_(~known, ~known)] - gain @ cross
    return mean[~known] + gain @ (y - mean[known]), left


def widening(scores: Sequence[Array], *, groups: int) -> float:
    """Factor on the standard deviation by which 90 % of held-out scores fall inside 90 %.

    Args:
        scores: |error| / standard deviation, an array for each held-out job; jobs count the same.
        groups: Held-out units that are independent. With few of them the largest error that may
            come was likely not met, so the level is taken half a unit higher, as split conformal
            prediction takes it one higher.
    """
    if len(scores) < _FEWEST_JOBS:
        return 1.0
    every = np.concatenate(scores)
    weight = np.concatenate([np.full(len(s), 1 / len(s)) for s in scores])
    order = np.argsort(every)
    share = np.cumsum(weight[order]) / np.sum(weight)
    level = 0.9 * (1 + 0.5 / groups)
    at = every[order][min(int(np.searchsorted(share, level)), len(every) - 1)]
    return float(np.clip(at / 1.645, *_WIDENING))


def alike(one: Array, two: Array) -> Array:
    """1 where labels of two lists are the same, else 0; shape (n, m)."""
    codes: dict[object, int] = {}
    first, second = (
        np.asarray([codes.setdefault(label, len(codes)) for label in labels], dtype=int)
        for labels in (one, two)
    )
    same: Array = (first[:, None] == second[None]).astype(float)
    return same
