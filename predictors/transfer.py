"""What other jobs teach about this one: how machines compare, and what the law misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.core.types import ProbeResult
from predictors import bundled, features, machine_rows, prior
from predictors.base import DistributionRegressor
from predictors.machines import MachineRegressor
from predictors.prior import StepPrior
from predictors.residual import MIN_JOBS, MIN_ROWS, ResidualModel, fit_residual
from predictors.step_time import StepTimeRegressor

if TYPE_CHECKING:
    from planner.core.distribution import Array

_LEAST_LOG_SD = 0.25
"""Of the ratio of two machines: other jobs were measured with other software."""
_MIN_ROWS_OF_JOB = 3
_MAX_ROWS = 600
_MOST_ROWS_OF_MACHINES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """log(step time there / here) of some configurations.

    Attributes:
        log_mean: Shape (n,).
        log_sd: Standard deviation, shape (n,).
        jobs: Other jobs it was seen on.
        carried: Whether the configurations are on another kind of machine at all.
    """

    log_mean: Array
    log_sd: Array
    jobs: int = 0
    carried: bool = True

    @classmethod
    def one(cls, n: int) -> Ratio:
        """The ratio of a machine to itself."""
        return cls(log_mean=np.zeros(n), log_sd=np.zeros(n), carried=False)


class MachineRatio:
    """How step times change from one kind of machine to another.

    Each job of the history that was probed on both is fitted here and compared with its probes
    there; `predictors.machines.MachineRegressor` makes the ratio of it, starting from published
    measurements and data sheets. Where a type is unknown to both, the ratio is 1 with a factor of
    5 either way at 90 %: a guess, and shown as one.

    Args:
        history: Kept probes of other jobs.
        here: Machine (`features.machine_key`) that the job was probed on.
        there: Machine that is asked for.
        seed: For the fits.
    """

    def __init__(self, history: Sequence[ProbeResult], here: str, there: str, *, seed: int) -> None:
        self.pair = pair = (here, there)
        jobs: dict[str, tuple[list[ProbeResult], list[ProbeResult]]] = {}
        for probe in history:
            key = features.machine_key(probe.resources)
            if key in (here, there) and features.is_measured(probe):
                jobs.setdefault(probe.fingerprint, ([], []))[0 if key == here else 1].append(probe)
        both = {name: probes for name, probes in jobs.items() if all(probes)}
        tables, times = [_rows([], [], [], pair=pair, job="")], [np.zeros(0)]
        for name, (near, far) in both.items():
            law = StepTimeRegressor(members=1, prior=prior_of(near[0]), random_state=seed)
            law.fit(features.probe_table(near), [features.mean_step_s(p) for p in near])
            columns = features.probe_table(far)
            batches, expected = columns["micro_batch"], law.predict(columns)
            tables.append(_rows(batches, expected, batches, pair=pair, job=name))
            times.append(np.asarray([features.mean_step_s(p) for p in far]))
        X, y = machine_rows.joined(tables), np.concatenate(times)
        recent = np.arange(len(y))[-_MOST_ROWS_OF_MACHINES:]
        model = MachineRegressor(prior=bundled.machines())
        self.jobs = len(both)
        self.model = model.fit(features.take(X, recent), y[recent])

    def at(self, law: DistributionRegressor, columns: features.Table) -> Ratio:
        """The ratio at configurations of a job, by its law here."""
        batches = columns["micro_batch"]
        asked = np.unique(batches)
        rows = _rows(batches, law.predict(columns), asked, pair=self.pair, job="asked")
        mean, sd = self.model.log_moments(rows)
        of = np.searchsorted(asked, batches)
        return Ratio(log_mean=mean[of], log_sd=np.maximum(sd, _LEAST_LOG_SD)[of], jobs=self.jobs)


def _rows(
    batches: Any, here_s: Any, asked: Any, *, pair: tuple[str, str], job: str
) -> dict[str, Any]:
    if not len(asked):
        batches, here_s = [1.0], [1.0]
    described = machine_rows.describe(batches, here_s, asked)
    return machine_rows.rows(described, *pair, job=job, model=job)


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
    shipped = prior.bundled()
    return shipped.unseen if probe.resources.gpu else shipped.of(None)
