"""`RunTimeRegressor`: from the launch of a job to its end, as a distribution."""

from __future__ import annotations

from copy import copy, deepcopy
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from planner.core.distribution import I05, I50, I95, LEVELS, Z, add_independent
from predictors import run_parts
from predictors.base import DistributionRegressor
from predictors.columns import named_columns, not_negative, positive
from predictors.conformal import Calibration
from predictors.estimator import Estimator
from predictors.features import COLUMNS, LAYOUT, Table, by_replica, check_layout, table, targets
from predictors.interruptions import RESTART_S, interrupted, ordered
from predictors.run_parts import MEASURED, RunParts
from predictors.step_law import Scale, Terms, compute_per_sample_s
from predictors.step_time import StepTimeRegressor
from predictors.transfer import MachineRatio, Ratio

if TYPE_CHECKING:
    from planner.core.distribution import Array

WORK: tuple[str, ...] = (
    "samples",
    "epochs",
    "tail_samples",
    "checkpoint_interval_s",
    "interruptions_per_h",
)
"""Columns of what there is to do, beside `features.COLUMNS`.

`samples`: training samples of one epoch. `epochs`: passes over them. `tail_samples`: other samples
of the data set, which evaluations see; not-a-number, the default, where nobody knows: they then
take what they took in trials. `checkpoint_interval_s`: 0, the default, for
none but the last. `interruptions_per_h`: while it runs (default 0). Also taken is `wait_s`, until
it may start: a vector (n,), or quantiles (n, len(LEVELS)); default 0.
"""
_DEFAULTS = {
    "tail_samples": np.nan,
    "checkpoint_interval_s": 0.0,
    "interruptions_per_h": 0.0,
    **dict.fromkeys(LAYOUT, 1.0),
}
_TRIAL = ("steps", "step_time_s", "loader_wait_s", "unsteadiness", "crowding")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """What runs take, quantiles in s of shape (n, len(LEVELS)) where nothing else is said.

    Attributes:
        step_s: One optimiser step.
        plain_s: Running, without interruptions, and without drift of the machine between trial and
            run: what the model is unsure of alone.
        run_s: Running, with both.
        total_s: Waiting and running.
        interruptions: Expected number of them, shape (n,).
    """

    step_s: Array
    plain_s: Array
    run_s: Array
    total_s: Array
    interruptions: Array


