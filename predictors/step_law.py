"""The law of one optimiser step: compute, loading, synchronisation, and what they share.

For w workers on n nodes, p of them on the busiest node, micro-batch m, k forward passes per step,
j loading processes per worker::

    compute  C = c (a + b m),  c = 1 + contention (1 - 1/p)
    loading  L = l m (1 / max(j, 1) + sharing (p - 1))
    local    G = g log2(p)^local_growth
    remote   H = h (1 + pair (1 - n/w)) on two nodes, h beyond (w/n)^crowd log3(n)^e on more,
             e = growth (1 + 2 latency / (latency + h)), here h in s
    sync     S = G on one node, else (G^4 + H^4)^(1/4): the slowest link decides
    last     R = C - B + (B^q + S^q)^(1/q),  B = 2/3 c b m,  q = 1 + overlap
    step     T = (k - 1) (C & L) + (R & L)
             x & y = x + y                  when the worker loads for itself (j = 0)
                     (x^4 + y^4)^(1/4)      when others load ahead: nearly the larger one

Sources: a + b m and the overlap norm q, on the last pass only, are the throughput model of Pollux
(Qiao et al., OSDI 2021, section 3.2); here only the backward two thirds of the work on samples hide
gradients, as none exist before (Li et al., PyTorch Distributed, VLDB 2020, section 3.2), and what a
pass costs whatever its samples, as the optimizer's update, comes before or after. 2 (1 - 1/n) bytes
over a link is the cost of a ring all-reduce (Patarasuk and Yuan 2009,
doi:10.1016/j.jpdc.2008.09.002), in which links work at the same time, hence the maximum. From 3 to
16 nodes that grows as log3(n)^0.37. What is bound by latency, as small gradients are, grows about
as log(n), the depth of a tree; `latency`, in s, tells when: so one cluster's jobs, whose gradients
differ by far, have one law. Two nodes are a case of their own: all of the ring's traffic runs
between one pair of them, so that several workers a node share that pair's flows (`pair`), and three
nodes may even be faster (`beyond`, below 1). What workers of a node take from each other on its
link goes by their number on the average node; what they take from each other inside, by the busiest
node. No growth is linear in w or n: that explodes beyond the probed range. `contention` is what
workers on one node take from each other (memory bandwidth, shared caches, the all-reduce's own
processor time): near nothing on GPUs, often the largest term on CPU slots.

All parameters are positive and are handled as logarithms. Times but `latency` are taken relative to
a typical step of the job, so that the priors need no unit (`predictors.prior`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from predictors.features import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.core.distribution import Array

    Mask = NDArray[np.bool_]

PARAMETERS: tuple[str, ...] = (
    "fixed",
    "per_sample",
    "contention",
    "load",
    "sharing",
    "sync_local",
    "local_growth",
    "sync_remote",
    "growth",
    "latency",
    "pair",
    "beyond",
    "crowd",
    "overlap",
)
"""Names, in order: a, b, contention, l, sharing, g, local_growth, h, growth, latency (s), pair,
beyond, crowd, and q - 1."""

_LARGEST_OVERLAP = 9.0
_FEW = 64
_LOG3 = float(np.log(3))
_LATENCY_GROWTH = 3.0
"""How much faster a latency grows with nodes than a bandwidth's share, in exponents."""
_BACKWARD = 2 / 3
"""Share of the work on samples after the first gradient: the backward pass does twice the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A typical step: what times (s) and micro-batches (samples) are measured in."""

    step_s: float
    micro_batch: float


