"""`MemoryRegressor`: peak memory of one worker, and the probability of running out of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from math import inf
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from planner.core.distribution import I50
from predictors.estimator import Estimator
from predictors.features import Table, table, take, targets
from predictors.memory_law import (
    SIZE,
    Parts,
    StateBytes,
    other_context,
    parts_of,
    prior,
    quantiles_of,
)
from predictors.memory_trials import Trial, bounded, trials_of
from predictors.posterior import optimise, perturbations

if TYPE_CHECKING:
    from planner.core.distribution import Array
    from predictors.features import Index

_KIND = "memory/2"
_STUCK = 4.0
"""A member whose cost is so much above that from another start did not get to where it should."""
_CONTEXT_BYTES = 5e8
"""What a GPU's context takes beside what torch's counter tells; a guess where it was not seen."""


class MemoryRegressor(Estimator):
    """Peak memory of one worker, bytes, and its parts, from trials at one or more micro-batches.

    The law is that of `predictors.memory_law`, fitted as an ensemble: what the trials leave open
    shows as width. Memory is what torch's counter of the GPU calls allocated, which is what the job
    needs, or peak resident memory on CPU slots. A trial that ran out of memory bounds the law from
    below. Every member grows with the micro-batch, and so do all quantiles.

    P(out of memory) compares the need with the capacity less the GPU's context, which the counter
    does not tell, and asks for some slack: blocks are rounded up to 2 MB, and free ones between
    others may not fit. What the allocator holds beyond that (reserved) it gives back before it
    fails, so it does not count. From trials that fitted and failed P is at most 0.03 and at least
    0.97 where as much memory and no larger, or no smaller, batches are asked for.

    Args:
        members: Size of the ensemble.
        sigma: Standard deviation of log(measured / law) of a GPU's counter.
        resident_sigma: The same of resident memory, which differs from trial to trial.
        slack: What must stay free, as a share of the peak.
        slack_sigma: Its standard deviation.
        transfer_sigma: Additional standard deviation of the logarithm on another kind of GPU, or
            another pool of CPU slots.
        other_kind_sigma: The same on a GPU when trials were made on a CPU, or the other way round.
        random_state: Seed of the ensemble.

    Attributes:
        theta_: Parameters, shape (members, SIZE); row 0 is the most probable fit.
        state_: Bytes of weights, gradients and optimiser state.
        reference_: The micro-batch that `theta_` tells the activations at.
        on_cpu_: Whether memory is resident memory.
        sigma_: The standard deviation that counts, or as much as the trials contradict each other.
    """

    def __init__(
        self,
        *,
        members: int = 64,
        sigma: float = 0.03,
        resident_sigma: float = 0.04,
        slack: float = 0.02,
        slack_sigma: float = 0.015,
        transfer_sigma: float = 0.1,
        other_kind_sigma: float = 0.3,
        random_state: int = 0,
    ) -> None:
        self.members = members
        self.sigma = sigma
        self.resident_sigma = resident_sigma
        self.slack = slack
        self.slack_sigma = slack_sigma
        self.transfer_sigma = transfer_sigma
        self.other_kind_sigma = other_kind_sigma
        self.random_state = random_state

    # ---- fitting

    def fit(
        self,
        X: Any,
        y: Any,
        out_of_memory: Any = None,
        *,
        state: StateBytes | None = None,
        capacity_bytes: Any = None,
        context_bytes: float | None = None,
    ) -> Self:
        """Learn from measured peaks.

        Args:
            X: Configurations; `workers`, `micro_batch` and `on_cpu` are used.
            y: Peak bytes of one worker; the capacity where the trial ran out of memory.
            out_of_memory: True where it did; None for nowhere.
            state: What the job keeps from step to step; where it is larger than a peak that was
                measured it says nothing, and is left out.
            capacity_bytes: What each worker could have used, not-a-number where that is unknown.
            context_bytes: What a GPU's context takes; None for a usual one.

        Raises:
            ValueError: Columns or values are wrong, or every trial ran out of memory.
        """
        columns = table(X)
        y = targets(y, len(columns["workers"]), unit="bytes")
        failed = np.zeros(len(y), bool)
        if out_of_memory is not None:
            failed = np.asarray(out_of_memory, dtype=bool)
        capacity = np.full(len(y), np.nan)
        if capacity_bytes is not None:
            capacity = np.asarray(capacity_bytes, dtype=float)
        for name, given in (("out_of_memory", failed), ("capacity_bytes", capacity)):
            if given.shape != y.shape:
                raise ValueError(f"{name} needs shape {y.shape}, got {given.shape}")
        if failed.all():
            raise ValueError("need at least one trial that did not run out of memory")
        self.on_cpu_ = bool(columns["on_cpu"].mean() > 0.5)
        self.context_bytes_ = 0.0 if self.on_cpu_ else _CONTEXT_BYTES
        if context_bytes is not None:
            if not 0 <= context_bytes < inf:
                raise ValueError(f"context_bytes must be a finite number of bytes: {context_bytes}")
            self.context_bytes_ = float(context_bytes)
        self.trials_: tuple[Trial, ...] = trials_of(columns, np.where(failed, y, capacity), failed)
        self.state_ = state or StateBytes()
        if self.state_.weights + self.state_.optimizer > 0.98 * y[~failed].min():
            self.state_ = StateBytes()
        self.reference_ = float(np.exp(np.mean(np.log(columns["micro_batch"]))))
        self._fit_law(columns, y, failed)
        self.n_features_in_ = 3
        return self

    def _fit_law(self, columns: Table, y: Array, failed: Index) -> None:
        """Fit; once more, and wider, where the trials differ by more than they should."""
        sigma = self.resident_sigma if self.on_cpu_ else self.sigma
        bound = np.where(failed, np.maximum(self.usable(y), 0.1 * y), y)
        self.theta_: Array = self._optimise(columns, bound, failed, sigma)
        off = np.log(parts_of(self.theta_[:1], self.state_, self.reference_, columns).peak[0] / y)
        left = float(np.sqrt(np.mean(off[~failed] ** 2)))
        self.sigma_ = float(np.hypot(sigma, 2 * left)) if left > sigma else sigma
        if self.sigma_ > sigma:
            self.theta_ = self._optimise(columns, bound, failed, self.sigma_)

    def _optimise(self, columns: Table, y: Array, failed: Index, sigma: float) -> Array:
        mean, sd = prior(y[~failed], self.state_, on_cpu=self.on_cpu_)
        noise, prior_noise = perturbations(self.members, len(y), SIZE, self.random_state)
        log_y = np.log(y)

        def residuals(theta: Array, member: Index) -> Array:
            peak = parts_of(theta, self.state_, self.reference_, columns).peak
            off = (np.log(peak) - log_y) / sigma + noise[member]
            # A trial that ran out of memory only says that the law lies above: one-sided.
            return np.where(failed, np.minimum(off, 0.0), off)

        drawn = mean + sd * prior_noise
        one = optimise(residuals, drawn, sd)
        if not self.state_.known:
            return one.theta
        # Where the optimiser's step is the peak at every trial, nothing tells a member to move.
        # Then another start counts, with all that is no state in the activations.
        busy = drawn.copy()
        busy[:, 1] = np.log(y[~failed].max() - self.state_.weights - self.state_.optimizer)
        two = optimise(residuals, drawn, sd, start=busy)
        stuck = one.cost > two.cost + _STUCK
        result: Array = np.where(stuck[:, None], two.theta, one.theta)
        return result

    # ---- predicting

    def predict(self, X: Any) -> Array:
        """Median peaks, bytes, shape (n,)."""
        return self.predict_distribution(X)[:, I50]

    def predict_distribution(self, X: Any) -> Array:
        """Quantiles of the peak, bytes, shape (n, len(LEVELS))."""
        self._check_fitted()
        columns, back = _distinct(table(X))
        return quantiles_of(self._peaks(columns), self.sigma_)[back]

    def parts(self, X: Any) -> Parts:
        """What the most probable peak is made of, bytes, each of shape (1, n)."""
        self._check_fitted()
        return parts_of(self.theta_[:1], self.state_, self.reference_, table(X))

    def p_oom(self, X: Any, capacity_bytes: Any) -> Array:
        """Probability that a worker needs more than its capacity, shape (n,).

        Args:
            X: Configurations.
            capacity_bytes: Shape (n,); not-a-number or infinity where nothing limits it.
        """
        self._check_fitted()
        capacity = np.asarray(capacity_bytes, dtype=float)
        capacity = np.where(np.isfinite(capacity), capacity, np.inf)
        columns, back = _distinct({**table(X), "capacity": capacity})
        capacity = columns["capacity"]
        usable = np.maximum(self.usable(capacity), 1.0)
        sigma = float(np.hypot(self.sigma_, self.slack_sigma))
        distance = (np.log(self._peaks(columns)) - np.log(usable)) / sigma
        risk: Array = _normal_cdf(distance).mean(axis=0)
        return bounded(risk, self.trials_, columns, capacity)[back]

    def carried_over(self, *, on_cpu: bool) -> Self:
        """The same job on a kind of machine that it was not tried on, less certain.

        Weights, gradients, optimiser state and activations stay what they are but for work spaces
        and kernels, which differ; a context of the other kind is not known any better than before
        any trial. Trials made here say nothing of what fits there.

        Args:
            on_cpu: Whether workers compute on CPU slots there.
        """
        self._check_fitted()
        result = copy.copy(self)
        alike = on_cpu == self.on_cpu_
        more = self.transfer_sigma if alike else self.other_kind_sigma
        result.sigma_ = float(np.hypot(self.sigma_, more))
        result.trials_ = ()
        if not alike:
            result.on_cpu_ = on_cpu
            result.context_bytes_ = 0.0 if on_cpu else _CONTEXT_BYTES
            if self.state_.known:
                result.theta_ = self.theta_.copy()
                _, draws = perturbations(len(self.theta_), 0, 1, self.random_state)
                result.theta_[:, 0] = other_context(on_cpu=on_cpu, z=draws[:, 0])
        return result

    def _peaks(self, columns: Table) -> Array:
        """Peaks of the ensemble, bytes, shape (members, n)."""
        return parts_of(self.theta_, self.state_, self.reference_, columns).peak

    def usable(self, capacity: Array) -> Array:
        """What a peak may be, bytes, to fit into so much memory with the usual slack."""
        usable: Array = (capacity - self.context_bytes_) / (1 + self.slack)
        return usable

    def leave_one_out(self, X: Any, y: Any, *, state: StateBytes | None = None) -> Array:
        """Median prediction for every row from the others, bytes.

        Raises:
            ValueError: Fewer than two rows.
        """
        columns = table(X)
        y = targets(y, len(columns["workers"]), unit="bytes")
        if len(y) < 2:
            raise ValueError("leaving one out needs at least two rows")
        rows = np.arange(len(y))
        result = np.empty(len(y))
        for i in rows:
            left = type(self)(**self.get_params())
            left.fit(take(columns, rows[rows != i]), y[rows != i], state=state)
            result[i] = left.predict(take(columns, [int(i)]))[0]
        return result

    # ---- keeping

    def to_json(self) -> dict[str, Any]:
        """The fitted regressor as plain JSON values."""
        self._check_fitted()
        return {
            "kind": _KIND,
            "params": self.get_params(),
            "theta": self.theta_.tolist(),
            "state": asdict(self.state_),
            "reference": self.reference_,
            "on_cpu": self.on_cpu_,
            "sigma": self.sigma_,
            "context_bytes": self.context_bytes_,
            "trials": [asdict(trial) for trial in self.trials_],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` gave.

        Raises:
            ValueError: Not such a document.
        """
        if data.get("kind") != _KIND:
            raise ValueError(f"not a memory model: kind is {data.get('kind')!r}")
        model = cls(**data["params"])
        model.theta_ = np.asarray(data["theta"], dtype=float)
        model.state_ = StateBytes(**data["state"])
        model.reference_ = float(data["reference"])
        model.on_cpu_ = bool(data["on_cpu"])
        model.sigma_ = float(data["sigma"])
        model.context_bytes_ = float(data["context_bytes"])
        model.trials_ = tuple(Trial(**trial) for trial in data["trials"])
        model.n_features_in_ = 3
        return model


def _normal_cdf(z: Array) -> Array:
    """Standard normal distribution function, within 1e-7 (Abramowitz and Stegun, 7.1.26)."""
    x = np.abs(z) / np.sqrt(2.0)
    t = 1 / (1 + 0.3275911 * x)
    series = 0.254829592 + t * (
        -0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))
    )
    tail = 0.5 * t * series * np.exp(-(x**2))
    result: Array = np.where(z > 0, 1 - tail, tail)
    return result


def _distinct(columns: Table) -> tuple[dict[str, Array], Index]:
    """The rows that differ in what memory depends on, and which of them each row is."""
    names = [name for name in ("workers", "micro_batch", "capacity") if name in columns]
    rows = np.stack([columns[name] for name in names], axis=1)
    rows[:, 0] = 1 + (rows[:, 0] > 1)
    rows, back = np.unique(rows, axis=0, return_inverse=True)
    return {name: rows[:, i] for i, name in enumerate(names)}, back.reshape(-1)
