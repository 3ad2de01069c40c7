"""Bayesian least squares by an ensemble of perturbed fits, many fits at once, in numpy alone.

Parameters are on a scale where their priors are normal. One fit minimises
``|residuals(theta)|^2 + |(theta - prior mean) / prior sd|^2`` with a Levenberg-Marquardt step
(Marquardt 1963, doi:10.1137/0111030). For an ensemble, every member sees observations and prior
means with noise added at their own standard deviations and is optimised again (randomised maximum
likelihood: Chen and Oliver 2012, doi:10.1007/s11004-011-9376-z): exact for linear models, and for
others better than a Gaussian at the mode. Members are rows of one array, so 48 fits cost
little more than one; leaving out one row at a time is such a batch as well, with that row's weight
at zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from planner.core.distribution import Array
    from predictors.features import Index

Residuals = Callable[["Array", "Index"], "Array"]
"""(theta of shape (s, p), member index of shape (s,)) -> standardised residuals, (s, rows)."""

_STEP = 1e-5
_MAX_MOVE = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Optimised members.

    Attributes:
        theta: Shape (members, parameters).
        cost: What was minimised, shape (members,).
        jacobian: Of the residuals, prior rows left out; shape (members, rows, parameters).
    """

    theta: Array
    cost: Array
    jacobian: Array


def optimise(
    residuals: Residuals,
    prior_mean: Array,
    prior_sd: Array,
    *,
    start: Array | None = None,
    iterations: int = 60,
) -> Fit:
    """Minimise the residuals plus the prior for every member.

    Args:
        residuals: See `Residuals`.
        prior_mean: Shape (members, parameters).
        prior_sd: Shape (parameters,).
        start: Where each member starts, shape of `prior_mean`; None for there.
        iterations: At most so many steps.
    """
    members = np.arange(len(prior_mean))
    theta = (prior_mean if start is None else start).copy()
    damping = np.full(len(theta), 1e-2)
    value, jacobian = _linearise(residuals, theta, members)
    cost = _cost(value, theta, prior_mean, prior_sd)
    precision = np.diag(prior_sd**-2)
    for _ in range(iterations):
        gradient = np.einsum("srp,sr->sp", jacobian, value)
        gradient += (theta - prior_mean) / prior_sd**2
        normal = np.einsum("srp,srq->spq", jacobian, jacobian) + precision
        diagonal = np.einsum("spp->sp", normal)
        damped = normal + np.eye(theta.shape[1]) * (damping[:, None] * diagonal)[:, None, :]
        move = -np.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
        move = np.clip(move, -_MAX_MOVE, _MAX_MOVE)
        trial = theta + move
        trial_cost = _cost(residuals(trial, members), trial, prior_mean, prior_sd)
        better = trial_cost < cost
        gain = np.where(better, cost - trial_cost, 0.0)
        theta = np.where(better[:, None], trial, theta)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-9, 1e9)
        done = np.all((gain < 1e-7 * (1 + cost)) & (better | (damping > 1e3)))
        cost = np.where(better, trial_cost, cost)
        if done:
            break
        value, jacobian = _linearise(residuals, theta, members)
    return Fit(theta=theta, cost=cost, jacobian=jacobian)


def robust(residuals: Array, freedom: float) -> Array:
    """Standardised residuals whose squares grow as minus twice Student's log density.

    So that least squares on them is a fit with Student's t errors, and one wild row pulls little.
    """
    result: Array = np.sign(residuals) * np.sqrt((freedom + 1) * np.log1p(residuals**2 / freedom))
    return result


def _cost(value: Array, theta: Array, prior_mean: Array, prior_sd: Array) -> Array:
    prior = ((theta - prior_mean) / prior_sd) ** 2
    result: Array = (value**2).sum(axis=1) + prior.sum(axis=1)
    return result


def _linearise(residuals: Residuals, theta: Array, members: Index) -> tuple[Array, Array]:
    """Residuals and their Jacobian by forward differences, all in one call."""
    size, count = theta.shape
    shifted = np.concatenate([theta[:, None, :], theta[:, None, :] + _STEP * np.eye(count)], axis=1)
    flat = shifted.reshape(size * (count + 1), count)
    values = residuals(flat, np.repeat(members, count + 1)).reshape(size, count + 1, -1)
    jacobian = (values[:, 1:, :] - values[:, :1, :]) / _STEP
    return values[:, 0, :], np.swapaxes(jacobian, 1, 2)


def perturbations(size: int, rows: int, parameters: int, seed: int) -> tuple[Array, Array]:
    """Standard normal noise for `size` members: (size, rows) and (size, parameters).

    Member 0 has none: it is the most probable fit. The others come in pairs of opposite sign, so
    that few members already centre well.
    """
    rng = np.random.default_rng(seed)
    half = size // 2
    draws = rng.standard_normal((half, rows + parameters))
    noise = np.concatenate([np.zeros((1, rows + parameters)), draws, -draws])[:size]
    return noise[:, :rows], noise[:, rows:]
