"""`LanguageMemory`: a worker's peak memory however replicas of a language model are spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from planner.core.distribution import LEVELS, Evidence
from planner.core.job import LanguageModel
from planner.core.prediction import MemoryParts
from planner.core.types import Knobs, ProbeResult
from predictors import features
from predictors.job_memory import Config, JobMemory, WorkerMemory, rows_of
from predictors.language import stage_parameters

if TYPE_CHECKING:
    from predictors.features import Table

Spread = tuple[int, int, int]
"""Tensor and pipeline parallelism, and micro-batches that the first stage holds at once."""


class LanguageMemory:
    """As `JobMemory`, for each way to spread a replica apart.

    A way that was probed with several micro-batches has a model of its own. To any other the one
    with most probes is carried over: a worker holds its share of the state and of the activations.

    Args:
        probes: Of one job.
        model: What it trains.
        seed: Everything drawn at random follows from it.
    """

    def __init__(self, probes: Sequence[ProbeResult], model: LanguageModel, *, seed: int) -> None:
        self._model = model
        self._probes: dict[Spread, list[ProbeResult]] = {}
        for probe in probes:
            self._probes.setdefault(spread_of(probe.knobs), []).append(probe)
        batches = {s: _batches(rows) for s, rows in self._probes.items()}
        self._base = max(
            (s for s, of in batches.items() if of),
            key=lambda s: (len(batches[s]) > 1, len(self._probes[s]), -s[0] * s[1]),
            default=None,
        )
        fitted = [s for s, of in batches.items() if s == self._base or len(of) > 1]
        self._memory = {s: JobMemory(self._probes[s], seed=seed) for s in fitted}

    def predict(self, configs: Sequence[Config], columns: Table) -> WorkerMemory:
        """What is known of a worker's peak; as `JobMemory.predict`."""
        n = len(configs)
        quantiles, p_oom = np.zeros((n, len(LEVELS))), np.zeros(n)
        evidence: list[Evidence] = ["prior"] * n
        parts: list[MemoryParts | None] = [None] * n
        groups: dict[Spread, list[int]] = {}
        for i, (_, knobs) in enumerate(configs):
            groups.setdefault(spread_of(knobs), []).append(i)
        for spread, rows in groups.items():
            memory = self._of(spread)
            if memory is None:
                continue
            found = memory.predict([configs[i] for i in rows], features.take(columns, rows))
            quantiles[rows], p_oom[rows] = found.quantiles, found.p_oom
            seen = any(s[:2] == spread[:2] for s in self._probes)
            for i, known, made_of in zip(rows, found.evidence, found.parts, strict=True):
                evidence[i] = known if seen else "prior"
                parts[i] = replace(made_of, evidence=evidence[i]) if made_of else None
        return WorkerMemory(quantiles=quantiles, p_oom=p_oom, evidence=evidence, parts=parts)

    def _of(self, spread: Spread) -> JobMemory | None:
        """The memory of workers that replicas are spread over like that."""
        if self._base is None:
            return None
        if spread not in self._memory:
            alike = [s for s in self._memory if s[:2] == spread[:2]]
            base = alike[0] if alike else self._base
            state = _state(self._model, spread) / _state(self._model, base)
            activations = _activations(self._model, spread) / _activations(self._model, base)
            self._memory[spread] = self._memory[base].respread(
                self._probes.get(spread, ()), state_share=state, activation_share=activations
            )
        return self._memory[spread]


def _batches(probes: Sequence[ProbeResult]) -> set[int]:
    """Micro-batches that a peak was measured of."""
    return {p.knobs.micro_batch for p, _, failed in rows_of(probes) if not failed}


def spread_of(knobs: Knobs) -> Spread:
    """How a replica is spread, as far as memory depends on it.

    The first of p stages holds the activations of at most p micro-batches at once (1F1B, Narayanan
    et al., SC 2021, section 2.2).
    """
    pipeline = knobs.pipeline_parallel
    return knobs.tensor_parallel, pipeline, min(pipeline, max(knobs.accumulation, 1))


def _state(model: LanguageModel, spread: Spread) -> float:
    return stage_parameters(model, spread[0], spread[1])


def _activations(model: LanguageModel, spread: Spread) -> float:
    """Bytes per sample and unit of hidden size (Korthikanti et al., MLSys 2023, equation 2)."""
    tensor, pipeline, held = spread
    scores = 5 * model.heads * model.sequence / model.hidden
    return held * ceil(model.layers / pipeline) * (10 + (24 + scores) / tensor)
