"""Training rows of other jobs and the probes as matrices, for the peers that learn from both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from predictors.evaluate.data import LLM_COLUMNS, LlmJob, StepJob, Submission, Table
from predictors.evaluate.tasks import Question
from predictors.features import take
from predictors.gpus import peak_of

if TYPE_CHECKING:
    from planner.core.distribution import Array

Matrices = tuple["Array", "Array", "Array"]
"""Learned rows, their times (s), and the asked rows."""

_PLACED = ("workers", "nodes", "workers_per_node", "micro_batch")


def raw(question: Question, *, alone: bool) -> Matrices:
    """Columns as they are.

    Args:
        question: What is asked.
        alone: From the probes only.
    """
    if alone:
        return (
            _stack(question.probes, _PLACED),
            question.probe_s,
            _stack(question.asked, _PLACED),
        )
    if question.task == "B1":
        return _transfer(question)
    if question.task == "C1":
        return _families(question)
    return _language(question)


def logarithms(question: Question, *, alone: bool) -> Matrices:
    """The same, as logarithms; codes of benchmarks are zeros and ones and stay as they are."""
    X, y, asked = raw(question, alone=alone)
    return _log(X), y, _log(asked)


def log_baseline(question: Question, X: Array) -> Array:
    """Logarithm of the time (s) that a row of `logarithms` would have if nothing were learned.

    In B1 that of the GPU type it was measured on, in C1 that of scaling without loss, else 0.
    """
    if question.task == "B1":
        return X[:, 0]
    if question.task == "C1":
        gpus, _, time_s, more, _, _ = X[:, -6:].T
        ideal: Array = time_s + gpus - more
        return ideal
    return np.zeros(len(X))


def anchored(question: Question, predicted_s: Array, at_probes_s: Array) -> Array:
    """Predictions times what those at the probes were short by, as a geometric mean."""
    if not len(at_probes_s):
        return predicted_s
    factor = float(np.exp(np.mean(np.log(question.probe_s[-len(at_probes_s) :] / at_probes_s))))
    return predicted_s * factor


def _stack(columns: Table, names: Sequence[str]) -> Array:
    return np.stack([columns[name] for name in names], axis=1)


def _log(X: Array) -> Array:
    return np.where(X > 0, np.log(np.where(X > 0, X, 1.0)), X)


# ---- B1 ------------------------------------------------------------------------------------


def source_time(near: Table, near_s: Array, micro_batch: Array) -> Array:
    """Times on the first GPU type at other batches: a line in logarithms between those measured."""
    order = np.argsort(near["micro_batch"])
    x, y = np.log(near["micro_batch"][order]), np.log(near_s[order])
    at = np.log(micro_batch)
    if len(x) < 2:
        return np.full(len(at), float(np.exp(y[0])))
    i = np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2)
    slope = (y[i + 1] - y[i]) / (x[i + 1] - x[i])
    between: Array = np.exp(y[i] + slope * (at - x[i]))
    return between


def pairs(training: Sequence[StepJob], here: str, there: str) -> tuple[Array, Array]:
    """Times of other jobs on both GPU types.

    Returns:
        Time here (s) and micro-batch, shape (n, 2), and the time there, s.
    """
    found = [np.zeros((0, 3)), *pairs_of_jobs(training, here, there)]
    table = np.concatenate(found)
    return table[:, :2], table[:, 2]


def pairs_of_jobs(training: Sequence[StepJob], here: str, there: str) -> Iterator[Array]:
    """The same, job by job: time here (s), micro-batch and time there (s), shape (n, 3)."""
    for near in training:
        for far in training:
            same = (near.source, near.model, near.dataset, near.precision) == (
                far.source,
                far.model,
                far.dataset,
                far.precision,
            )
            if not same or near.gpu != here or far.gpu != there:
                continue
            one = near.columns["workers"] == 1
            times = dict(zip(near.columns["micro_batch"][one], near.step_s[one], strict=True))
            rows = zip(far.columns["micro_batch"], far.columns["workers"], far.step_s, strict=True)
            found = [
                (times[batch], batch, time)
                for batch, workers, time in rows
                if workers == 1 and batch in times
            ]
            if found:
                yield np.asarray(found)


def shapes(question: Question) -> tuple[Array, Array, Array]:
    """How the ratio of two GPU types changes with the batch, from that at the middle one.

    Returns:
        Of the training rows: logarithms of the time here, the batch, and the batch over the
        middle one, shape (n, 3), and the change of the log ratio, shape (n,); and the first three
        of the asked rows with the probe in the middle.
    """

    def row(log_here: Array, log_batch: Array, middle: float) -> Array:
        return np.stack([log_here, log_batch, log_batch - middle], axis=1)

    X, y = [np.zeros((0, 3))], [np.zeros(0)]
    for job in pairs_of_jobs(question.training.steps, question.probe_gpu, question.gpu):
        log_here, batch, log_there = np.log(job[np.argsort(job[:, 1], kind="stable")]).T
        i = len(batch) // 2
        others = np.arange(len(batch)) != i
        ratio = log_there - log_here
        X.append(row(log_here, batch, float(batch[i]))[others])
        y.append((ratio - ratio[i])[others])
    near = question.probes["on_target"] == 0
    m = question.asked["micro_batch"]
    here = source_time(take(question.probes, near), question.probe_s[near], m)
    middle = float(np.log(question.probes["micro_batch"][~near][0]))
    return np.concatenate(X), np.concatenate(y), row(np.log(here), np.log(m), middle)


def _transfer(question: Question) -> Matrices:
    X, y = pairs(question.training.steps, question.probe_gpu, question.gpu)
    near = question.probes["on_target"] == 0
    near_rows, near_s = take(question.probes, near), question.probe_s[near]

    def rows(c: Table) -> Array:
        here = source_time(near_rows, near_s, c["micro_batch"])
        return np.stack([here, c["micro_batch"]], axis=1)

    tried = take(question.probes, ~near)
    if np.any(~near):
        X = np.concatenate([X, rows(tried)])
        y = np.concatenate([y, question.probe_s[~near]])
    return X, y, rows(question.asked)


def by_peak(question: Question) -> Array | None:
    """Times on the other GPU type by the ratio of peaks, or by the probe there if there is one."""
    near = question.probes["on_target"] == 0
    near_rows, near_s = take(question.probes, near), question.probe_s[near]
    here = source_time(near_rows, near_s, question.asked["micro_batch"])
    if np.any(~near):
        tried = source_time(near_rows, near_s, question.probes["micro_batch"][~near])
        return anchored(question, here, tried)
    one, other = peak_of(question.probe_gpu), peak_of(question.gpu)
    if one is None or other is None:
        return None
    return here * one.fp32_tflops / other.fp32_tflops


# ---- C1 ------------------------------------------------------------------------------------


def family_pairs(submissions: Sequence[Submission]) -> list[tuple[Submission, Submission]]:
    """The smallest system of every family with each of the larger ones."""
    families: dict[tuple[str, ...], list[Submission]] = {}
    for system in submissions:
        families.setdefault(system.family, []).append(system)
    return [
        (small, large)
        for systems in families.values()
        for small in systems
        if small.gpus == min(s.gpus for s in systems)
        for large in systems
        if large.gpus > small.gpus
    ]


def _families(question: Question) -> Matrices:
    names = sorted({s.benchmark for s in question.training.submissions} | {question.benchmark})

    def row(
        benchmark: str, small: tuple[float, float, float], large: tuple[float, float, float]
    ) -> list[float]:
        code = [float(name == benchmark) for name in names]
        return [*code, *small, *large]

    learned = family_pairs(question.training.submissions)
    X = [
        row(
            small.benchmark,
            (small.gpus, small.global_batch, 60 * small.minutes),
            (large.gpus, large.nodes, large.global_batch),
        )
        for small, large in learned
    ]
    y = [60 * large.minutes for _, large in learned]
    p, q = question.probes, question.asked
    given = (
        float(p["gpus"][0]),
        float(np.nanmean(p["global_batch"])) if np.any(np.isfinite(p["global_batch"])) else 1.0,
        float(np.exp(np.mean(np.log(question.probe_s)))),
    )
    asked = [
        row(question.benchmark, given, values)
        for values in zip(q["gpus"], q["nodes"], q["global_batch"], strict=True)
    ]
    clean = np.nan_to_num(np.asarray(X), nan=1.0)
    return clean, np.asarray(y), np.nan_to_num(np.asarray(asked), nan=1.0)


def amdahl_of_benchmark(question: Question) -> Array | None:
    """Amdahl's law with the serial share that fits the training rows of the benchmark best."""
    learned = [
        pair
        for pair in family_pairs(question.training.submissions)
        if pair[0].benchmark == question.benchmark
    ] or family_pairs(question.training.submissions)
    if not learned:
        return None
    n = np.asarray([large.gpus / small.gpus for small, large in learned])
    y = np.asarray([large.minutes / small.minutes for small, large in learned])
    shares = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 400)])
    errors = [np.mean(np.abs((f + (1 - f) / n) / y - 1)) for f in shares]
    f = shares[int(np.argmin(errors))]
    base = float(np.exp(np.mean(np.log(question.probe_s))))
    ratio = question.asked["gpus"] / question.probes["gpus"][0]
    times: Array = base * (f + (1 - f) / ratio)
    return times


