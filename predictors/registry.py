"""Where callers get a predictor from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.core.distribution import Distribution
    from planner.core.job import LanguageModel
    from planner.core.types import ProbeResult
    from predictors.base import Bill, JobPredictor


def job_predictor(
    history: Sequence[ProbeResult] = (),
    finished: Sequence[tuple[Distribution, float]] = (),
    *,
    bills: Sequence[Bill] = (),
    saves: bool = True,
    model: LanguageModel | None = None,
    seed: int = 0,
) -> JobPredictor:
    """A predictor for one job, not fitted yet.

    Args:
        history: Kept probes of other jobs (this job's own are left out by fingerprint).
        finished: Predicted whole-run time and real one, s, of runs that finished.
        bills: What runs that finished cost.
        saves: Whether the job may write checkpoints, as those of tier 0 never do.
        model: What the job trains, where replicas of that may be spread over workers.
        seed: The same evidence and seed give the same predictions.
    """
    from predictors.job import ProbedJobPredictor

    return ProbedJobPredictor(
        history=history, finished=finished, bills=bills, saves=saves, model=model, seed=seed
    )
