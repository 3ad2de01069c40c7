"""What a law misses is alike at neighbouring placements: a small Gaussian process on log time.

Distances are in octaves of workers per node and of nodes; the correlation is a squared exponential
of them (Rasmussen and Williams 2006, equations 2.25 and 2.26). The micro-batch is no part of it, so
that a larger one never takes less time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from predictors.features import Table, take

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.core.distribution import Array

    Mask = NDArray[np.bool_]

_LENGTHS = {"workers_per_node": 1.0, "nodes": 1.0}
"""Octaves over which misfit is alike."""
_FULL = 2.5
"""Octaves of probed micro-batches that show a job's range."""
_SLOPE = 0.2
"""Standard deviation of the log step for each octave from the only probed micro-batch: steps may
grow by any factor from 1 to 2 in one."""
_FEATURES = 256
_FREEDOM = 4.0
"""Weight of the prior misfit against the residuals, in rows."""
_WILD = 1.3


def interpolate(here: Table, there: Table, *, sigma: float, noise: Array) -> tuple[Array, Array]:
    """How much the misfit here follows that of each row there.

    Args:
        here: n configurations.
        there: Fitted configurations.
        sigma: Standard deviation of the misfit.
        noise: Variance of each fitted row's measurement, shape (rows,).

    Returns:
        Weights on the misfits there, shape (n, rows), and the standard deviation left, (n,).
    """
    variance = sigma**2
    cross = variance * _alike(_position(here), _position(there))
    among = variance * _alike(_position(there), _position(there)) + np.diag(noise)
    weights: Array = np.linalg.solve(among, cross.T).T.astype(float)
    left = variance - np.einsum("nr,nr->n", cross, weights)
    return weights, np.sqrt(np.maximum(left, 0.0))


def alike_noise(here: Table, rng: np.random.Generator, *, size: int) -> Array:
    """Draws of a field that is alike at neighbours as the misfit is; shape (size, n), variance 1.

    By random Fourier features of the kernel (Rahimi and Recht 2007), so that thousands of
    configurations need no square matrix.
    """
    position = _position(here)
    waves = rng.standard_normal((position.shape[1], _FEATURES))
    phase = rng.uniform(0, 2 * np.pi, _FEATURES)
    basis = np.sqrt(2 / _FEATURES) * np.cos(position @ waves + phase)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    result: Array = rng.standard_normal((size, _FEATURES)) @ basis.T
    return result


def interpolate_each(columns: Table, misses: Array, *, sigma: float, noise: Array) -> Array:
    """Misfit at every row as the other rows have it, shape (n,).

    Args:
        columns: n fitted configurations.
        misses: Row i holds what the law that had not seen row i misses of all; shape (n, n).
        sigma: Standard deviation of the misfit.
        noise: Variance of each row's measurement, shape (n,).
    """
    rows = np.arange(len(misses))
    local = np.zeros(len(misses))
    for i in rows:
        others = rows[rows != i]
        here, there = take(columns, rows[rows == i]), take(columns, others)
        weights, _ = interpolate(here, there, sigma=sigma, noise=noise[others])
        local[i] = weights[0] @ misses[i, others]
    return local


def away_sigma(here: Table, there: Table, *, curve: float, octave: float) -> Array:
    """Standard deviation of the log step that being away from the fitted rows adds, shape (n,).

    Where they show little of the range of micro-batches, each octave from them adds as well: how
    much of a pass goes by its samples is open, and with it how steps grow.

    Args:
        here: n configurations.
        there: Fitted configurations.
        curve: An octave or more from every fitted micro-batch.
        octave: Per doubling outside the fitted range.
    """
    apart = np.log2(here["micro_batch"])[:, None] - np.log2(there["micro_batch"])[None, :]
    between = curve * np.sqrt(1 - np.exp(-((apart**2).min(axis=1))))
    slope = _SLOPE * unknown_range(there) * np.abs(apart).min(axis=1)
    outside = octave * octaves_outside(here, there)
    result: Array = np.sqrt(between**2 + slope**2 + outside**2)
    return result


