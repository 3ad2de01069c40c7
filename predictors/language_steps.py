"""`LanguageSteps`: step times of a language model however its replicas are spread over workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from planner.core.distribution import Evidence, Z
from planner.core.job import LanguageModel
from predictors import features, llm_law, step_law
from predictors.doubts import suspicious
from predictors.features import LAYOUT, Table, take, targets
from predictors.gpus import type_of
from predictors.language import language_rows, prior_regressor
from predictors.llm import LlmRegressor
from predictors.llm_law import PARAMETERS, PARTS
from predictors.llm_rows import CPU_SLOT, llm_rows
from predictors.step_time import StepTimeRegressor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.core.distribution import Array

    Mask = NDArray[np.bool_]

_UNTRIED_SIGMA = 0.25
"""Additional standard deviation of the logarithm where the law alone tells of a way to spread: how
well a script does it, such as how evenly it cuts the layers, is not in the law."""
_BETWEEN = ("tensor", "pipeline", "data")
"""Parts of the law that workers wait for each other in."""


class LanguageSteps:
    """Steps of a job on one kind of machine; stands in for its `StepTimeRegressor`.

    On GPU types that the law of language models (`predictors.llm`) was fitted on, that law given
    the job's probes tells all steps. Elsewhere it is weak, and one way to spread a replica is at
    home: one worker each if that was probed, else the way with most probes. There the law of steps
    holds, with replicas for workers; all other ways are the law of language models'.

    Args:
        model: What the job trains.
        gpu: Name of the machine's GPUs; None or `cpu` for CPU slots.
        plain: Not fitted; for the way at home.

    Attributes:
        home_: The way at home: tensor and pipeline parallelism.
        theta_: Log-parameters of the law of steps.
        scale_: Their unit.
        llm_: The law of language models given the probes.
    """

    def __init__(self, *, model: LanguageModel, gpu: str | None, plain: StepTimeRegressor) -> None:
        self.model = model
        self.gpu = type_of(gpu) if gpu and gpu != CPU_SLOT else CPU_SLOT
        self.plain = plain

    @property
    def trial_sigma(self) -> float:
        """Standard deviation of the logarithm between two trials of one configuration."""
        return self.plain.trial_sigma

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from measured steps, as `StepTimeRegressor.fit` with columns `features.LAYOUT`.

        Raises:
            ValueError: Columns or values are wrong.
        """
        y = targets(y, len(X["workers"]), unit="s")
        weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight)
        self.home_ = _home(X)
        here = np.all([X[n] == way for n, way in zip(LAYOUT, self.home_, strict=True)], axis=0)
        self._near: Mask = here
        near = take(X, np.flatnonzero(here))
        self.plain.fit(features.by_replica(near), y[here], weight[here])
        self.theta_: Array = self.plain.theta_
        self.scale_: step_law.Scale = self.plain.scale_
        rows = language_rows(X, self.model, self.gpu)
        prior = prior_regressor(self.model, self.gpu, rows)
        self._learned = self.gpu in prior.gpus_ and self.gpu != CPU_SLOT
        self._probed = {(int(t), int(p)) for t, p in zip(*(X[n] for n in LAYOUT), strict=True)}
        self.llm_: LlmRegressor = prior.adapt(rows, y)
        return self

    def predict(self, X: Any) -> Array:
        """Median step times, s, shape (n,)."""
        return np.exp(self.log_moments(X)[0])

    def predict_distribution(self, X: Any) -> Array:
        """Quantiles of a step measured in a new trial, s, shape (n, len(LEVELS))."""
        centre, low, high = self.log_moments(X)
        z = np.asarray(Z)
        spread = np.where(z < 0, low[:, None], high[:, None])
        sigma = np.hypot(spread, self.trial_sigma)
        result: Array = np.exp(centre[:, None] + sigma * z)
        return result

    def log_moments(self, X: Any) -> tuple[Array, Array, Array]:
        """Median of log(s), and standard deviations below and above it; each (n,)."""
        centre, low, high = (np.empty(len(X["workers"])) for _ in range(3))
        here, near, far = self._split(X)
        if near:
            centre[here], low[here], high[here] = self.plain.log_moments(features.by_replica(near))
        if far:
            centre[~here], *spreads = self.llm_.log_moments(self._rows(far))
            low[~here], high[~here] = (np.hypot(sd, self._untried(far)) for sd in spreads)
        return centre, low, high

    def log_draws(self, X: Any, rng: np.random.Generator, *, size: int) -> Array:
        """Joint draws of the log step time, shape (size, n); the two laws independent."""
        result = np.empty((size, len(X["workers"])))
        here, near, far = self._split(X)
        if near:
            result[:, here] = self.plain.log_draws(features.by_replica(near), rng, size=size)
        if far:
            drawn = self.llm_.log_draws(self._rows(far), rng, size=size)
            of_way = np.stack([X[name][~here] for name in LAYOUT], axis=1)
            _, way = np.unique(of_way, axis=0, return_inverse=True)
            common = rng.standard_normal((size, int(way.max()) + 1))[:, way.reshape(-1)]
            result[:, ~here] = drawn + self._untried(far) * common
        return result

    def terms(self, X: Any) -> step_law.Terms:
        """Parts of a step under the most probable fit, arrays of shape (n,).

        Of the law of language models without what it misses: shares and ratios are what counts.
        """
        found = {name: np.zeros(len(X["workers"])) for name in step_law.Terms.__slots__}
        here, near, far = self._split(X)
        if near:
            plain = self.plain.terms(features.by_replica(near))
            for name, column in found.items():
                column[here] = getattr(plain, name)
        if far:
            step, waiting = self._law(far)
            found["step"][~here], found["compute"][~here] = step, step - waiting
            found["sync"][~here] = found["exposed_sync"][~here] = waiting
        return step_law.Terms(**found)

    def leave_one_out(self, X: Any, y: Any, sample_weight: Any = None) -> Array:
        """Median prediction for every row from the other rows, s.

        Raises:
            ValueError: Fewer than two rows.
        """
        y = targets(y, len(X["workers"]), unit="s")
        if len(y) < 2:
            raise ValueError("leaving one out needs at least two rows")
        weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight)
        rows, result = np.arange(len(y)), np.empty(len(y))
        for i in rows:
            plain = StepTimeRegressor(**{**self.plain.get_params(), "members": 1})
            fresh = LanguageSteps(model=self.model, gpu=self.gpu, plain=plain)
            fresh.fit(take(X, rows[rows != i]), y[rows != i], weight[rows != i])
            result[i] = fresh.predict(take(X, [int(i)]))[0]
        return result

    def suspicious(self) -> tuple[Mask, Mask]:
        """Fitted rows that are not believed, and those that contradict others; each (n,).

        The law that tells the steps of a way judges the probes of it.
        """
        strays = self.llm_.strays_
        if strays is None:
            raise TypeError("the law of language models was given no probes")
        slowed, torn = strays.slowed.copy(), np.full(len(strays.odd), strays.torn)
        if not self._learned:
            slowed[self._near], torn[self._near] = suspicious(self.plain)
        return slowed, torn

    def evidence(self, X: Table) -> list[Evidence]:
        """What each row rests on, by how it is spread.

        Other probes of the same way, or what was learned of other models within a node of the same
        GPUs; else the law alone, anchored at other ways. Where the law of language models tells the
        step, nothing is better founded than that is.
        """
        here, _, far = self._split(X)
        result: list[Evidence] = ["transfer"] * len(here)
        if far:
            told = zip(self.llm_.evidence(self._rows(far)), self._untried(far) > 0, strict=True)
            for i, (known, untried) in zip(np.flatnonzero(~here), told, strict=True):
                result[i] = "prior" if untried else known
        return result

    def _untried(self, X: Table) -> Array:
        """Additional standard deviation of ways that only the law tells of, shape (n,)."""
        tried = np.full(len(X["workers"]), self._learned)
        for tensor, pipeline in self._probed:
            tried |= (X[LAYOUT[0]] == tensor) & (X[LAYOUT[1]] == pipeline)
        return np.where(tried, 0.0, _UNTRIED_SIGMA)

    def _split(self, X: Table) -> tuple[Mask, dict[str, Array], dict[str, Array]]:
        """Which rows are at home, and the two parts of the table; empty where there are none."""
        here = self._at_home(X)
        near = take(X, np.flatnonzero(here)) if here.any() else {}
        far = take(X, np.flatnonzero(~here)) if not here.all() else {}
        return here, near, far

    def _at_home(self, X: Table) -> Mask:
        if self._learned:
            return np.zeros(len(X["workers"]), bool)
        tensor, pipeline = self.home_
        result: Mask = (X[LAYOUT[0]] == tensor) & (X[LAYOUT[1]] == pipeline)
        return result

    def _rows(self, X: Table) -> dict[str, Any]:
        return language_rows(X, self.model, self.gpu)

    def _law(self, X: Table) -> tuple[Array, Array]:
        """Steps by the law, and what workers wait for each other in them, s; each (n,)."""
        network = self.llm_.network_gb_per_s
        c, _ = llm_rows(self._rows(X), gpu=self.gpu, network_gb_per_s=network)
        parts = llm_law.parts(self.llm_.belief_.mean[: len(PARAMETERS)], c)
        waiting = parts[[PARTS.index(part) for part in _BETWEEN]]
        return parts.sum(axis=0), waiting.sum(axis=0)


def _home(X: Table) -> tuple[float, float]:
    ways, counts = np.unique(
        np.stack([X[name] for name in LAYOUT], axis=1), axis=0, return_counts=True
    )
    order = sorted(range(len(ways)), key=lambda i: (ways[i].max() > 1, -counts[i], tuple(ways[i])))
    tensor, pipeline = ways[order[0]]
    return float(tensor), float(pipeline)
