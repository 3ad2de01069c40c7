"""From one kind of machine to another, by what other jobs showed on both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.core.types import ProbeResult
from predictors import features
from predictors.step_time import StepTimeRegressor

_UNKNOWN_LOG_SD = 1.0
_ONE_JOB_LOG_SD = 0.45
_LEAST_LOG_SD = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """log(step time there / here): mean and standard deviation, and the jobs it was seen on."""

    log_mean: float = 0.0
    log_sd: float = 0.0
    jobs: int = 0


def machine_ratio(history: Sequence[ProbeResult], here: str, there: str, *, seed: int) -> Ratio:
    """How step times change from one kind of machine to another.

    Each job of the history that was probed on both is fitted here and compared with its probes
    there; jobs count the same. Without any, the ratio is 1 with a factor of 5 either way at 90 %:
    a guess, and shown as one.

    Args:
        history: Kept probes of other jobs.
        here: Machine (`features.machine_key`) that the job was probed on.
        there: Machine that is asked for.
        seed: For the fits.
    """
    jobs: dict[str, tuple[list[ProbeResult], list[ProbeResult]]] = {}
    for probe in history:
        key = features.machine_key(probe.resources)
        if key in (here, there) and features.is_measured(probe):
            jobs.setdefault(probe.fingerprint, ([], []))[0 if key == here else 1].append(probe)
    logs = [_log_ratio(near, far, seed) for near, far in jobs.values() if near and far]
    if not logs:
        return Ratio(log_sd=_UNKNOWN_LOG_SD)
    spread = float(np.std(logs, ddof=1)) if len(logs) > 1 else _ONE_JOB_LOG_SD
    return Ratio(log_mean=float(np.mean(logs)), log_sd=max(spread, _LEAST_LOG_SD), jobs=len(logs))


def _log_ratio(near: Sequence[ProbeResult], far: Sequence[ProbeResult], seed: int) -> float:
    model = StepTimeRegressor(members=1, random_state=seed)
    model.fit(features.probe_table(near), [features.mean_step_s(p) for p in near])
    expected = model.predict(features.probe_table(far))
    seen = np.asarray([features.mean_step_s(p) for p in far])
    return float(np.median(np.log(seen / expected)))
