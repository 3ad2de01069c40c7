"""Peers, re-implemented from their papers, on the same questions as planner's own predictors.

Each is a function of a `Question` that returns times in s, or None where it has nothing to say of
a task. None is handicapped: where a paper leaves something open, the variant is the one that did
better on the published measurements.

* `linear_ideal`: scaling without loss; across GPU types by the ratio of their peaks; for language
  models a fixed share of the peak.
* `amdahl`: a serial share (Amdahl 1967), fitted to the probes of several GPUs.
* `ernest`: non-negative least squares on 1, m, log w, w (Venkataraman et al., NSDI 2016), with the
  batch, as the batch of its papers is fixed.
* `pollux`: the throughput model of Pollux (Qiao et al., OSDI 2021), which also sees the wait for
  gradients.
* `nearest`: the nearest probe's time.
* `xgboost_raw`: boosted trees on raw columns; on the probes alone for placements, where pooling
  jobs does worse, else on the training rows and the probes.
* `gaussian_process`: a squared exponential with a length for each column, on logarithms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors.evaluate import pooled
from predictors.evaluate.data import Table
from predictors.evaluate.tasks import Question

if TYPE_CHECKING:
    from planner.core.distribution import Array

Peer = Callable[[Question], "Array | None"]
_PLACED = ("A1", "A2", "A3")
_AXES = ("workers_per_node", "nodes", "workers", "micro_batch")


def linear_ideal(question: Question) -> Array | None:
    """Scaling without loss."""
    if question.task in _PLACED:
        base, slope = _line(question.probes, question.probe_s)
        return base + slope * question.asked["micro_batch"]
    if question.task == "B1":
        return pooled.by_peak(question)
    if question.task == "C1":
        work = np.exp(np.mean(np.log(question.probe_s * question.probes["gpus"])))
        ideal: Array = work / question.asked["gpus"]
        return ideal
    return pooled.fixed_utilisation(question)


def amdahl(question: Question) -> Array | None:
    """A serial part and one that divides among the workers: T = serial + parallel (work / w).

    The work is the global batch, so that the second part is a rate times the batch of a worker. In
    C1 the serial share is what fits the training rows of the benchmark best, as there is one probe.
    """
    if question.task == "C1":
        return pooled.amdahl_of_benchmark(question)
    if question.task not in _PLACED:
        return None
    from scipy.optimize import nnls

    def design(c: Table) -> Array:
        return np.stack([np.ones(len(c["micro_batch"])), c["micro_batch"]], axis=1)

    probes, measured_s = design(question.probes), question.probe_s
    weights, _ = nnls(probes / measured_s[:, None], np.ones(len(measured_s)))
    times: Array = design(question.asked) @ weights
    return times


def ernest(question: Question) -> Array | None:
    """Non-negative weights of 1, m, log2 w and w, by relative error."""
    if question.task not in _PLACED:
        return None
    from scipy.optimize import nnls

    def design(c: Table) -> Array:
        w = c["workers"]
        return np.stack([np.ones(len(w)), c["micro_batch"], np.log2(w), w], axis=1)

    weights, _ = nnls(
        design(question.probes) / question.probe_s[:, None], np.ones(len(question.probe_s))
    )
    times: Array = design(question.asked) @ weights
    return times


def pollux(question: Question) -> Array | None:
    """T = (grad^gamma + sync^gamma)^(1/gamma), fitted with bounds by relative error.

    grad = a + b m; sync = c + d max(w - 2, 0) on one node, and another pair on several
    (section 3.2 of the paper). The measured wait for gradients enters the fit as the difference of
    step and grad. What no probe tells stays next to nothing, as its scheduler has it.
    """
    if question.task not in _PLACED:
        return None
    from scipy.optimize import minimize

    c, y = question.probes, question.probe_s
    seen = np.where(np.isfinite(question.probe_sync_s), question.probe_sync_s, np.nan)

    def parts(log_theta: Array, c: Table) -> tuple[Array, Array, float]:
        a, b, local, local_each, remote, remote_each, gamma = np.exp(log_theta)
        grad = a + b * c["micro_batch"]
        more = np.maximum(c["workers"] - 2, 0)
        sync = np.where(c["nodes"] > 1, remote + remote_each * more, local + local_each * more)
        return grad, np.where(c["workers"] > 1, sync, 0.0), 1 + min(gamma, 9.0)

    def step(log_theta: Array, c: Table) -> Array:
        grad, sync, gamma = parts(log_theta, c)
        top = np.maximum(grad, sync)
        whole: Array = top * ((grad / top) ** gamma + (sync / top) ** gamma) ** (1 / gamma)
        return whole

    def loss(log_theta: Array) -> float:
        error = np.log(step(log_theta, c) / y)
        compute = np.log(parts(log_theta, c)[0] / np.maximum(y - seen, 0.05 * y))
        return float(np.sum(error**2) + np.nansum(compute**2))

    base, slope = _line(c, y)
    typical = float(np.median(y))
    best = None
    for share in (0.02, 0.3):
        start = np.log(
            [
                max(base, 0.01 * typical),
                max(slope, 1e-6 * typical),
                share * typical,
                1e-4 * share * typical,
                share * typical,
                1e-4 * share * typical,
                1.0,
            ]
        )
        found = minimize(loss, start, method="L-BFGS-B", bounds=[(s - 12, s + 5) for s in start])
        best = found if best is None or found.fun < best.fun else best
    assert best is not None  # noqa: S101 - two starts were tried
    return step(best.x, question.asked)


def nearest(question: Question) -> Array | None:
    """The nearest probe's time, distances in octaves; in B1 and E only where there are probes."""
    if question.task == "C1":
        return np.full(len(question.asked["gpus"]), float(np.median(question.probe_s)))
    names = [n for n in (*_AXES, "on_target", "num_gpus", "tp", "dp", "pp") if n in question.asked]
    if not len(question.probe_s):
        return None

    def position(c: Table) -> Array:
        return np.stack(
            [np.log2(1 + c[n]) if n == "on_target" else np.log2(c[n]) for n in names], 1
        )

    here, there = position(question.asked), position(question.probes)
    chosen: Array = question.probe_s[
        ((here[:, None] - there[None]) ** 2).sum(axis=2).argmin(axis=1)
    ]
    return chosen


