"""`JobMemory`: a worker's peak memory on every kind of machine, from the probes of one job."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from planner.core.distribution import LEVELS, Evidence
from planner.core.prediction import MemoryParts
from planner.core.types import Knobs, ProbeResult, ResourceConfig
from predictors import features
from predictors.memory import MemoryRegressor
from predictors.memory_law import StateBytes
from predictors.memory_sharding import respread
from predictors.memory_trials import Trial, bounded

if TYPE_CHECKING:
    from planner.core.distribution import Array

Config = tuple[ResourceConfig, Knobs]
Row = tuple[ProbeResult, float, bool]
"""A probe, the peak of a worker or the capacity it went beyond (bytes), and whether it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMemory:
    """Of n configurations.

    Attributes:
        quantiles: Of a worker's peak, bytes, shape (n, len(LEVELS)).
        p_oom: Probability that it does not fit, shape (n,).
        evidence: Where that is known from.
        parts: What the peak is made of; None where nothing is known.
    """

    quantiles: Array
    p_oom: Array
    evidence: Sequence[Evidence]
    parts: Sequence[MemoryParts | None]


class JobMemory:
    """Fitted to the probes of one job, those that ran out of memory included.

    Every kind of machine with a measured peak has a model of its own. To others that of the machine
    with most peaks is carried over, if there is one from a machine of the same sort (GPU or CPU).

    Args:
        probes: Of one job.
        seed: Everything drawn at random follows from it.
        outcomes: Those whose fitting or failing counts, whether or not their peaks do; None for
            `probes`.
    """

    def __init__(
        self,
        probes: Sequence[ProbeResult],
        *,
        seed: int,
        outcomes: Sequence[ProbeResult] | None = None,
    ) -> None:
        self._probes = tuple(probes)
        self._rows = _by_machine(probes)
        self._trials = _trials_of(probes if outcomes is None else outcomes)
        state = state_of(probes)
        self._models = {
            key: _fit(rows, state, seed)
            for key, rows in self._rows.items()
            if any(not failed for _, _, failed in rows)
        }

    def predict(self, configs: Sequence[Config], columns: features.Table) -> WorkerMemory:
        """What is known of a worker's peak.

        Args:
            configs: All on one kind of machine.
            columns: The same as a table.
        """
        columns = features.by_replica(columns)
        first = configs[0][0]
        key = features.machine_key(first)
        model, evidence = self._model(key, on_cpu=not first.gpu)
        n = len(configs)
        limits = {r: self._capacity_bytes(r) for r in {r for r, _ in configs}}
        capacity = np.asarray([limits[r] for r, _ in configs])
        risk = np.zeros(n) if model is None else model.p_oom(columns, capacity)
        p_oom = bounded(risk, self._trials.get(key, ()), columns, capacity)
        if model is None:
            unknown: list[Evidence] = ["prior"] * n
            return WorkerMemory(
                quantiles=np.zeros((n, len(LEVELS))),
                p_oom=p_oom,
                evidence=unknown,
                parts=[None] * n,
            )
        rows = self._rows.get(key, [])
        tried = {_shape(p.resources, p.knobs) for p, _, failed in rows if not failed}
        marked: list[Evidence] = ["probe" if _shape(*c) in tried else evidence for c in configs]
        return WorkerMemory(
            quantiles=model.predict_distribution(columns),
            p_oom=p_oom,
            evidence=marked,
            parts=_parts(model, columns, marked),
        )

    def respread(
        self,
        probes: Sequence[ProbeResult],
        *,
        state_share: float,
        activation_share: float,
        outcomes: Sequence[ProbeResult] | None = None,
    ) -> JobMemory:
        """The same for workers that hold another part of a replica; see `memory_sharding.respread`.

        Args:
            probes: Those that were made there.
            state_share: Weights, gradients and optimiser state of a worker there over those here.
            activation_share: Activations there over those here.
            outcomes: Those whose fitting or failing counts there; None for `probes`.
        """
        result = copy(self)
        result._probes, result._rows = (*self._probes, *probes), _by_machine(probes)
        result._trials = _trials_of(probes if outcomes is None else outcomes)
        measured = [k for k, rows in result._rows.items() if not all(failed for *_, failed in rows)]
        result._models = {}
        for key in dict.fromkeys([*self._models, *measured]):
            rows = result._rows.get(key, [])
            model, _ = self._model(key, on_cpu=bool(rows) and not rows[0][0].resources.gpu)
            if model is None:
                continue
            result._models[key] = respread(
                model,
                state_share=state_share,
                activation_share=activation_share,
                X=_table_of([p for p, _, _ in rows]) if rows else None,
                y=[peak for _, peak, _ in rows],
                out_of_memory=[failed for _, _, failed in rows],
            )
        return result

    def _model(self, key: str, *, on_cpu: bool) -> tuple[MemoryRegressor | None, Evidence]:
        """The model of a kind of machine, and what a prediction from it is at best."""
        if key in self._models:
            return self._models[key], "transfer"
        if not self._models:
            return None, "prior"
        models = self._models.items()
        _, best = max(
            models, key=lambda kv: (kv[1].on_cpu_ == on_cpu, len(self._rows.get(kv[0], ())))
        )
        carried = best.carried_over(on_cpu=on_cpu)
        return carried, "transfer" if best.on_cpu_ == on_cpu else "prior"

    def _capacity_bytes(self, resources: ResourceConfig) -> float:
        """What a worker may use, bytes; infinite when nothing says so."""
        limit = float("inf")
        if resources.gpu_memory_bytes:
            return float(resources.gpu_memory_bytes)
        if not resources.gpu and resources.memory_bytes_per_node:
            limit = resources.memory_bytes_per_node / resources.workers_per_node
        key = features.machine_key(resources)
        shape = (resources.nodes, resources.workers_per_node)
        alike = [
            float(p.capacity_bytes)
            for p in self._probes
            if p.capacity_bytes
            and features.machine_key(p.resources) == key
            and (resources.gpu or (p.resources.nodes, p.resources.workers_per_node) == shape)
        ]
        return min([limit, *alike])


