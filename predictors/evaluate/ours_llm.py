"""planner's own predictor of language models, on the questions of the tasks E."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors.evaluate.data import LLM_COLUMNS
from predictors.evaluate.tasks import Question
from predictors.llm import LlmRegressor

if TYPE_CHECKING:
    from planner.core.distribution import Array


def language(question: Question) -> Array | None:
    """Iterations of a language model, from those of others within a node, and its probes.

    None where there is nothing to learn from.
    """
    tables = [
        np.stack([*(job.columns[name] for name in LLM_COLUMNS), job.iteration_s], axis=1)
        for job in question.training.llm
    ]
    one_node = [t[~(t[:, LLM_COLUMNS.index("num_nodes")] > 1)] for t in tables]
    gpus = [job.gpu for job, t in zip(question.training.llm, one_node, strict=True) for _ in t]
    if not gpus:
        return None
    model = _fitted(question.gpu, np.concatenate(one_node).tobytes(), tuple(gpus))
    if len(question.probe_s):
        model = model.adapt(question.probes, question.probe_s)
    return model.predict_distribution(question.asked)


@lru_cache(maxsize=2)
def _fitted(gpu: str, table: bytes, gpus: tuple[str, ...]) -> LlmRegressor:
    """Questions about other models often come with the same rows: these are fitted once."""
    values = np.frombuffer(table).reshape(len(gpus), -1)
    X: dict[str, Any] = {name: values[:, i] for i, name in enumerate(LLM_COLUMNS)}
    X["gpu_type"] = gpus
    return LlmRegressor(gpu=gpu).fit(X, values[:, -1])