class StepModel(DistributionRegressor, Protocol):
    """What `RunTimeRegressor` needs of a regressor of steps; see `StepTimeRegressor`."""

    theta_: Array
    scale_: Scale

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from measured steps, s."""

    def log_moments(self, X: Any) -> tuple[Array, Array, Array]:
        """Median of log(s), and standard deviations below and above it; each (n,)."""

    def log_draws(self, X: Any, rng: np.random.Generator, *, size: int) -> Array:
        """Joint draws of the log step time, shape (size, n)."""

    def terms(self, X: Any) -> Terms:
        """Parts of a step under the most probable fit, arrays of shape (n,)."""


class RunTimeRegressor(Estimator):
    """Time of a whole run, s: wait, start, steps, evaluations, checkpoints, restarts, finish.

    Steps follow `predictors.step_time`, the parts beside them `predictors.run_parts`, interruptions
    `predictors.interruptions`. What is fixed in a run is learned as fixed from short trials and
    does not grow with the data. Drift of the machine between trial and run multiplies the whole
    (`predictors.conformal`).

    Args:
        step: Not fitted, for the steps; None for `StepTimeRegressor()`.
        calibration: How wide intervals must be, from finished runs; None before there are any.
        saves: Whether the job may write checkpoints.
        restart_s: From an interruption to the first step after it.

    Attributes:
        step_: `step`, fitted.
        parts_: What trials showed of everything but the steps.
        unsteadiness_: Of the machine's steps: `features.unsteadiness`, the median of the trials.
        crowding_: Of the machine: `features.crowding`, the largest of the trials.
    """

    def __init__(
        self,
        *,
        step: StepModel | None = None,
        calibration: Calibration | None = None,
        saves: bool = True,
        restart_s: float = RESTART_S,
    ) -> None:
        self.step = step
        self.calibration = calibration
        self.saves = saves
        self.restart_s = restart_s

    # ---- fitting

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from short trials of the job.

        Args:
            X: One row per trial: `features.COLUMNS`, and `steps`, the optimiser steps it made, or
                `step_time_s`, their steady pace; `run_parts.MEASURED`, the parts that were timed
                (what was not is not-a-number, or the column is left out); `unsteadiness`,
                `crowding` and `loader_wait_s` where known.
            y: Wall time of each trial, s. Where its pace was not measured, that is what the timed
                parts leave of the wall time, over its steps.
            sample_weight: As `StepTimeRegressor.fit` takes it.

        Raises:
            ValueError: Columns or values are wrong, or the parts of a trial take longer than all
                of it.
        """
        trials = table(X, optional=(*_TRIAL, *MEASURED, *LAYOUT))
        n = len(trials["workers"])
        wall_s = targets(y, n, unit="s")
        for name in (*_TRIAL, *MEASURED):
            trials.setdefault(name, np.full(n, np.nan))
            if np.any(np.isinf(trials[name])):
                raise ValueError(f"column {name!r} must hold finite numbers, or not-a-number")
        for name in LAYOUT:
            trials.setdefault(name, np.ones(n))
        check_layout(trials)
        if not 0 <= self.restart_s < inf:
            raise ValueError(f"restart_s must be finite, not negative seconds: {self.restart_s}")
        step_s = _pace(trials, wall_s)
        self.step_: StepModel = deepcopy(self.step or StepTimeRegressor())
        self.step_.fit(trials, step_s, sample_weight)
        self.parts_: RunParts = run_parts.parts_of(trials, saves=self.saves)
        self.unsteadiness_ = float(np.median(np.nan_to_num(trials["unsteadiness"])))
        self.crowding_ = float(np.max(np.nan_to_num(trials["crowding"])))
        self.ratio_: MachineRatio | None = None
        self.n_features_in_ = len(COLUMNS) + len(WORK)
        return self

    def carried(self, ratio: MachineRatio) -> Self:
        """The same job on another kind of machine: steps by `ratio`, all else as it is here."""
        self._check_fitted()
        there = copy(self)
        there.ratio_ = ratio
        return there

    # ---- predicting

    def predict(self, X: Any) -> Array:
        """Median total times, waiting included, s, shape (n,)."""
        result: Array = self.predict_distribution(X)[:, I50]
        return result

    def predict_distribution(self, X: Any) -> Array:
        """Quantiles of the total time, waiting included, s, shape (n, len(LEVELS))."""
        return self.runs(X).total_s

    def runs(self, X: Any) -> Runs:
        """What whole runs take, and what that is made of.

        Args:
            X: `features.COLUMNS`, `WORK` and `wait_s`, one row per run.

        Raises:
            ValueError: Columns or values are wrong.
        """
        self._check_fitted()
        columns, wait_s = _work(X)
        ratio = self._ratio(columns)
        step_s = self._step_quantiles(columns, ratio)
        plain_s = self._plain(columns, step_s, ratio)
        running_s = self._widen(plain_s)
        run_s, expected = interrupted(
            running_s,
            per_h=columns["interruptions_per_h"],
            checkpoint_interval_s=columns["checkpoint_interval_s"] * self.saves,
            restart_s=self.restart_s,
        )
        return Runs(
            step_s=self._widen(step_s),
            plain_s=plain_s,
            run_s=run_s,
            total_s=ordered(add_independent(wait_s, run_s)),
            interruptions=expected,
        )

    def draws(self, X: Any, rng: np.random.Generator, *, size: int) -> Array:
        """Joint draws of the running time without interruptions, s, shape (size, n).

        What no trial narrows (drift of the machine, the parts that are no steps) stays at its
        median.
        """
        self._check_fitted()
        columns, _ = _work(X)
        ratio = self._ratio(columns)
        step_s = self._step_quantiles(columns, ratio)
        log_step = self.step_.log_draws(columns, rng, size=size)
        log_step += ratio.log_mean + ratio.log_sd * rng.standard_normal((size, 1))
        training = columns["epochs"] * self._steps_per_epoch(columns)
        result: Array = self._plain(columns, step_s, ratio)[:, I50] + training * (
            np.exp(log_step) - step_s[:, I50]
        )
        return result

    def _ratio(self, columns: Table) -> Ratio:
        if self.ratio_ is None:
            return Ratio.one(len(columns["workers"]))
        return self.ratio_.at(self.step_, columns)

    def _step_quantiles(self, columns: Table, ratio: Ratio) -> Array:
        """Quantiles of the step time without drift, s, shape (n, len(LEVELS))."""
        centre, low, high = self.step_.log_moments(columns)
        z = np.asarray(Z)
        sigma = np.where(z < 0, np.hypot(low, ratio.log_sd)[:, None], 0.0)
        sigma = sigma + np.where(z >= 0, np.hypot(high, ratio.log_sd)[:, None], 0.0)
        result: Array = np.exp((centre + ratio.log_mean)[:, None] + sigma * z)
        return result

    def _plain(self, columns: Table, step_s: Array, ratio: Ratio) -> Array:
        sample_s = float(compute_per_sample_s(self.step_.theta_[:1], self.step_.scale_)[0])
        return run_parts.run_quantiles(
            self.parts_,
            columns,
            epoch_s=step_s * self._steps_per_epoch(columns)[:, None],
            sample_s=sample_s * np.exp(ratio.log_mean),
        )

    def _steps_per_epoch(self, columns: Table) -> Array:
        """How many full steps an epoch is worth, its last, shorter one in proportion; (n,).

        One more pass makes all passes smaller, which a pipeline is faster with: the last step takes
        no less than one of fewer, full passes, which would be of fewer samples.
        """
        plan = run_parts.steps_of(by_replica(columns))
        full_s = self.step_.terms(columns).step
        last = {**columns, "micro_batch": plan.last_micro_batch}
        last_s = self.step_.terms({**last, "accumulation": plan.last_accumulation}).step
        more = plan.last_accumulation > 1
        if more.any():
            fewer = {**columns, "accumulation": np.maximum(plan.last_accumulation - 1, 1.0)}
            last_s = np.where(more, np.maximum(last_s, self.step_.terms(fewer).step), last_s)
        result: Array = plan.full + plan.has_last * np.minimum(last_s / full_s, 1.0)
        return result

    def widened(self, plain_s: Array) -> tuple[Array, Array]:
        """By how much finished runs, and company on the machine, made the intervals wider.

        Args:
            plain_s: `Runs.plain_s`.

        Returns:
            Width of the 90 % interval over what it would be without each, as logarithms; (n,).
        """
        shown = self._widen(plain_s)
        without_runs = Calibration().widen(
            plain_s, unsteadiness=self.unsteadiness_, crowding=self.crowding_
        )
        alone = (self.calibration or Calibration()).widen(plain_s, unsteadiness=self.unsteadiness_)
        return _times_as_wide(shown, without_runs), _times_as_wide(shown, alone)

    def _widen(self, quantiles: Array) -> Array:
        calibration = self.calibration or Calibration()
        return calibration.widen(
            quantiles, unsteadiness=self.unsteadiness_, crowding=self.crowding_
        )


