"""What a worker would take if training state were sharded over workers, which no probe tried."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors.features import table, take
from predictors.memory import MemoryRegressor
from predictors.memory_law import StateBytes, other_context, parts_of, quantiles_of
from predictors.posterior import perturbations

if TYPE_CHECKING:
    from planner.core.distribution import Array
    from predictors.features import Index, Table

_SIGMA = 0.15
"""Standard deviation of the logarithm of the whole: nothing of it was measured."""
_MEASURED_SIGMA = 0.05
"""The same where a peak of other batches was measured."""
_UNITS = (2.5, 0.5)
"""Largest units that are there at a peak: median, standard deviation of the logarithm.

One where the peak is at the end of the forward pass (its weights are gathered), about five in the
backward pass (the next ones on their way, whole gradients, and those being sent), as
tests/benchmarks/bench_memory_fit.py saw it of two models.
"""


def predict_sharded(
    model: MemoryRegressor, X: Any, *, stage: int, largest_unit_bytes: float
) -> Array:
    """Quantiles of a worker's peak, bytes, shape (n, len(LEVELS)); their evidence is `prior`.

    Of N workers each keeps 1/N of the optimiser's state (stage 1), of the gradients too (stage 2)
    and of the weights too (stage 3, FSDP): Rajbhandari et al., ZeRO (SC 2020), section 5. Stage 1
    still has the buckets of data parallel training. Stages 2 and 3 have the gradients of one unit
    until they are reduced, stage 3 also gathers its weights. Activations are not sharded.

    Args:
        model: Fitted, with the sizes of the state.
        X: Configurations; `workers` and `micro_batch` are used.
        stage: 1, 2 or 3.
        largest_unit_bytes: Weights of the largest part that is gathered at once; what belongs to no
            part counts as one.

    Raises:
        ValueError: No such stage, or the sizes of the state or of the unit are not known.
    """
    if stage not in (1, 2, 3):
        raise ValueError(f"stage must be 1, 2 or 3, got {stage!r}")
    if not (np.isfinite(largest_unit_bytes) and largest_unit_bytes >= 0):
        raise ValueError(f"largest_unit_bytes must be bytes, got {largest_unit_bytes!r}")
    columns = table(X)
    model.parts(columns)  # refuses a model that is not fitted
    state, theta = model.state_, model.theta_
    if not state.known:
        raise ValueError("the sizes of weights, gradients and optimiser state are not known")
    n = columns["workers"]
    shards = (n if stage > 2 else 1.0, n if stage > 1 else 1.0, n)
    parts = parts_of(theta, state, model.reference_, columns, shards=shards)
    peak = parts.peak
    if stage > 1:
        _, draws = perturbations(len(theta), 0, 1, model.random_state + 1)
        units = _UNITS[0] * np.exp(_UNITS[1] * draws) if stage > 2 else 1.0
        peak = peak - parts.synchronisation + units * largest_unit_bytes * (n > 1)
    return quantiles_of(peak, float(np.hypot(model.sigma_, _SIGMA)))


def respread(
    model: MemoryRegressor,
    *,
    state_share: float,
    activation_share: float,
    X: Any = None,
    y: Any = None,
    out_of_memory: Any = None,
) -> MemoryRegressor:
    """The model of workers that hold another part of a replica.

    Where the sizes of the state are not known they are part of the context. That stays whole where
    a worker holds less, and grows with the state, but for a usual context, where it holds more: an
    upper bound either way. Peaks that were measured there move all parts by as much as they are
    off; trials that ran out of memory there move the activations until they do not fit.

    Args:
        model: Fitted to workers that hold another part of it.
        state_share: Weights, gradients and optimiser state of a worker there over those here.
        activation_share: Activations there over those here.
        X: Configurations that were tried there; None for none.
        y: Their peaks, bytes; the capacity where the trial ran out of memory.
        out_of_memory: True where it did; None for nowhere.

    Raises:
        ValueError: A share is not positive.
    """
    if not (state_share > 0 and activation_share > 0):
        raise ValueError(f"shares must be positive, got {state_share!r}, {activation_share!r}")
    result = _with_shares(model, state_share, activation_share)
    if state_share > 1 and not model.state_.known:
        usual = float(np.exp(other_context(on_cpu=model.on_cpu_, z=np.zeros(1)))[0])
        context = np.exp(result.theta_[:, 0])
        state = np.maximum(context - usual, 0.0)
        result.theta_[:, 0] = np.log(context + (state_share - 1) * state)
    result.trials_ = ()
    result.sigma_ = float(np.hypot(model.sigma_, _SIGMA))
    if X is None:
        return result
    columns, y = table(X), np.asarray(y, dtype=float)
    failed = np.zeros(len(y), bool) if out_of_memory is None else np.asarray(out_of_memory, bool)
    if not failed.all():
        peaks = result.predict(take(columns, ~failed))
        off = float(np.exp(np.median(np.log(y[~failed] / peaks))))
        result = _with_shares(result, off, off)
        result.theta_[:, 0] += np.log(off)
        result.sigma_ = float(np.hypot(model.sigma_, _MEASURED_SIGMA))
    return _beyond(result, columns, y, failed) if failed.any() else result


def _beyond(model: MemoryRegressor, columns: Table, y: Array, failed: Index) -> MemoryRegressor:
    """With activations, in each member, so large that what ran out of memory did not fit.

    As much wider as that contradicts what was measured.
    """
    lost = take(columns, failed)
    theta, state, reference = model.theta_, model.state_, model.reference_
    parts = parts_of(theta, state, reference, lost)
    # Without gradients the law tells the forward pass, also where the peak is the optimiser's.
    grown = parts_of(theta, StateBytes(), reference, lost).activations
    there = np.where(parts.activations > 0, parts.activations, parts.gradients)
    short = model.usable(y[failed]) - parts.peak
    factor = np.max(np.where(short > 0, (there + short) / grown, 1.0), axis=1)
    factor = np.maximum(factor, 1.0)
    result = copy.copy(model)
    result.theta_ = theta.copy()
    result.theta_[:, 1] += np.log(factor)
    if not failed.all():
        off = np.log(result.predict(take(columns, ~failed)) / y[~failed])
        result.sigma_ = float(np.hypot(model.sigma_, np.sqrt(np.mean(off**2))))
    return result


def _with_shares(model: MemoryRegressor, state: float, activations: float) -> MemoryRegressor:
    """A copy with other sizes; buckets are as large as the gradients."""
    held = model.state_
    model.parts({"workers": [1], "micro_batch": [1]})  # refuses a model that is not fitted
    result = copy.copy(model)
    result.state_ = StateBytes(
        weights=held.weights * state,
        gradients=held.gradients * state,
        optimizer=held.optimizer * state,
    )
    result.theta_ = model.theta_ + np.log([1.0, activations, state, 1.0, 1.0, 1.0])
    return result
