"""planner's own predictors on the questions of the tasks: quantiles of times in s."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from predictors.evaluate import ours_other
from predictors.evaluate.data import Measurements
from predictors.evaluate.ours_llm import language
from predictors.evaluate.tasks import Question, model_of
from predictors.pooling import MeasuredJob, Summary, learn_from, summarise
from predictors.prior import PriorSet
from predictors.step_time import StepTimeRegressor

if TYPE_CHECKING:
    from planner.core.distribution import Array


def predict(question: Question) -> Array | None:
    """Quantiles at `planner.core.distribution.LEVELS`, shape (rows, levels); s.

    None where there is no predictor for the task.
    """
    if question.task in ("A1", "A2", "A3"):
        return placements(question)
    if question.task in ("E1", "E2", "E3"):
        return language(question)
    if question.task == "B1":
        return ours_other.transfer(question)
    if question.task == "C1":
        return ours_other.families(question)
    return None


def placements(question: Question) -> Array:
    """Steps at other placements of a job, from its probes and what the training jobs teach."""
    return step_model(question).predict_distribution(question.asked)


def step_model(question: Question) -> StepTimeRegressor:
    """Fitted to the probes, with priors and trees from the training jobs alone."""
    summaries = tuple(_summary(job) for job in measured_jobs(question.training))
    priors = _learned(summaries)
    model = StepTimeRegressor(prior=priors.of(question.gpu), residual=priors.residual)
    return model.fit(question.probes, question.probe_s)


def measured_jobs(training: Measurements) -> list[MeasuredJob]:
    """Training jobs that ran on more than one worker, as the priors are learned from them."""
    return [
        MeasuredJob(model=model_of(job.model), gpu=job.gpu, columns=job.columns, step_s=job.step_s)
        for job in training.steps
        if job.columns["workers"].max() > 1
    ]


_kept: dict[tuple[str, str, int, float], Summary] = {}


def _summary(job: MeasuredJob) -> Summary:
    """A job's summary; the same whatever else is held out, and asked for again and again."""
    key = (job.model, job.gpu, len(job.step_s), float(np.sum(job.step_s)))
    if key not in _kept:
        _kept[key] = summarise(job)
    return _kept[key]


@cache
def _learned(summaries: tuple[Summary, ...]) -> PriorSet:
    return learn_from(summaries)