def unknown_range(columns: Table) -> float:
    """How little the fitted rows tell of a job's range of micro-batches: 1 of one batch, 0 of all.

    Those of the fewest workers count, as only between them nothing but the micro-batch differs.
    """
    few = columns["workers"] == columns["workers"].min()
    batches = np.log2(columns["micro_batch"][few])
    return max(1.0 - float(batches.max() - batches.min()) / _FULL, 0.0) ** 2


def octaves_outside(here: Table, there: Table) -> Array:
    """Doublings beyond the range there, over workers per node, nodes and micro-batch; (n,)."""
    total = np.zeros(len(here["workers"]))
    for name in ("workers_per_node", "nodes", "micro_batch"):
        asked, seen = np.log2(here[name]), np.log2(there[name])
        total += np.maximum(asked - seen.max(), 0.0) + np.maximum(seen.min() - asked, 0.0)
    return total


def outrun(columns: Table, y: Array) -> Mask:
    """Which of the steps, s, were longer by far than what more work took.

    Noise only slows: of two rows at one placement, where the one of less work took much longer, it
    was slowed by something else, and the other bounds it. k passes of a batch take at most k / k'
    times what k' passes of it took, or of a larger one. But a row with more processes to load its
    samples bounds none with fewer, nor with an unknown number, which may truly take longer.
    """
    names = ("workers", "nodes", "workers_per_node", "on_cpu")
    place = np.stack([columns[n] for n in names], axis=1)
    alike = (place[:, None] == place[None]).all(axis=2)
    j = columns["loader_workers"]
    alike &= (j[None] <= j[:, None]) | (np.isnan(j[None]) & np.isnan(j[:, None]))
    m, k = columns["micro_batch"], columns["accumulation"]
    larger = (m[None] > m[:, None]) | ((m[None] == m[:, None]) & (k[None] != k[:, None]))
    most = y[None] * np.maximum(k[:, None] / k[None], 1.0)
    bound = np.where(alike & larger, most, np.inf).min(axis=1)
    result: Mask = y > _WILD * bound
    return result


def misfit_ratio(jacobian: Array, miss: Array, found: float, student: float) -> float:
    """Factor on the misfit's variance from the residuals, shrunk towards its prior.

    The residuals carry n minus the effective number of parameters degrees of freedom; a wild one
    counts as Student's t distribution has it.

    Args:
        jacobian: Of the fit, in units of the prior, shape (residuals, parameters).
        miss: Standardised residuals of the rows, shape (n,).
        found: Misfit so far over that of the prior.
        student: Degrees of freedom of a row's error.
    """
    normal = jacobian.T @ jacobian
    used = float(np.trace(np.linalg.solve(normal + np.eye(len(normal)), normal)))
    square = miss**2
    excess = square * (student + 1) / (student + square)
    held = _FREEDOM / found**2
    return (held + float(excess.sum())) / (_FREEDOM + max(len(miss) - used, 0.0))


def half_spread(deviations: Array, *, below: bool) -> Array:
    """Root mean square of an ensemble's deviations on one side of its centre, shape (n,).

    For a normal sample this is its standard deviation. Without members it is zero.

    Args:
        deviations: Shape (members, n).
        below: The lower side, else the upper one.
    """
    side = np.minimum(deviations, 0.0) if below else np.maximum(deviations, 0.0)
    result: Array = np.sqrt(2.0 * (side**2).sum(axis=0) / max(len(deviations), 1))
    return result


def _position(columns: Table) -> Array:
    return np.stack([np.log2(columns[name]) / size for name, size in _LENGTHS.items()], axis=1)


def _alike(here: Array, there: Array) -> Array:
    distance = ((here[:, None, :] - there[None, :, :]) ** 2).sum(axis=2)
    result: Array = np.exp(-0.5 * distance)
    return result
