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

    A way that was probed with several micro-batches has a model of its own. To any other one is
    carried over, that of the same tensor and pipeline parallelism or else the one with most probes:
    a worker holds its share of the state and of the activations.

    Args:
        probes: Of one job.
        model: What it trains.
        seed: Everything drawn at random follows from it.
    """

    def __init__(self, probes: Sequence[ProbeResult], model: LanguageModel, *, seed: int) -> None:
        self._model, self._seed = model, seed
        self._probes = by_spread(probes)
        self._batches = {s: _batches(rows) for s, rows in self._probes.items()}
        measured = [s for s, of in self._batches.items() if of]
        self._base = max(measured, key=self._rank, default=None)
        self._fitted = [s for s in measured if s == self._base or len(self._batches[s]) > 1]
        self._memory: dict[Spread, JobMemory] = {}

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
            here = [configs[i] for i in rows]
            found = self._of(spread).predict(here, features.take(columns, rows))
            quantiles[rows], p_oom[rows] = found.quantiles, found.p_oom
            seen = any(s[:2] == spread[:2] for s, of in self._batches.items() if of)
            for i, known, made_of in zip(rows, found.evidence, found.parts, strict=True):
                evidence[i] = known if seen else "prior"
                parts[i] = replace(made_of, evidence=evidence[i]) if made_of else None
        return WorkerMemory(quantiles=quantiles, p_oom=p_oom, evidence=evidence, parts=parts)

    def _of(self, spread: Spread) -> JobMemory:
        """The memory of workers that replicas are spread over like that."""
        if spread not in self._memory:
            self._memory[spread] = self._made(spread)
        return self._memory[spread]

    def _made(self, spread: Spread) -> JobMemory:
        own, outcomes = self._probes.get(spread, ()), self._outcomes(spread)
        parent = self._parent(spread)
        if parent is None:
            return JobMemory(own, seed=self._seed, outcomes=outcomes)
        return self._of(parent).respread(
            own,
            state_share=_state(self._model, spread) / _state(self._model, parent),
            activation_share=_activations(self._model, spread) / _activations(self._model, parent),
            outcomes=outcomes,
        )

    def _parent(self, spread: Spread) -> Spread | None:
        """The way whose memory is carried over; None where there is none, or none is needed.

        Probes alone tell it, as a prediction must not depend on what else was asked for.
        """
        if spread in self._fitted:
            return None
        near = [s for s, of in self._batches.items() if of and s[:2] == spread[:2]]
        if self._batches.get(spread):
            near = [s for s in near if self._rank(s) > self._rank(spread)]
        return max(near, key=self._rank, default=self._base)

    def _rank(self, spread: Spread) -> tuple[bool, int, int, Spread]:
        """How much a way that was measured is worth as one to carry over."""
        several = len(self._batches[spread]) > 1
        return several, len(self._probes[spread]), -spread[0] * spread[1], spread

    def _outcomes(self, spread: Spread) -> list[ProbeResult]:
        """Those of no more micro-batches at once that failed, and of no fewer that did not."""
        return [
            p
            for s, probes in self._probes.items()
            if s[:2] == spread[:2]
            for p in probes
            if (s[2] <= spread[2] if p.state == "oom" else s[2] >= spread[2])
        ]


def _batches(probes: Sequence[ProbeResult]) -> set[int]:
    """Micro-batches that a peak was measured of."""
    return {p.knobs.micro_batch for p, _, failed in rows_of(probes) if not failed}


def by_spread(probes: Sequence[ProbeResult]) -> dict[Spread, list[ProbeResult]]:
    """Probes by how a replica is spread."""
    groups: dict[Spread, list[ProbeResult]] = {}
    for probe in probes:
        groups.setdefault(spread_of(probe.knobs), []).append(probe)
    return groups


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
