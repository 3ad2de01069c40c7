"""The predictor protocol: scikit-learn style estimators that also answer with distributions.

Rows are configurations; columns carry their unit in the name (`predictors.features`). Predictors
are deterministic for a given `random_state`, store nothing but JSON, and import scikit-learn and
xgboost inside functions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from planner.core.prediction import Prediction
from planner.core.types import Knobs, ModelCard, Offer, ProbeResult, ResourceConfig, WorkLoad
from predictors.doubts import Doubts

if TYPE_CHECKING:
    from planner.core.distribution import Array


@runtime_checkable
class DistributionRegressor(Protocol):
    """A scikit-learn style regressor whose predictions are distributions.

    `X` is a pandas DataFrame, or a numpy structured array, or a mapping of columns; `y` a vector
    in the unit that the class names.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from measured rows; returns itself."""

    def predict(self, X: Any) -> Array:
        """Medians, shape (n,)."""

    def predict_distribution(self, X: Any) -> Array:
        """Quantiles at `planner.core.distribution.LEVELS`, shape (n, len(LEVELS))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What a finished run cost, how long it was paid for, and the price that was agreed to."""

    run_s: float
    usd_per_h: float
    cost_usd: float


class JobPredictor(Protocol):
    """All that an estimate needs of one job: fitted on its probes, asked for configurations."""

    def fit(self, probes: Sequence[ProbeResult]) -> Self:
        """Learn from this job's probes. Failed ones count too (an OOM bounds memory).

        Raises:
            EvidenceError: No probe ended well.
        """

    def predict(
        self,
        configs: Sequence[tuple[ResourceConfig, Knobs]],
        work: WorkLoad,
        offers: Sequence[Offer] | None = None,
    ) -> list[Prediction]:
        """What each configuration would do with the whole job, in the order given.

        Args:
            configs: What is asked about.
            work: The whole job.
            offers: How each of them can be had; None for at once, free and never interrupted.
        """

    def draws(self, configs: Sequence[tuple[ResourceConfig, Knobs]], work: WorkLoad) -> Array:
        """Joint draws of whole-run times, s, shape (draws, n): what further probes could tell.

        A row is one way that the job may be, at all configurations. What no probe narrows (drift
        of the machine, the parts of a run that are no steps) stays at its median.
        """

    def doubts(self, configs: Sequence[tuple[ResourceConfig, Knobs]]) -> Doubts:
        """What the reader of these predictions should know of the evidence."""

    def card(self) -> ModelCard:
        """What it was fitted on and how good it has been."""
