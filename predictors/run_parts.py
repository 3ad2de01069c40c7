"""Parts of a whole run: start, steps, evaluations, checkpoints and finish, added as distributions.

::

    run = start + epochs (steps T) + evaluations + checkpoints + finish

Parts are seconds at the probes' machine speed, so that their errors are independent and add in
quadrature; steps share theirs and add as they are. Drift of the machine between probe and run
multiplies the whole and is added last (`predictors.conformal`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from planner.core.distribution import I50, Z, add_independent
from predictors.features import Table

if TYPE_CHECKING:
    from planner.core.distribution import Array

_FORWARD_SHARE = 1 / 3
"""Evaluating a sample costs a forward pass: a third of training on it."""
_EVALUATED_SHARE = 0.6
"""Share of the non-training samples seen at each epoch's end (the rest is the test split)."""
_EVALUATION_LOG_SD = 0.6
_FINISH_LOG_SD = 0.6
_START_LOG_SD = 0.2
"""Ten pairs of a probe's start and its run's, of scripts that import torch on a shared machine,
differed by 0.29 (standard deviation of the logarithm; 0.16 by their median)."""
_UNSEEN_START_S = 10.0
_UNSEEN_CHECKPOINT_S, _UNSEEN_CHECKPOINT_LOG_SD = 1.0, 2.0
"""From nothing to half a minute: models are small or large, and so are disks."""
_LEAST_CHECKPOINT_S = 1e-9
_LEAST_SHARE = 0.25
"""Of the longest measurement of a part with as many workers: shorter ones count as that long, as
logarithms of next to nothing would rule their mean and spread."""
_PRIOR_ROWS = 4.0
"""So many measurements the noise of a part that is assumed beforehand counts for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A measured part of a run by worker count: pairs of (workers, s), and its noise.

    `log_sd` is the noise of one measurement before any was made; those of one worker count that
    differ more, or less, move it.
    """

    seen: tuple[tuple[int, float], ...]
    log_sd: float
    unseen_s: float = 0.0
    unseen_log_sd: float = 1.0

    def at(self, workers: Array) -> tuple[Array, Array]:
        """Median (s) and standard deviation of the logarithm: that of the nearest worker count."""
        if not self.seen:
            return np.full(len(workers), self.unseen_s), np.full(len(workers), self.unseen_log_sd)
        counts = np.asarray([w for w, _ in self.seen], dtype=float)
        seen_s = np.asarray([s for _, s in self.seen])
        median, sd = np.empty(len(workers)), np.empty(len(workers))
        for value in np.unique(workers):
            distance = np.abs(np.log2(counts / value))
            nearest = distance == distance.min()
            here, near_s = workers == value, seen_s[nearest]
            logs = np.log(np.maximum(near_s, max(_LEAST_SHARE * near_s.max(), 1e-6)))
            median[here] = np.exp(logs.mean())
            sd[here] = self._noise(logs) + 0.15 * distance.min()
        return median, sd

    def _noise(self, logs: Array) -> float:
        """Standard deviation of the logarithm: `log_sd`, as good as `_PRIOR_ROWS`, and these."""
        squares = float(np.sum((logs - logs.mean()) ** 2))
        return sqrt((_PRIOR_ROWS * self.log_sd**2 + squares) / (_PRIOR_ROWS + len(logs) - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunParts:
    """What probes showed of everything but the steps.

    Attributes:
        start: From launch to the first step.
        tail: After an epoch's last batch, on `tail_samples` samples (None when unknown).
        checkpoint: Writing one, for which a probe stands still; 0 when a probe came to its end
            without one, as tier 0 does. It is the most that one costs a run, which writes slow
            ones while it goes on.
        rest: What a run has once besides: slower first steps, leaving.
    """

    start: Part
    tail: Part
    tail_samples: float | None
    checkpoint: Part
    rest: Part


MEASURED: tuple[str, ...] = ("start_s", "tail_s", "tail_samples", "checkpoint_s", "rest_s")
"""Columns of what trials showed of their parts; not-a-number where they showed nothing."""


def parts_of(trials: Table, *, saves: bool = True) -> RunParts:
    """Learn the parts from trials of a job that may save, or that cannot.

    Args:
        trials: `workers` and `MEASURED`, each of shape (n,). A `checkpoint_s` of 0 tells that a
            trial came to its own end without writing one; one that was cut short, or whose
            checkpoint failed, leaves it open.
        saves: Whether the job may write checkpoints.
    """
    workers = trials["workers"].astype(int)

    def seen(name: str, *, least: float = 0.0) -> tuple[tuple[int, float], ...]:
        values = trials[name]
        told = np.flatnonzero(values >= least)  # not-a-number is not
        return tuple((int(workers[i]), float(values[i])) for i in told)

    did_without = bool(np.any(trials["checkpoint_s"] == 0))
    sizes = trials["tail_samples"][(trials["tail_s"] >= 0) & (trials["tail_samples"] > 0)]
    return RunParts(
        start=Part(seen=seen("start_s"), log_sd=_START_LOG_SD, unseen_s=_UNSEEN_START_S),
        tail=Part(seen=seen("tail_s"), log_sd=0.2),
        tail_samples=float(np.mean(sizes)) if len(sizes) else None,
        checkpoint=Part(
            seen=seen("checkpoint_s", least=_LEAST_CHECKPOINT_S),
            log_sd=0.4,
            unseen_s=_UNSEEN_CHECKPOINT_S if saves and not did_without else 0.0,
            unseen_log_sd=_UNSEEN_CHECKPOINT_LOG_SD,
        ),
        rest=Part(seen=seen("rest_s"), log_sd=0.4, unseen_s=1.0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """How an epoch falls into optimiser steps, arrays of shape (n,).

    `full` steps of the whole global batch; then one of `last_micro_batch` samples a worker in
    `last_accumulation` passes, where `has_last`.
    """

    full: Array
    has_last: Array
    last_micro_batch: Array
    last_accumulation: Array


def steps_of(columns: Table) -> Steps:
    """Steps of one epoch, as the training-script contract divides it (docs/training-script.md).

    The last, shorter step is kept; one with fewer than two samples a worker joins the step before.

    Args:
        columns: `workers`, `micro_batch`, `accumulation`, `global_batch` and `samples` (of one
            epoch), each of shape (n,).
    """
    workers, micro_batch = columns["workers"], columns["micro_batch"]
    global_batch, samples = columns["global_batch"], columns["samples"]
    full = np.floor(samples / global_batch)
    left = samples - full * global_batch
    alone = (left >= 2 * workers) | ((full == 0) & (left > 0))
    accumulation = np.maximum(np.ceil(left / (workers * micro_batch)), 1.0)
    each = np.maximum(left, 1.0) / (workers * accumulation)
    return Steps(
        full=full,
        has_last=alone,
        last_micro_batch=np.where(alone, each, micro_batch),
        last_accumulation=np.where(alone, accumulation, columns["accumulation"]),
    )


def run_quantiles(parts: RunParts, columns: Table, *, epoch_s: Array, sample_s: Array) -> Array:
    """Quantiles of the whole run, s, without drift; shape (n, len(LEVELS)).

    Args:
        parts: What the trials showed.
        columns: `workers`, `epochs`, `tail_samples` (of one epoch, on the whole data; not-a-number
            where unknown) and `checkpoint_interval_s` (0 for none but the last), each of shape
            (n,).
        epoch_s: Quantiles of the steps of one epoch, s, shape (n, len(LEVELS)).
        sample_s: Training time of one sample on one worker, s, shape (n,).
    """
    workers, epochs = columns["workers"], columns["epochs"]
    training = epochs[:, None] * epoch_s
    evaluation = _evaluation(parts, workers, columns["tail_samples"], sample_s)
    evaluations = np.ceil(epochs)[:, None] * evaluation
    interval = columns["checkpoint_interval_s"]
    wanted = np.where(interval > 0, training[:, I50] / np.maximum(interval, 1e-9), 0.0)
    checkpoints = (np.floor(wanted) + 1)[:, None] * _lognormal(*parts.checkpoint.at(workers))
    total = add_independent(training, _lognormal(*parts.start.at(workers)))
    for part in (evaluations, checkpoints, _lognormal(*parts.rest.at(workers))):
        total = add_independent(total, part)
    return add_independent(total, _final_evaluation(evaluation))


def _evaluation(parts: RunParts, workers: Array, tail_samples: Array, sample_s: Array) -> Array:
    """What follows an epoch on the whole data, from what followed it on the slice; quantiles, s.

    The slice's tail is a fixed part and a part per sample, and one slice cannot tell them apart.
    The part per sample is put at a forward pass, with a wide error, and never above all of the
    tail that was seen; the rest of that is fixed and does not grow with the data.
    """
    tail, tail_sd = parts.tail.at(workers)
    seen_samples, all_samples = parts.tail_samples, tail_samples[:, None]
    each = _lognormal(
        _EVALUATED_SHARE * _FORWARD_SHARE * sample_s, np.full(len(workers), _EVALUATION_LOG_SD)
    )
    if not parts.tail.seen:
        return each * np.nan_to_num(all_samples)
    measured = _lognormal(tail, tail_sd)
    if seen_samples is None:
        return measured
    each = np.minimum(each, tail[:, None] / seen_samples)
    grown = np.sort(each * (all_samples - seen_samples), axis=1)
    whole = np.maximum(add_independent(measured, grown), 0.0)
    result: Array = np.where(np.isnan(all_samples), measured, whole)
    return result


def _final_evaluation(evaluation: Array) -> Array:
    """The test at the end, which no probe sees: about one more evaluation, give or take."""
    median = evaluation[:, I50]
    return _lognormal(median, np.full(len(median), _FINISH_LOG_SD))


def _lognormal(median: Array, sd: Array) -> Array:
    result: Array = median[:, None] * np.exp(sd[:, None] * np.asarray(Z))
    return result
