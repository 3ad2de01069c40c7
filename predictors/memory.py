"""`MemoryRegressor`: peak memory of one worker, and the probability of running out of it."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from planner.core.distribution import Z
from predictors.estimator import Estimator
from predictors.features import Table, table, take, targets
from predictors.misfit import half_spread
from predictors.posterior import optimise, perturbations

if TYPE_CHECKING:
    from planner.core.distribution import Array
    from predictors.features import Index

_PRIOR_MEDIAN = (0.6, 0.4, 0.03)
_PRIOR_LOG_SD = (1.0, 1.0, 1.0)
"""Fixed part, part per micro-batch, extra of synchronised workers: shares of a typical peak."""


class MemoryRegressor(Estimator):
    """Peak memory of one worker, bytes: a line in the micro-batch, the same for every worker count.

    ``peak = fixed + per_sample * micro_batch + extra * (workers > 1)``, all positive: the fixed
    part holds the context, weights and optimiser state; the extra one the buckets that
    synchronisation allocates. A line through two micro-batches has been within 10 % on six CNNs,
    far better than estimates from the model's graph. Trials that ran out of memory bound the line
    from below at their capacity. Memory is that of the GPU, or peak resident memory on CPU slots.

    Args:
        members: Size of the ensemble.
        sigma: Standard deviation of log(measured / line).
        octave_sigma: Additional standard deviation per doubling of the micro-batch beyond trials.
        margin: Share of the capacity that must stay free: allocators fragment.
        random_state: Seed of the ensemble.

    Attributes:
        theta_: Log-parameters, shape (members, 3); row 0 is the most probable fit.
        scale_: Typical peak (bytes) and micro-batch (samples), the unit of the parameters.
    """

    def __init__(
        self,
        *,
        members: int = 48,
        sigma: float = 0.04,
        octave_sigma: float = 0.05,
        margin: float = 0.05,
        random_state: int = 0,
    ) -> None:
        self.members = members
        self.sigma = sigma
        self.octave_sigma = octave_sigma
        self.margin = margin
        self.random_state = random_state

    def fit(self, X: Any, y: Any, out_of_memory: Any = None) -> Self:
        """Learn from measured peaks.

        Args:
            X: Configurations; `workers` and `micro_batch` are used.
            y: Peak bytes of one worker; the capacity where the trial ran out of memory.
            out_of_memory: True where it did; None for nowhere.

        Raises:
            ValueError: Columns or values are wrong.
        """
        columns = table(X)
        y = targets(y, len(columns["workers"]), unit="bytes")
        failed = np.zeros(len(y), bool) if out_of_memory is None else np.asarray(out_of_memory)
        if failed.shape != y.shape:
            raise ValueError(f"out_of_memory needs shape {y.shape}, got {failed.shape}")
        self.scale_ = _scale(columns, y)
        fit_columns = take(columns, np.arange(len(y)))
        self.theta_: Array = self._optimise(fit_columns, y, failed, self.members)
        self.range_ = (
            float(columns["micro_batch"].min()),
            float(columns["micro_batch"].max()),
        )
        worst = columns["micro_batch"][failed]
        self.smallest_failed_ = float(worst.min()) if len(worst) else float("inf")
        self.n_features_in_ = 2
        return self

    def predict(self, X: Any) -> Array:
        """Median peaks, bytes, shape (n,)."""
        self._check_fitted()
        median: Array = self._line(self.theta_[:1], table(X))[0]
        return median

    def predict_distribution(self, X: Any) -> Array:
        """Quantiles of the peak, bytes, shape (n, len(LEVELS))."""
        centre, low, high = self._moments(table(X))
        z = np.asarray(Z)
        sigma = np.where(z < 0, low[:, None], high[:, None])
        result: Array = np.exp(centre[:, None] + sigma * z)
        return result

    def p_oom(self, X: Any, capacity_bytes: Any) -> Array:
        """Probability that a worker needs more than its capacity less the margin, shape (n,).

        Args:
            X: Configurations.
            capacity_bytes: Shape (n,); not-a-number or infinity where nothing limits it.
        """
        columns = table(X)
        centre, low, high = self._moments(columns)
        capacity = np.asarray(capacity_bytes, dtype=float)
        usable = np.where(np.isfinite(capacity), capacity * (1 - self.margin), np.inf)
        with np.errstate(divide="ignore"):
            distance = np.log(usable) - centre
        z = distance / np.where(distance < 0, low, high)
        normal = NormalDist()
        unique, back = np.unique(np.clip(z, -9, 9), return_inverse=True)
        risk = np.asarray([1.0 - normal.cdf(v) for v in unique])[back]
        limited = np.isfinite(usable)
        known = limited & (columns["micro_batch"] >= self.smallest_failed_)
        return np.where(limited, np.where(known, np.maximum(risk, 0.97), risk), 0.0)

    def leave_one_out(self, X: Any, y: Any) -> Array:
        """Median prediction for every row from the others, bytes.

        Raises:
            ValueError: Fewer than two rows.
        """
        columns = table(X)
        y = targets(y, len(columns["workers"]), unit="bytes")
        if len(y) < 2:
            raise ValueError("leaving one out needs at least two rows")
        rows = np.arange(len(y))
        result = np.empty(len(y))
        for i in rows:
            rest = take(columns, rows[rows != i])
            self.scale_ = _scale(rest, y[rows != i])
            theta = self._optimise(rest, y[rows != i], np.zeros(len(y) - 1, bool), 1)
            result[i] = self._line(theta, take(columns, [int(i)]))[0, 0]
        return result

    def _line(self, theta: Array, columns: Table) -> Array:
        """Peaks in bytes, shape (members, n)."""
        fixed, slope, extra = (np.exp(np.clip(theta[:, i : i + 1], -30, 12)) for i in range(3))
        peak, micro_batch = self.scale_
        line = fixed + slope * columns["micro_batch"] / micro_batch
        result: Array = peak * (line + extra * (columns["workers"] > 1))
        return result

    def _optimise(self, columns: Table, y: Array, failed: Array, members: int) -> Array:
        mean, sd = np.log(_PRIOR_MEDIAN), np.asarray(_PRIOR_LOG_SD)
        noise, prior_noise = perturbations(members, len(y), len(mean), self.random_state)
        log_y = np.log(y)

        def residuals(theta: Array, member: Index) -> Array:
            off = (np.log(self._line(theta, columns)) - log_y) / self.sigma + noise[member]
            # A trial that ran out of memory only says that the line lies above: one-sided.
            return np.where(failed, np.minimum(off, 0.0), off)

        return optimise(residuals, mean + sd * prior_noise, sd).theta

    def _moments(self, columns: Table) -> tuple[Array, Array, Array]:
        self._check_fitted()
        line = np.log(self._line(self.theta_, columns))
        centre, deviation = line[0], line[1:] - line[0]
        m = np.log2(columns["micro_batch"])
        outside = np.maximum(m - np.log2(self.range_[1]), 0.0)
        outside += np.maximum(np.log2(self.range_[0]) - m, 0.0)
        extra = np.hypot(self.sigma, self.octave_sigma * outside)
        low, high = half_spread(deviation, below=True), half_spread(deviation, below=False)
        return centre, np.hypot(low, extra), np.hypot(high, extra)

    def to_json(self) -> dict[str, Any]:
        """The fitted regressor as plain JSON values."""
        self._check_fitted()
        smallest = self.smallest_failed_
        return {
            "kind": "memory/1",
            "params": self.get_params(),
            "theta": self.theta_.tolist(),
            "scale": list(self.scale_),
            "range": list(self.range_),
            "smallest_failed": None if np.isinf(smallest) else smallest,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` gave.

        Raises:
            ValueError: Not such a document.
        """
        if data.get("kind") != "memory/1":
            raise ValueError(f"not a memory model: kind is {data.get('kind')!r}")
        model = cls(**data["params"])
        model.theta_ = np.asarray(data["theta"], dtype=float)
        model.scale_ = (float(data["scale"][0]), float(data["scale"][1]))
        model.range_ = (float(data["range"][0]), float(data["range"][1]))
        smallest = data["smallest_failed"]
        model.smallest_failed_ = float("inf") if smallest is None else float(smallest)
        model.n_features_in_ = 2
        return model


def _scale(columns: Table, y: Array) -> tuple[float, float]:
    peak = float(np.exp(np.mean(np.log(y))))
    return peak, float(np.exp(np.mean(np.log(columns["micro_batch"]))))
