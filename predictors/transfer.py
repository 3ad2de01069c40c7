"""What other jobs teach about this one: how machines compare, and what the law misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.core.types import ProbeResult
from predictors import features
from predictors.prior import StepPrior, bundled
from predictors.residual import MIN_JOBS, MIN_ROWS, ResidualModel, fit_residual
from predictors.step_time import StepTimeRegressor

_UNKNOWN_LOG_SD = 1.0
_ONE_JOB_LOG_SD = 0.45
_LEAST_LOG_SD = 0.25
_MIN_ROWS_OF_JOB = 3
_MAX_ROWS = 600


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
    model = StepTimeRegressor(members=1, prior=prior_of(near[0]), random_state=seed)
    model.fit(features.probe_table(near), [features.mean_step_s(p) for p in near])
    expected = model.predict(features.probe_table(far))
    seen = np.asarray([features.mean_step_s(p) for p in far])
    return float(np.median(np.log(seen / expected)))


def learn_residual(probes: Sequence[ProbeResult], *, seed: int) -> ResidualModel | None:
    """Learn from pooled probes what the law misses; None when there are too few.

    Every job and machine with at least three measured probes takes part; the law is fitted to all
    but one of them, one after another. At most the newest 600 probes count.
    """
    newest = sorted(probes, key=lambda p: (p.measured_at, p.id), reverse=True)
    groups: dict[tuple[str, str], list[ProbeResult]] = {}
    for probe in [p for p in newest if features.is_measured(p)][:_MAX_ROWS]:
        key = (probe.fingerprint, features.machine_key(probe.resources))
        groups.setdefault(key, []).append(probe)
    groups = {key: rows for key, rows in groups.items() if len(rows) >= _MIN_ROWS_OF_JOB}
    jobs = [fingerprint for (fingerprint, _), rows in groups.items() for _ in rows]
    if len(jobs) < MIN_ROWS or len(set(jobs)) < MIN_JOBS:
        return None
    lessons = []
    for rows in groups.values():
        model = StepTimeRegressor(members=1, prior=prior_of(rows[0]), random_state=seed)
        y = [features.mean_step_s(p) for p in rows]
        lessons.append(model.lessons(features.probe_table(rows), y))
    X, miss, follows = (np.concatenate(column) for column in zip(*lessons, strict=True))
    return fit_residual(X, miss, follows, jobs, seed=seed)


def prior_of(probe: ProbeResult) -> StepPrior:
    """The shipped prior for the machine of a probe.

    Of a GPU it is that for clusters never seen: whoever has the same type has another network.
    """
    shipped = bundled()
    return shipped.unseen if probe.resources.gpu else shipped.of(None)
