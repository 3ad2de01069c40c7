"""planner's own predictors on the questions of the tasks: quantiles of times in s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from predictors.evaluate.ours_llm import language
from predictors.evaluate.tasks import Question
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
    return None


def placements(question: Question) -> Array:
    """Steps at other placements of a job, from its probes."""
    model = StepTimeRegressor().fit(question.probes, question.probe_s)
    return model.predict_distribution(question.asked)
