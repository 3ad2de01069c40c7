"""What a predictor says of one configuration, and how far an interval can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.core.distribution import Distribution, Evidence

Bottleneck = Literal["gpu", "loader", "network", "memory", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A central prediction interval and how far it can be trusted."""

    level: float
    lo: float
    hi: float
    method: Literal["cqr", "split", "analytic", "none"] = "analytic"
    calibrated: bool = False
    n_calibration: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryParts:
    """What the most probable peak of one worker is made of, bytes: they add up to it.

    Attributes:
        context_bytes: What depends neither on the model nor on the batch: work spaces of a GPU's
            libraries, or the interpreter and its libraries on CPU slots. Where the sizes of
            weights, gradients and optimiser state are not known they are in it, and are None.
        gradients_bytes: Those that are there at the peak.
        activations_bytes: What the forward pass keeps of a micro-batch; 0 where the peak is at the
            optimiser's step.
        synchronisation_bytes: Buckets of data parallel workers.
        evidence: Where this is known from.
    """

    context_bytes: float
    weights_bytes: float | None
    gradients_bytes: float | None
    optimizer_bytes: float | None
    activations_bytes: float
    synchronisation_bytes: float
    evidence: Evidence = "prior"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What one configuration would do with the whole job.

    Attributes:
        run_s: Running, interruptions included.
        total_s: Waiting until it may start, and running.
        interruptions: Expected number of them.
        interrupted_share: Of the median running time, what they take.
        memory_parts: None where nothing is known of memory.
        widened_by_runs: Width of the 90 % interval of `run_s`, as a logarithm, over what it would
            be if no run had finished; below 1 where runs made it narrower.
        widened_by_company: The same over what it would be if nobody else had used the machine
            during the probes.
    """

    step_time_s: Distribution
    run_s: Distribution
    total_s: Distribution
    cost_usd: Distribution
    memory_bytes: Distribution
    p_oom: float
    bottleneck: Bottleneck
    evidence: Evidence
    interruptions: float = 0.0
    interrupted_share: float = 0.0
    interval_method: Literal["cqr", "split", "analytic", "none"] = "analytic"
    calibrated: bool = False
    n_calibration: int = 0
    memory_parts: MemoryParts | None = None
    widened_by_runs: float = 1.0
    widened_by_company: float = 1.0
