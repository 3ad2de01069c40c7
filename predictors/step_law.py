"""The law of one optimiser step: compute, loading, synchronisation, and what they share.

For w workers on n nodes, p of them on the busiest node, micro-batch m, k forward passes per step,
j loading processes per worker::

    compute  C = (a + b m) (1 + contention (1 - 1/p))
    loading  L = l m (1 / max(j, 1) + sharing (p - 1))
    pass     M = C + L                      when the worker loads for itself (j = 0)
             M = (C^4 + L^4)^(1/4)          when others load ahead: nearly the larger one
    local    G = g log2(p)^local_growth
    remote   H = h (2 - 2/n)^growth, times 1 + pair (1 - 1/p) on two nodes, beyond on more
    sync     S = G on one node, else (G^4 + H^4)^(1/4): the slowest link decides
    step     T = (k - 2/3) M + ((2/3 M)^q + S^q)^(1/q),   q = 1 + overlap

Sources: a + b m and the overlap norm q, on the last pass only, are the throughput model of Pollux
(Qiao et al., OSDI 2021, section 3.2); here only the backward two thirds of a pass hide gradients,
as none exist before (Li et al., PyTorch Distributed, VLDB 2020, section 3.2). 2 (1 - 1/n) bytes
over a link is the cost of a ring all-reduce (Patarasuk and Yuan 2009,
doi:10.1016/j.jpdc.2008.09.002), in which links work at the same time, hence the maximum. `growth`
lets it level off sooner or later. Two nodes are a case of their own: all of the ring's traffic
runs between one pair of them, so that several workers a node share that pair's flows (`pair`), and
three nodes may even be faster (`beyond`, below 1). Every growth over nodes is bounded, since terms
linear in w explode beyond the probed range. `contention` is what workers on one node take from each
other (memory bandwidth, shared caches, the all-reduce's own processor time): near nothing on GPUs,
often the largest term on CPU slots.

All parameters are positive and are handled as logarithms. Times are taken relative to a typical
step of the job, so that the priors need no unit (`predictors.prior`).
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
    "load",
    "sharing",
    "sync_local",
    "local_growth",
    "sync_remote",
    "growth",
    "pair",
    "beyond",
    "overlap",
)
"""Names, in order: a, b, contention, l, sharing, g, local_growth, h, growth, pair, beyond, and
q - 1."""

_LARGEST_OVERLAP = 9.0
_FEW = 64
_FORWARD = 1 / 3
"""Share of a pass before the first gradient: the backward pass does twice the work."""


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
    compute, load, one_pass, sync = _parts(value, columns, scale, log_company)
    k, unit = columns["accumulation"], scale.step_s
    last = _last_pass(one_pass, sync, value)
    without_load = (k - 1) * compute + _last_pass(compute, sync, value)
    whole = (k - 1) * one_pass + last
    return Terms(
        compute=compute * k * unit,
        load=load * k * unit,
        sync=sync * unit,
        step=whole * unit,
        exposed_load=(whole - without_load) * unit,
        exposed_sync=(last - one_pass) * unit,
    )


def step(theta: Array, columns: Table, scale: Scale, log_company: Array | float = 0.0) -> Array:
    """`terms(...).step` alone, in half the time; s, shape (members, rows)."""
    value = _values(theta)
    _, _, one_pass, sync = _parts(value, columns, scale, log_company)
    last = _last_pass(one_pass, sync, value)
    result: Array = ((columns["accumulation"] - 1) * one_pass + last) * scale.step_s
    return result


def _values(theta: Array) -> dict[str, Array]:
    return dict(zip(PARAMETERS, np.exp(np.clip(theta, -30.0, 12.0)).T[:, :, None], strict=True))


def _parts(
    value: dict[str, Array], columns: Table, scale: Scale, log_company: Array | float
) -> tuple[Array, Array, Array, Array]:
    """Compute, loading and both of them in a pass, and synchronisation, in units of the scale."""
    company = np.exp(log_company)
    m = columns["micro_batch"] / scale.micro_batch
    p, j = columns["workers_per_node"], columns["loader_workers"]
    compute = (value["fixed"] + value["per_sample"] * m) * (
        1 + value["contention"] * (company * (1 - 1 / p))
    )
    helpers = np.where(np.isnan(j), 1.0, np.maximum(j, 1.0))
    load = value["load"] * (m / helpers + value["sharing"] * (company * m * (p - 1)))
    one_pass = _fourth(compute, load)
    if np.any(j == 0):
        one_pass = np.where(j == 0, compute + load, one_pass)
    return compute, load, one_pass, company * _sync(value, columns)


def _sync(value: dict[str, Array], columns: Table) -> Array:
    """Time that the gradients need when nothing hides it, in units of the scale."""
    if len(columns["nodes"]) > _FEW:  # of many rows, placements are few
        key = np.stack([columns["workers_per_node"], columns["nodes"]])
        (p, n), place = np.unique(key, axis=1, return_inverse=True)
        return _sync_of(value, p, n)[:, place.reshape(-1)]
    return _sync_of(value, columns["workers_per_node"], columns["nodes"])


def _sync_of(value: dict[str, Array], p: Array, n: Array) -> Array:
    octaves = np.log2(np.maximum(p, 1.0))
    local = value["sync_local"] * np.maximum(octaves, 1e-9) ** value["local_growth"]
    local = np.where(p > 1, local, 0.0)
    ring = np.maximum(2 - 2 / n, 1.0) ** value["growth"]
    two = 1 + value["pair"] * (1 - 1 / p)
    remote = value["sync_remote"] * ring * np.where(n > 2, value["beyond"], two)
    result: Array = np.where(n > 1, _fourth(remote, local), local)
    return result


def _last_pass(one_pass: Array, sync: Array, value: dict[str, Array]) -> Array:
    """A pass and the synchronisation that its backward part hides, the larger one counting most."""
    power = 1 + np.minimum(value["overlap"], _LARGEST_OVERLAP)
    backward = (1 - _FORWARD) * one_pass
    top = np.maximum(backward, sync)
    log_ratio = np.log(np.maximum(np.minimum(backward, sync) / top, 1e-30))
    norm = top * np.exp(np.log1p(np.exp(power * log_ratio)) / power)
    result: Array = _FORWARD * one_pass + norm
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
