"""What a law misses is alike at neighbouring configurations: a small Gaussian process on log time.

Distances are in octaves of workers per node, nodes, micro-batch and accumulation; the correlation
is a squared exponential of them (Rasmussen and Williams 2006, equations 2.25 and 2.26).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from predictors.features import Table

if TYPE_CHECKING:
    from planner.core.distribution import Array

_LENGTHS = {"workers_per_node": 1.0, "nodes": 1.0, "micro_batch": 1.0, "accumulation": 1.5}
"""Octaves over which misfit is alike."""
_FEATURES = 256


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


def octaves_outside(here: Table, there: Table) -> Array:
    """Doublings beyond the range there, over workers per node, nodes and micro-batch; (n,)."""
    total = np.zeros(len(here["workers"]))
    for name in ("workers_per_node", "nodes", "micro_batch"):
        asked, seen = np.log2(here[name]), np.log2(there[name])
        total += np.maximum(asked - seen.max(), 0.0) + np.maximum(seen.min() - asked, 0.0)
    return total


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
