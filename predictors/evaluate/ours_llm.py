"""planner's own predictor of language models, on the questions of the tasks E."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors.evaluate.data import LLM_COLUMNS, LlmJob
from predictors.evaluate.tasks import Question
from predictors.features import take
from predictors.llm import LlmRegressor

if TYPE_CHECKING:
    from planner.core.distribution import Array


def language(question: Question) -> Array | None:
    """Iterations of a language model, from those of others within a node, and its probes.

    None where there is nothing to learn from.
    """
    one_node = [job.columns["num_nodes"] == 1 for job in question.training.llm]
    X, y = _pooled(question.training.llm, one_node)
    if not len(y):
        return None
    model = LlmRegressor(gpu=question.gpu).fit(X, y)
    if len(question.probe_s):
        model = model.adapt(question.probes, question.probe_s)
    return model.predict_distribution(question.asked)


def _pooled(jobs: Sequence[LlmJob], chosen: Sequence[Any]) -> tuple[dict[str, Any], Array]:
    tables = [take(job.columns, rows) for job, rows in zip(jobs, chosen, strict=True)]
    X: dict[str, Any] = {
        name: np.concatenate([np.zeros(0), *(table[name] for table in tables)])
        for name in LLM_COLUMNS
    }
    times = [job.iteration_s[rows] for job, rows in zip(jobs, chosen, strict=True)]
    X["gpu_type"] = [job.gpu for job, t in zip(jobs, times, strict=True) for _ in t]
    return X, np.concatenate([np.zeros(0), *times])