def _fit(rows: Sequence[Row], state: StateBytes | None, seed: int) -> MemoryRegressor:
    return MemoryRegressor(random_state=seed).fit(
        _table_of([p for p, _, _ in rows]),
        [peak for _, peak, _ in rows],
        [failed for _, _, failed in rows],
        state=state,
        capacity_bytes=[_size(p.capacity_bytes) or np.nan for p, _, _ in rows],
        context_bytes=_context_bytes([p for p, _, failed in rows if not failed]),
    )


def rows_of(probes: Sequence[ProbeResult]) -> list[Row]:
    """The probes that say something of memory."""
    rows: list[Row] = []
    for probe in probes:
        peak = _peak_bytes(probe)
        if probe.state == "ok" and peak:
            rows.append((probe, peak, False))
        elif probe.state == "oom" and (bound := _size(probe.capacity_bytes) or peak):
            rows.append((probe, bound, True))
    return rows


def state_of(probes: Sequence[ProbeResult]) -> StateBytes | None:
    """What the job keeps from step to step, the most that a probe told; None where none did."""
    told = [
        (
            p.model_bytes,
            p.model_bytes if p.gradient_bytes is None else p.gradient_bytes,
            p.optimizer_bytes,
        )
        for p in probes
        if p.state == "ok" and p.model_bytes and p.optimizer_bytes is not None
    ]
    if not told:
        return None
    weights, gradients, optimizer = max(told)
    return StateBytes(weights=weights, gradients=gradients, optimizer=optimizer)


def errors_of(probes: Sequence[ProbeResult], *, seed: int) -> list[float]:
    """Relative error at each probe, predicted from the others; none of a single micro-batch."""
    rows = [(p, peak) for p, peak, failed in rows_of(probes) if not failed]
    if len({p.knobs.micro_batch for p, _ in rows}) < 2:
        return []
    peaks = np.asarray([peak for _, peak in rows])
    columns = _table_of([p for p, _ in rows])
    left = MemoryRegressor(random_state=seed).leave_one_out(columns, peaks, state=state_of(probes))
    return [float(e) for e in np.abs(left / peaks - 1)]


def _by_machine(probes: Sequence[ProbeResult]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows_of(probes):
        groups.setdefault(features.machine_key(row[0].resources), []).append(row)
    return groups


def _trials_of(probes: Sequence[ProbeResult]) -> dict[str, list[Trial]]:
    """By kind of machine what fitted there and what did not, also where no peak was told."""
    trials: dict[str, list[Trial]] = {}
    for probe in probes:
        failed = probe.state == "oom"
        bound = _size(probe.capacity_bytes) or (_peak_bytes(probe) if failed else None)
        if bound and (failed or probe.state == "ok"):
            trial = Trial(
                micro_batch=probe.knobs.micro_batch,
                several=probe.knobs.replicas(probe.resources.workers) > 1,
                capacity_bytes=bound,
                failed=failed,
            )
            trials.setdefault(features.machine_key(probe.resources), []).append(trial)
    return trials


def _table_of(probes: Sequence[ProbeResult]) -> features.Table:
    """Trials by replica: one alone has nothing to synchronise, over however many workers."""
    return features.by_replica(features.probe_table(probes))


def _shape(resources: ResourceConfig, knobs: Knobs) -> tuple[bool, int]:
    """What a worker's peak depends on."""
    return knobs.replicas(resources.workers) > 1, knobs.micro_batch


def _parts(
    model: MemoryRegressor, columns: features.Table, evidence: Sequence[Evidence]
) -> list[MemoryParts]:
    found, known = model.parts(columns), model.state_.known
    names = ("context", "weights", "gradients", "optimizer", "activations", "synchronisation")
    rows = np.stack([getattr(found, name)[0] for name in names], axis=1).tolist()
    return [
        MemoryParts(
            context_bytes=context,
            weights_bytes=weights if known else None,
            gradients_bytes=gradients if known else None,
            optimizer_bytes=optimizer if known else None,
            activations_bytes=activations,
            synchronisation_bytes=buckets,
            evidence=evidence[i],
        )
        for i, (context, weights, gradients, optimizer, activations, buckets) in enumerate(rows)
    ]


def _peak_bytes(probe: ProbeResult) -> float | None:
    """The peak from inside, or what was seen from outside when that is all there is."""
    return _size(probe.peak_device_bytes) or _size(probe.peak_outside_bytes)


def _size(value: float | None) -> float | None:
    """A number of bytes, if it can be one."""
    return float(value) if value is not None and isfinite(value) and value > 0 else None


def _context_bytes(probes: Sequence[ProbeResult]) -> float | None:
    """What a GPU's context took beside torch's allocator; None where that cannot be told.

    The view from outside is sampled and can miss the peak, so the largest difference counts. It
    holds the context already where it is all there is.
    """
    if not any(_size(p.peak_device_bytes) for p in probes):
        return 0.0
    beside = [
        p.peak_outside_bytes - p.reserved_device_bytes
        for p in probes
        if p.resources.gpu and p.peak_outside_bytes and p.reserved_device_bytes
    ]
    return float(max(beside)) if beside and max(beside) > 0 else None
