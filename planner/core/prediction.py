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
class Prediction:
    """What one configuration would do with the whole job.

    Attributes:
        widened_by_runs: Width of the 90 % interval of `run_s`, as a logarithm, over what it would
            be if no run had finished; below 1 where runs made it narrower.
        widened_by_company: The same over what it would be if nobody else had used the machine
            during the probes.
    """

    step_time_s: Distribution
    run_s: Distribution
    memory_bytes: Distribution
    p_oom: float
    bottleneck: Bottleneck
    evidence: Evidence
    interval_method: Literal["cqr", "split", "analytic", "none"] = "analytic"
    calibrated: bool = False
    n_calibration: int = 0
    widened_by_runs: float = 1.0
    widened_by_company: float = 1.0