def _times_as_wide(shown: Array, other: Array) -> Array:
    """Width of 90 % intervals over that of others, as logarithms, of quantiles (n, len(LEVELS))."""
    one, two = (np.maximum(np.log(q[:, I95] / q[:, I05]), 1e-9) for q in (shown, other))
    result: Array = one / two
    return result


def _pace(trials: Table, wall_s: Array) -> Array:
    """Time of a step in each trial, s: as measured, or what its timed parts leave of it."""
    known = sum(np.nan_to_num(trials[n]) for n in ("start_s", "tail_s", "checkpoint_s", "rest_s"))
    told = trials["step_time_s"]
    steps = trials["steps"]
    left = np.divide(wall_s - known, steps, out=np.full(len(told), np.nan), where=steps > 0)
    step_s: Array = np.where(np.isnan(told), left, told)
    if np.any(np.isnan(step_s)):
        row = int(np.flatnonzero(np.isnan(step_s))[0])
        raise ValueError(f"trial {row} tells neither its steps nor the time of one")
    if not np.all((step_s > 0) & np.isfinite(step_s)):
        row = int(np.flatnonzero(~((step_s > 0) & np.isfinite(step_s)))[0])
        raise ValueError(
            f"trial {row} leaves {step_s[row]:g} s for a step: its parts cannot take longer than"
            f" its {wall_s[row]:g} s"
        )
    return step_s


def _work(X: Any) -> tuple[dict[str, Array], Array]:
    """Columns of what is asked for, defaults filled in, and quantiles of the wait."""
    columns = table(X, optional=(*WORK, *LAYOUT, "global_batch"))
    n = len(columns["workers"])
    missing = [name for name in ("samples", "epochs") if name not in columns]
    if missing:
        raise ValueError(f"missing columns {missing}; there are {sorted(columns)}")
    for name, default in _DEFAULTS.items():
        columns.setdefault(name, np.full(n, default))
    check_layout(columns)
    for name in WORK:
        unknown = np.isnan(columns[name]) & (name == "tail_samples")
        not_negative(np.where(unknown, 0.0, columns[name]), name)
    whole = by_replica(columns)["workers"] * columns["micro_batch"] * columns["accumulation"]
    columns.setdefault("global_batch", whole)
    positive(columns["global_batch"], "global_batch")
    wait = np.asarray((named_columns(X) or {}).get("wait_s", np.zeros(n)), dtype=float)
    if wait.ndim == 1:
        wait = np.repeat(wait[:, None], len(LEVELS), axis=1)
    if wait.shape != (n, len(LEVELS)):
        raise ValueError(
            f"column 'wait_s' must hold {n} times, or {len(LEVELS)} quantiles of each; got shape"
            f" {wait.shape}"
        )
    not_negative(wait, "wait_s")
    return columns, wait
