"""What a worker's peak memory is made of, and what is known of the parts before any trial.

Between two steps training keeps weights W, optimiser state O and, while a step is under way, what
is there of the gradients G; for each sample of the micro-batch m the forward pass adds what the
backward pass needs. The peak is at one of two moments::

    forward  = kept G + A (m / reference)^curvature        the forward pass is done
    step     = (1 + scratch) G                             the optimiser steps, activations are gone
    peak     = context + W + O + max(forward, step) + synchronisation (replicas > 1)

so that below some micro-batch a larger one takes no more memory at all. `kept` is 0 where all
layers are alike (a transformer: activations go as gradients come) and 1 where the first layers
hold most activations and the last ones most weights (a ResNet: nearly all gradients are there
before the largest activations go). Data parallel workers also hold buckets as large as all
gradients (Li et al., VLDB 2020, section 3.2.3). Where the sizes of W, G and O are not known they
are zero here, and part of the context.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from planner.core.distribution import LEVELS

if TYPE_CHECKING:
    from planner.core.distribution import Array
    from predictors.features import Table

_NODES = np.asarray([NormalDist().inv_cdf((i + 0.5) / 15) for i in range(15)])
"""A standard normal distribution as 15 values, each as probable."""
SIZE = 6
"""Parameters: logs of context, activations and synchronisation; curvature less 1; logit of the
kept share of gradients; log of the optimiser's scratch."""

_CONTEXT_BYTES = {True: (5e8, 0.6), False: (1e7, 2.0)}
"""On CPU slots an interpreter and its libraries; on a GPU work spaces only, since its counter tells
of tensors alone. Median and standard deviation of the logarithm, by whether it is a CPU."""
_CURVATURE_SD = {True: 0.15, False: 0.05}
"""By whether it is a CPU: what tensors take is a line, what the C library keeps of it is not."""
_UNKNOWN_CURVATURE_SD = {True: 0.15, False: 0.1}
"""Without the sizes of the state a flat beginning cannot be told from a slow growth."""
_ACTIVATIONS = {True: (0.1, 2.5), False: (0.3, 2.5)}
"""Share of what is neither weights nor optimiser state: nearly all of it on a GPU with a batch of
usual size, next to nothing with the smallest one."""
_KEPT_LOGIT = (0.0, 2.5)
_SCRATCH_LOG = (float(np.log(0.5)), 1.0)
_BUCKETS_LOG_SD = 0.5
_UNKNOWN_STATE = ((0.6, 1.0), (0.1, 2.5), (0.03, 1.0))
"""Context, activations and buckets as shares of a peak of which only the size is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBytes:
    """What training keeps on one worker from step to step, bytes; zero where it is not known."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0

    def __post_init__(self) -> None:
        for name in ("weights", "gradients", "optimizer"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be bytes, got {value!r}")

    @property
    def known(self) -> bool:
        """Whether the sizes are known."""
        return self.weights > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A worker's peak, bytes; each of shape (members, n) or broadcast to it. They add up to it.

    Attributes:
        context: What does not depend on the job's state or batch: on CPU slots the interpreter and
            its libraries; with the state where that is not known.
        gradients: Those that are there at the peak, with the optimiser's scratch.
        activations: What the forward pass keeps; 0 where the peak is the optimiser's.
        synchronisation: Buckets of data parallel workers.
    """

    context: Array
    weights: Array
    optimizer: Array
    gradients: Array
    activations: Array
    synchronisation: Array

    @property
    def peak(self) -> Array:
        """Their sum."""
        held = self.context + self.weights + self.optimizer
        result: Array = held + self.gradients + self.activations + self.synchronisation
        return result


def parts_of(
    theta: Array,
    state: StateBytes,
    reference: float,
    columns: Table,
    *,
    shards: tuple[Array | float, Array | float, Array | float] = (1.0, 1.0, 1.0),
) -> Parts:
    """The parts at each configuration.

    Args:
        theta: Shape (members, SIZE).
        state: Of the job.
        reference: The micro-batch that the activations are told at.
        columns: `workers` (replicas, if those are spread) and `micro_batch`, n of each.
        shards: Workers that share weights, gradients and optimiser state; each a number or (n,).
    """
    log_bytes = np.clip(theta[:, :3], 0.0, 36.0)
    context, activations, buckets = (np.exp(log_bytes[:, i : i + 1]) for i in range(3))
    power = np.clip(1.0 + theta[:, 3:4], 0.5, 1.5)
    kept = 1.0 / (1.0 + np.exp(-np.clip(theta[:, 4:5], -20, 20)))
    scratch = np.exp(np.clip(theta[:, 5:6], -10.0, 1.0))
    grown = activations * (columns["micro_batch"] / reference) ** power
    gradients = state.gradients / shards[1] * np.ones_like(grown)
    forward, step = kept * gradients + grown, (1.0 + scratch) * gradients
    in_forward = forward >= step
    return Parts(
        context=context * np.ones_like(grown),
        weights=state.weights / shards[0] * np.ones_like(grown),
        optimizer=state.optimizer / shards[2] * np.ones_like(grown),
        gradients=np.where(in_forward, kept * gradients, step),
        activations=np.where(in_forward, grown, 0.0),
        synchronisation=buckets * (columns["workers"] > 1),
    )


def prior(y: Array, state: StateBytes, *, on_cpu: bool) -> tuple[Array, Array]:
    """Means and standard deviations of the parameters, both of shape (SIZE,).

    Args:
        y: Peaks that were measured, bytes, shape (rows,).
        state: Of the job; smaller than each of them.
        on_cpu: Whether memory is resident memory of processes.
    """
    typical = float(np.exp(np.mean(np.log(y))))
    held = state.weights + state.optimizer
    if state.known:
        usual, context_sd = _CONTEXT_BYTES[on_cpu]
        context = (np.log(min(usual, 0.6 * (float(y.min()) - held))), context_sd)
        share, spread = _ACTIVATIONS[on_cpu]
        activations = (np.log(share * (typical - held)), spread)
        buckets = (np.log(max(state.gradients, 1.0)), _BUCKETS_LOG_SD)
    else:
        parts = ((np.log(share * typical), spread) for share, spread in _UNKNOWN_STATE)
        context, activations, buckets = parts
    curvature = (_CURVATURE_SD if state.known else _UNKNOWN_CURVATURE_SD)[on_cpu]
    rows = (
        context,
        activations,
        buckets,
        (0.0, curvature),
        _KEPT_LOGIT,
        _SCRATCH_LOG,
    )
    mean, sd = np.asarray(rows, dtype=float).T
    return mean, sd


def other_context(*, on_cpu: bool, z: Array) -> Array:
    """Logarithms of the context before any trial on such a machine, at standard normal `z`."""
    median, spread = _CONTEXT_BYTES[on_cpu]
    result: Array = np.log(median) + spread * z
    return result


def quantiles_of(peaks: Array, sigma: float) -> Array:
    """Of each column's members, with an error of their logarithm; shape (n, len(LEVELS)).

    Members that grow with the micro-batch make quantiles that grow with it.
    """
    members, n = peaks.shape
    values = peaks.T[:, :, None] * np.exp(sigma * _NODES)
    ordered = np.sort(values.reshape(n, members * len(_NODES)), axis=1)
    place = np.asarray(LEVELS) * (ordered.shape[1] - 1)
    below = place.astype(int)
    low, high = ordered[:, below], ordered[:, np.minimum(below + 1, ordered.shape[1] - 1)]
    result: Array = low + (place - below) * (high - low)
    return result