def scale_of(columns: Table, y: Array) -> Scale:
    """Pass time and micro-batch at the largest micro-batch among the rows of fewest workers.

    There `fixed` and `per_sample` are shares that add up to about 1, whatever the range of batches.
    As many workers are not faster at the same micro-batch, none of their rows may be below it: so
    one slow measurement does not spoil the scale.
    """
    few = columns["workers"] == columns["workers"].min()
    largest = float(columns["micro_batch"][few].max())
    log_pass = np.log(y / columns["accumulation"])
    at = float(np.median(log_pass[few & (columns["micro_batch"] == largest)]))
    bound = float(log_pass[columns["micro_batch"] >= largest].min())
    return Scale(step_s=float(np.exp(min(at, bound))), micro_batch=largest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Parts of a step in s, each of shape (members, rows)."""

    compute: Array
    load: Array
    sync: Array
    step: Array
    exposed_load: Array
    exposed_sync: Array


def terms(theta: Array, columns: Table, scale: Scale, log_company: Array | float = 0.0) -> Terms:
    """The law, by its parts.

    Args:
        theta: Log-parameters in the order of `PARAMETERS`, shape (members, parameters).
        columns: Configurations, `features.COLUMNS`.
        scale: Unit of the parameters.
        log_company: Correction of what workers cost each other (contention, sharing and
            synchronisation), as a logarithm; shape (rows,) or (members, rows).
    """
    value = _values(theta)
    parts = _parts(value, columns, scale, log_company)
    k, unit = columns["accumulation"], scale.step_s
    whole = _whole(parts, columns)
    return Terms(
        compute=parts.compute * k * unit,
        load=parts.load * k * unit,
        sync=parts.sync * unit,
        step=whole * unit,
        exposed_load=(whole - _whole(replace(parts, load=0 * parts.load), columns)) * unit,
        exposed_sync=(whole - _whole(replace(parts, sync=0 * parts.sync), columns)) * unit,
    )


def step(theta: Array, columns: Table, scale: Scale, log_company: Array | float = 0.0) -> Array:
    """`terms(...).step` alone, in half the time; s, shape (members, rows)."""
    parts = _parts(_values(theta), columns, scale, log_company)
    return _whole(parts, columns) * scale.step_s


def _values(theta: Array) -> dict[str, Array]:
    return dict(zip(PARAMETERS, np.exp(np.clip(theta, -30.0, 12.0)).T[:, :, None], strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """Parts of a pass in units of the scale, and the power of the norm in which they hide.

    Synchronisation hides behind `hiding`, which is a part of `compute`.
    """

    compute: Array
    hiding: Array
    load: Array
    sync: Array
    power: Array


def _parts(
    value: dict[str, Array], columns: Table, scale: Scale, log_company: Array | float
) -> _Parts:
    company = np.exp(log_company)
    m = columns["micro_batch"] / scale.micro_batch
    p, j = columns["workers_per_node"], columns["loader_workers"]
    busy = 1 + value["contention"] * (company * (1 - 1 / p))
    kernels = busy * (value["per_sample"] * m)
    helpers = np.where(np.isnan(j), 1.0, np.maximum(j, 1.0))
    return _Parts(
        compute=busy * value["fixed"] + kernels,
        hiding=_BACKWARD * kernels,
        load=value["load"] * (m / helpers + value["sharing"] * (company * m * (p - 1))),
        sync=company * _sync(value, columns, scale),
        power=1 + np.minimum(value["overlap"], _LARGEST_OVERLAP),
    )


def _whole(parts: _Parts, columns: Table) -> Array:
    """All passes of a step, in units of the scale."""
    alone = columns["loader_workers"] == 0
    last = parts.compute - parts.hiding + _norm(parts.hiding, parts.sync, parts.power)
    result: Array = (columns["accumulation"] - 1) * _loaded(parts.compute, parts.load, alone)
    return result + _loaded(last, parts.load, alone)


def _loaded(busy: Array, load: Array, alone: Mask) -> Array:
    """A pass and its loading, by the worker itself or by others meanwhile."""
    ahead = _fourth(busy, load)
    return np.where(alone, busy + load, ahead) if np.any(alone) else ahead


def _sync(value: dict[str, Array], columns: Table, scale: Scale) -> Array:
    """Time that the gradients need when nothing hides it, in units of the scale."""
    names = ("workers", "workers_per_node", "nodes")
    w, p, n = (columns[name] for name in names)
    if len(n) > _FEW:  # of many rows, placements are few
        (w, p, n), place = np.unique(np.stack([w, p, n]), axis=1, return_inverse=True)
        return _sync_of(value, w, p, n, scale)[:, place.reshape(-1)]
    return _sync_of(value, w, p, n, scale)


def _sync_of(value: dict[str, Array], w: Array, p: Array, n: Array, scale: Scale) -> Array:
    octaves = np.log2(np.maximum(p, 1.0))
    local = value["sync_local"] * np.maximum(octaves, 1e-9) ** value["local_growth"]
    local = np.where(p > 1, local, 0.0)
    average = np.maximum(w / n, 1.0)
    late = value["latency"] / (value["latency"] + value["sync_remote"] * scale.step_s)
    exponent = value["growth"] * (1 + (_LATENCY_GROWTH - 1) * late)
    hops = np.maximum(np.log(n) / _LOG3, 1) ** exponent
    more = value["beyond"] * average ** value["crowd"] * hops
    remote = value["sync_remote"] * np.where(n > 2, more, 1 + value["pair"] * (1 - 1 / average))
    result: Array = np.where(n > 1, _fourth(remote, local), local)
    return result


def _norm(one: Array, other: Array, power: Array) -> Array:
    """The norm of a power of two quantities, of which at most one is 0, safe from overflow."""
    top = np.maximum(one, other)
    log_ratio = np.log(np.maximum(np.minimum(one, other) / top, 1e-30))
    result: Array = top * np.exp(np.log1p(np.exp(power * log_ratio)) / power)
    return result


def _fourth(one: Array, other: Array) -> Array:
    """The norm of power 4 of two quantities, of which at most one is 0, safe from overflow."""
    top = np.maximum(one, other)
    square = (np.minimum(one, other) / top) ** 2
    result: Array = top * np.sqrt(np.sqrt(1 + square * square))
    return result


def compute_per_sample_s(theta: Array, scale: Scale) -> Array:
    """Parameter b in s per sample, without contention; shape (members,)."""
    result: Array = np.exp(theta[:, PARAMETERS.index("per_sample")])
    return result * scale.step_s / scale.micro_batch
