"""planner's predictors of other GPU types and of larger systems, on the questions of the tasks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors import machine_rows, scale_out
from predictors.evaluate.data import StepJob, Submission
from predictors.evaluate.tasks import Question, model_of
from predictors.features import take
from predictors.machines import MachineRegressor
from predictors.scale_out import ScaleOutRegressor

if TYPE_CHECKING:
    from planner.core.distribution import Array

_KEPT = 16
_fitted: dict[tuple[int, ...], tuple[Sequence[StepJob], MachineRegressor]] = {}


def transfer(question: Question) -> Array:
    """Quantiles of steps on another GPU type, shape (rows, levels); s."""
    model = _regressor(question.training.steps)
    near = question.probes["on_target"] == 0
    curve = (question.probes["micro_batch"][near], question.probe_s[near])

    def rows(micro_batch: Array) -> dict[str, Any]:
        described = machine_rows.describe(*curve, micro_batch, image_px=image_px(question.dataset))
        return machine_rows.rows(
            described, question.probe_gpu, question.gpu, job=question.job, model=question.job
        )

    if not np.all(near):
        tried = take(question.probes, ~near)["micro_batch"]
        model = model.with_probes(rows(tried), question.probe_s[~near])
    return model.predict_distribution(rows(question.asked["micro_batch"]))


def image_px(dataset: str) -> float:
    """Side of a data set's images where its name tells, as `synthetic-128px` does."""
    told = re.search(r"(\d+)px", dataset)
    return float(told[1]) if told else {"cifar10": 32.0}.get(dataset, float("nan"))


def _regressor(steps: Sequence[StepJob]) -> MachineRegressor:
    """Fitted once for all questions that are given the same jobs."""
    key = tuple(map(id, steps))
    if key not in _fitted:
        if len(_fitted) >= _KEPT:
            _fitted.pop(next(iter(_fitted)))
        _fitted[key] = (steps, MachineRegressor().fit(*pairs(steps)))
    return _fitted[key][1]


def pairs(steps: Sequence[StepJob]) -> tuple[dict[str, Any], Array]:
    """Rows and times (s) of every job that was measured on two GPU types, one GPU each."""
    tables: list[dict[str, Any]] = []
    there_s: list[Array] = [np.zeros(0)]
    alone = [(job, job.columns["workers"] == 1) for job in steps]
    alone = [(job, one) for job, one in alone if np.any(one)]
    for near, one in alone:
        for far, other in alone:
            same = (near.source, near.model, near.dataset, near.precision) == (
                far.source,
                far.model,
                far.dataset,
                far.precision,
            )
            if not same or near.gpu == far.gpu:
                continue
            both = other & np.isin(far.columns["micro_batch"], near.columns["micro_batch"][one])
            if not np.any(both):
                continue
            described = machine_rows.describe(
                near.columns["micro_batch"][one],
                near.step_s[one],
                far.columns["micro_batch"][both],
                image_px=image_px(near.dataset),
            )
            job = f"{near.source}/{near.model}/{near.dataset}"
            tables.append(
                machine_rows.rows(described, near.gpu, far.gpu, job=job, model=model_of(near.model))
            )
            there_s.append(far.step_s[both])
    empty = machine_rows.rows(
        machine_rows.describe([1.0], [1.0], np.zeros(0)), "", "", job="", model=""
    )
    return machine_rows.joined([empty, *tables]), np.concatenate(there_s)


def families(question: Question) -> Array:
    """Quantiles of the time to train on larger systems, shape (rows, levels); s."""
    known, known_s = systems(question.training.submissions)
    own = {"benchmark": question.benchmark, "gpu": question.gpu, "family": question.job}
    X = scale_out.joined([known, scale_out.rows(question.probes, **own)])
    model = ScaleOutRegressor().fit(X, np.concatenate([known_s, question.probe_s]))
    return model.predict_distribution(scale_out.rows(question.asked, **own))


def systems(known: Sequence[Submission]) -> tuple[dict[str, Any], Array]:
    """Rows and times to train (s) of submissions."""
    columns = {
        "gpus": [s.gpus for s in known],
        "nodes": [s.nodes for s in known],
        "global_batch": [s.global_batch for s in known],
    }
    learned = scale_out.rows(
        columns,
        benchmark=[s.benchmark for s in known],
        gpu=[s.gpu for s in known],
        family=["/".join(s.family) for s in known],
    )
    return learned, np.asarray([60 * s.minutes for s in known])
