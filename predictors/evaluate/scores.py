"""Errors and coverage of every method, over the rows and jobs of a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.core.distribution import I05, I50, I95
from predictors.evaluate import ours
from predictors.evaluate.peers import PEERS
from predictors.evaluate.tasks import Case

if TYPE_CHECKING:
    from planner.core.distribution import Array
    from predictors.features import Index

OURS = "planner"
ENOUGH_ROWS = 5
"""Rows of a job from which its own coverage says something of it."""
LARGER_JOBS = "jobs_of_5_rows"
"""The split of `all` without the jobs of fewer rows; only where there are jobs of both kinds."""
METHODS: tuple[str, ...] = (*PEERS, OURS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one method said to one case.

    Attributes:
        case: The case.
        method: One of `METHODS`.
        median_s: Predictions, s.
        quantiles_s: Quantiles at `planner.core.distribution.LEVELS`, shape (rows, levels), s; None
            of a method without intervals.
    """

    case: Case
    method: str
    median_s: Array
    quantiles_s: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One row of the table; errors, coverage and widths in percent.

    Attributes:
        split: Subset of the asked rows.
        jobs: Jobs judged.
        n: Rows judged.
        mape: Mean absolute percentage error of a job, averaged over jobs.
        median_ape: Median of the absolute percentage errors of all rows.
        p90_ape: Their 90th percentile.
        coverage90_mean: Share of a job's rows inside the 90 % interval, averaged over jobs.
        coverage90_worst: The same of the worst job, however few rows it has.
        halfwidth90: Half the width of the interval over its median, averaged as `mape` is.
    """

    task: str
    split: str
    method: str
    jobs: int
    n: int
    mape: float
    median_ape: float
    p90_ape: float
    coverage90_mean: float | None = None
    coverage90_worst: float | None = None
    halfwidth90: float | None = None

    def document(self) -> dict[str, Any]:
        """Plain JSON values, rounded to a thousandth of a percent."""
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self).items()}


def answers(cases: Iterable[Case], methods: Iterable[str] = METHODS) -> Iterator[Answer]:
    """Ask every method every case; one that has nothing to say of a case is left out of it."""
    chosen = tuple(methods)
    for case in cases:
        for method in chosen:
            answer = _ask(case, method)
            if answer is not None:
                yield answer


def _ask(case: Case, method: str) -> Answer | None:
    if method == OURS:
        quantiles = ours.predict(case.question)
        if quantiles is None:
            return None
        return Answer(case=case, method=method, median_s=quantiles[:, I50], quantiles_s=quantiles)
    predicted = PEERS[method](case.question)
    return None if predicted is None else Answer(case=case, method=method, median_s=predicted)


def scores(found: Iterable[Answer]) -> list[Score]:
    """A row for every task, split and method, in the order they were met."""
    groups: dict[tuple[str, str, str], list[tuple[Answer, Index]]] = {}
    for answer in found:
        for split, mask in answer.case.splits.items():
            rows = np.flatnonzero(mask)
            if len(rows):
                key = (answer.case.question.task, split, answer.method)
                groups.setdefault(key, []).append((answer, rows))
    result = []
    for (task, split, method), members in groups.items():
        result.append(_score(task, split, method, members))
        larger = _larger_jobs(members) if split == "all" else []
        if 0 < len(larger) < len(members):
            result.append(_score(task, LARGER_JOBS, method, larger))
    return result


def _larger_jobs(members: Sequence[tuple[Answer, Index]]) -> list[tuple[Answer, Index]]:
    counts: Counter[str] = Counter()
    for answer, rows in members:
        counts[answer.case.question.job] += len(rows)
    return [m for m in members if counts[m[0].case.question.job] >= ENOUGH_ROWS]


def _score(task: str, split: str, method: str, members: Sequence[tuple[Answer, Index]]) -> Score:
    """Jobs count the same, whatever their number of rows and of cases."""
    errors: dict[str, list[Array]] = {}
    inside: dict[str, list[Array]] = {}
    widths: dict[str, list[Array]] = {}
    for answer, rows in members:
        job, true = answer.case.question.job, answer.case.true_s[rows]
        off = np.abs(answer.median_s[rows] / true - 1)
        errors.setdefault(job, []).append(100 * off)
        if answer.quantiles_s is not None:
            low, high = answer.quantiles_s[rows, I05], answer.quantiles_s[rows, I95]
            within = (low <= true) & (true <= high)
            inside.setdefault(job, []).append(100 * within.astype(float))
            widths.setdefault(job, []).append(50 * (high - low) / answer.median_s[rows])
    every = np.concatenate([e for of_job in errors.values() for e in of_job])
    coverage = _by_job(inside)
    return Score(
        task=task,
        split=split,
        method=method,
        jobs=len(errors),
        n=len(every),
        mape=float(np.mean(_by_job(errors))),
        median_ape=float(np.median(every)),
        p90_ape=float(np.percentile(every, 90)),
        coverage90_mean=float(np.mean(coverage)) if coverage else None,
        coverage90_worst=min(coverage) if coverage else None,
        halfwidth90=float(np.mean(_by_job(widths))) if widths else None,
    )


def _by_job(values: dict[str, list[Array]]) -> list[float]:
    return [float(np.mean(np.concatenate(of_job))) for of_job in values.values()]
