"""Predicted against achieved coverage: how often the truth lies below each predicted quantile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from planner.core.distribution import LEVELS
from planner.core.errors import UsageError
from predictors.evaluate.scores import Answer


def achieved(answers: Iterable[Answer]) -> dict[str, list[float]]:
    """Share of the truth below each quantile of `LEVELS`, by task; jobs count the same."""
    shares: dict[str, dict[str, list[np.ndarray]]] = {}
    for answer in answers:
        if answer.quantiles_s is None:
            continue
        question = answer.case.question
        below = answer.case.true_s[:, None] <= answer.quantiles_s
        of_task = shares.setdefault(question.task, {})
        of_task.setdefault(question.job, []).append(below)
    return {
        task: np.mean(
            [np.concatenate(rows).mean(axis=0) for rows in jobs.values()], axis=0
        ).tolist()
        for task, jobs in shares.items()
    }


def draw(shares: Mapping[str, Sequence[float]], path: Path) -> None:
    """Plot achieved over predicted coverage into a file, the kind of which its name tells.

    Raises:
        UsageError: matplotlib is not installed, or cannot write such a file.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        hint = "install planner with its report extra, or leave --plot out"
        raise UsageError("plotting needs matplotlib, which is not installed", hint=hint) from None
    figure = Figure(figsize=(5.2, 5.0), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="honest")
    for task, share in shares.items():
        axes.plot(LEVELS, share, marker="o", markersize=3, linewidth=1.2, label=task)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("predicted: truth is below with this probability")
    axes.set_ylabel("achieved: share of measurements below")
    axes.legend(frameon=False)
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be written: {error}") from error