def xgboost_raw(question: Question) -> Array | None:
    """Boosted trees on raw columns."""
    X, y, asked = pooled.raw(question, alone=question.task in _PLACED)
    if len(y) == 0:
        return None
    import xgboost

    params = {"max_depth": 6, "eta": 0.1, "min_child_weight": 0, "nthread": 1, "seed": 0}
    rounds = 200 if len(y) > 20 else 100
    booster = xgboost.train(params, xgboost.DMatrix(X, label=np.log(y)), num_boost_round=rounds)
    times: Array = np.exp(booster.predict(xgboost.DMatrix(asked)).astype(float))
    return times


def gaussian_process(question: Question) -> Array | None:
    """A Gaussian process on logarithms of the columns and of the time.

    In B1 and C1 it learns the logarithm of the ratio to the time here, or to scaling without loss,
    so that it falls back on those where it knows nothing. With a probe on the asked GPU type it
    learns how that ratio changes from the middle batch, where the probe is.
    """
    if question.task == "B1" and np.any(question.probes["on_target"]):
        return _shape_process(question)
    X, y, asked = pooled.logarithms(question, alone=question.task in _PLACED)
    if len(y) < 2:
        return None
    base, asked_base = pooled.log_baseline(question, X), pooled.log_baseline(question, asked)
    rows = np.random.default_rng(0).permutation(len(y))[:600]
    ratio = np.log(y[rows]) - base[rows]
    model = _process(X[rows].tobytes(), X.shape[1], ratio.tobytes())
    times: Array = np.exp(asked_base + model.predict(asked))
    return times


def _shape_process(question: Question) -> Array | None:
    X, y, asked = pooled.shapes(question)
    shifted = pooled.by_peak(question)
    if len(y) < 2 or shifted is None:
        return shifted
    model = _process(X.tobytes(), X.shape[1], y.tobytes())
    times: Array = shifted * np.exp(model.predict(asked))
    return times


@lru_cache(maxsize=128)
def _process(X: bytes, columns: int, y: bytes) -> Any:
    """Fitted once for all questions that learn from the same rows."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    lengths = np.full(columns, 2.0)
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(lengths, (0.1, 100.0)) + WhiteKernel(
        1e-3, (1e-6, 1e-1)
    )
    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound is an answer
        model.fit(np.frombuffer(X).reshape(-1, columns), np.frombuffer(y))
    return model


PEERS: Mapping[str, Peer] = {
    "linear_ideal": linear_ideal,
    "amdahl": amdahl,
    "ernest": ernest,
    "pollux": pollux,
    "nearest": nearest,
    "xgboost_raw": xgboost_raw,
    "gaussian_process": gaussian_process,
}


def _line(columns: Table, step_s: Array) -> tuple[float, float]:
    """Step time on one GPU as a line in the batch, flat where there is one batch only."""
    one = columns["workers"] == columns["workers"].min()
    m, y = columns["micro_batch"][one], step_s[one]
    if len(np.unique(m)) < 2:
        return float(np.mean(y)), 0.0
    slope, base = np.polyfit(m, y, 1)
    return float(base), float(slope)
