"""The law of one optimiser step: compute, loading, synchronisation, and what they share.

For w workers on n nodes, p of them on the busiest node, micro-batch m, k forward passes per step,
j loading processes per worker::

    compute  C = (a + b m) (1 + contention (1 - 1/p))
    loading  L = l m (1 / max(j, 1) + sharing (p - 1))
    pass     M = C + L                      when the worker loads for itself (j = 0)
             M = (C^4 + L^4)^(1/4)          when others load ahead: nearly the larger one
    sync     S = 2 g (1 - 1/p) + h (2 - 2/n)^growth + latency log2(w)
    step     T = (k - 1) M + (M^q + S^q)^(1/q),   q = 1 + overlap

Sources: a + b m and the overlap norm q, on the last pass only, are the throughput model of Pollux
(Qiao et al., OSDI 2021, section 3.2); 2 (1 - 1/w) bytes over a link is the cost of a ring
all-reduce (Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002); the logarithmic term is
Ernest's tree term (Venkataraman et al., NSDI 2016). Measured clusters level off sooner than the
ring's bytes from two nodes on, hence `growth`, below 1 by its prior. Every growth in w is bounded
but for the logarithm, since terms linear in w explode beyond the probed range. `contention` is what
workers on one node take from each other (memory bandwidth, shared caches, the all-reduce's own
processor time): near nothing on GPUs, often the largest term on CPU slots.

All parameters are positive and are handled as logarithms. Times are taken relative to a typical
step of the job, so that the priors need no unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from predictors.features import Table

if TYPE_CHECKING:
    from planner.core.distribution import Array

PARAMETERS: tuple[str, ...] = (
    "fixed",
    "per_sample",
    "contention",
    "sync_local",
    "sync_remote",
    "latency",
    "load",
    "sharing",
    "overlap",
    "growth",
)
"""Names, in order: a, b, contention, g, h, latency, l, sharing, overlap, growth."""

_GPU_MEDIAN = (0.15, 0.8, 0.03, 0.1, 0.4, 0.01, 0.05, 0.1, 1.0, 0.4)
_CPU_MEDIAN = (0.10, 0.8, 0.25, 0.05, 0.3, 0.01, 0.03, 0.1, 0.1, 0.4)
_LOG_SD = (1.2, 0.7, 1.0, 1.2, 1.2, 1.0, 1.2, 1.0, 0.7, 0.7)
"""Priors: medians in units of the typical step (its per-sample share for b and l), and standard
deviations of their logarithms. Wide on purpose: sd 1.2 means a factor of 7 either way at 90 %."""

_PREFETCH_NORM = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A typical step: what times (s) and micro-batches (samples) are measured in."""

    step_s: float
    micro_batch: float


def scale_of(columns: Table, y: Array) -> Scale:
    """Typical pass time and micro-batch of some measured steps: geometric means."""
    return Scale(
        step_s=float(np.exp(np.mean(np.log(y / columns["accumulation"])))),
        micro_batch=float(np.exp(np.mean(np.log(columns["micro_batch"])))),
    )


def prior(on_cpu: bool) -> tuple[Array, Array]:
    """Prior mean and standard deviation of the log-parameters."""
    median = _CPU_MEDIAN if on_cpu else _GPU_MEDIAN
    return np.log(np.asarray(median)), np.asarray(_LOG_SD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Parts of a step in s, each of shape (members, rows)."""

    compute: Array
    load: Array
    sync: Array
    step: Array
    exposed_load: Array
    exposed_sync: Array


def terms(theta: Array, columns: Table, scale: Scale) -> Terms:
    """The law.

    Args:
        theta: Log-parameters in the order of `PARAMETERS`, shape (members, parameters).
        columns: Configurations, `features.COLUMNS`.
        scale: Unit of the parameters.
    """
    value = np.exp(np.clip(theta, -30.0, 12.0))
    a, b, contention, local, remote, latency, load_rate, sharing, overlap, growth = (
        value[:, i : i + 1] for i in range(len(PARAMETERS))
    )
    m = columns["micro_batch"] / scale.micro_batch
    p, n, w = columns["workers_per_node"], columns["nodes"], columns["workers"]
    k, j = columns["accumulation"], columns["loader_workers"]
    compute = (a + b * m) * (1 + contention * (1 - 1 / p))
    helpers = np.where(np.isnan(j), 1.0, np.maximum(j, 1.0))
    load = load_rate * m * (1 / helpers + sharing * (p - 1))
    one_pass = np.where(j == 0, compute + load, _norm(compute, load, _PREFETCH_NORM))
    across = np.where(n > 1, np.maximum(2 * (1 - 1 / n), 1e-9) ** growth, 0.0)
    sync = 2 * local * (1 - 1 / p) + remote * across + latency * np.log2(w)
    power = 1 + np.minimum(overlap, 9.0)
    last = _norm(one_pass, sync, power)
    step = (k - 1) * one_pass + last
    without_load = (k - 1) * compute + _norm(compute, sync, power)
    unit = scale.step_s
    return Terms(
        compute=compute * k * unit,
        load=load * k * unit,
        sync=sync * unit,
        step=step * unit,
        exposed_load=(step - without_load) * unit,
        exposed_sync=(last - one_pass) * unit,
    )


def _norm(large: Array, small: Array, power: Array | float) -> Array:
    """p-norm of two positive quantities, safe from overflow."""
    top = np.maximum(large, small)
    ratio = np.minimum(large, small) / top
    result: Array = top * (1 + ratio**power) ** (1 / power)
    return result


def compute_per_sample_s(theta: Array, scale: Scale) -> Array:
    """Parameter b in s per sample, without contention; shape (members,)."""
    result: Array = np.exp(theta[:, PARAMETERS.index("per_sample")])
    return result * scale.step_s / scale.micro_batch