# ---- E -------------------------------------------------------------------------------------


def iteration_flops(c: Table) -> Array:
    """Floating-point operations of an iteration of a GPT (Narayanan et al., SC'21, equation 3).

    96 B s l h^2 (1 + s / (6 h)) with recomputation, of which three quarters without; the
    vocabulary's share is left out, as its size is not given.
    """
    B, s, layers, h = (c[n] for n in ("global_batch_size", "seq_len", "num_layers", "hidden_size"))
    flops: Array = 72 * B * s * layers * h**2 * (1 + s / (6 * h))
    return flops


def _language(question: Question) -> Matrices:
    names = [*LLM_COLUMNS, "flops"]

    def rows(c: Table) -> Array:
        return _stack({**c, "flops": iteration_flops(c)}, names)

    tables = [(job.columns, job.iteration_s) for job in question.training.llm]
    tables.append((question.probes, question.probe_s))
    X = np.concatenate([rows(c) for c, _ in tables])
    return X, np.concatenate([y for _, y in tables]), rows(question.asked)


def _achieved(c: Table, iteration_s: Array, gpu: str) -> Array:
    peak = peak_of(gpu)
    tflops = peak.half_tflops if peak else 100.0
    share: Array = iteration_flops(c) / c["num_gpus"] / (iteration_s * tflops * 1e12)
    return share


def fixed_utilisation(question: Question) -> Array | None:
    """A fixed share of the peak: that of the probes, or the median of the training rows."""
    known: list[tuple[Table, Array, str]] = [(question.probes, question.probe_s, question.gpu)]
    if not len(question.probe_s):
        jobs: Sequence[LlmJob] = question.training.llm
        known = [(job.columns, job.iteration_s, job.gpu) for job in jobs]
    if not known:
        return None
    share = float(np.median(np.concatenate([_achieved(*each) for each in known])))
    one = _achieved(question.asked, np.ones(len(question.asked["num_gpus"])), question.gpu)
    return one / share
