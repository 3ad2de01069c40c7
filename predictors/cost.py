"""`CostRegressor`: what a run costs, as a distribution.

The price of a spot market moves while the job runs: it is taken as log-normal around today's price,
with the spread of the last 24 hours. What is billed is not quite time by price either (minimum
billing times, disks, transfer, prices that drift one way): finished runs tell by how much. The
product of independent log-normal quantities has logarithms that add.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from planner.core.distribution import I50, LEVELS, Z, add_independent
from predictors.columns import not_negative, number_columns, positive
from predictors.estimator import Estimator
from predictors.features import targets
from predictors.interruptions import ordered

if TYPE_CHECKING:
    from planner.core.distribution import Array

_Z90 = NormalDist().inv_cdf(0.9)
_LARGEST_LOG_RATIO = 1.0
"""A bill further than a factor of 2.7 from time by price is counted as one that far."""


class CostRegressor(Estimator):
    """Cost of a run, US dollars, from its running time and the price of an hour.

    Args:
        prior_bills: So many finished runs that cost exactly time by price the prior is worth.

    Attributes:
        log_ratio_: Expected log(bill / (time by price)); 0 without finished runs.
        log_sd_: Its standard deviation from run to run; 0 without finished runs.
        bills_: Finished runs that it was fitted to.
    """

    def __init__(self, *, prior_bills: float = 4.0) -> None:
        self.prior_bills = prior_bills

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from the bills of finished runs that were not free; there may be none.

        Args:
            X: `run_s`, seconds that they ran, and `usd_per_h`, the price agreed to, vectors (n,).
            y: What they cost, US dollars.

        Raises:
            ValueError: Columns or values are wrong.
        """
        columns = number_columns(X, required=("run_s", "usd_per_h"))
        run_s, usd_per_h = columns["run_s"], columns["usd_per_h"]
        if run_s.ndim != 1:
            raise ValueError("column 'run_s' must be a vector of seconds to fit a cost")
        positive(run_s, "run_s")
        positive(usd_per_h, "usd_per_h")
        cost_usd = targets(y, len(run_s), unit="US dollars", fewest=0)
        ratio = np.log(cost_usd / (run_s / 3600 * usd_per_h))
        ratio = np.clip(ratio, -_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)
        worth = self.prior_bills + len(ratio)
        self.bills_ = len(ratio)
        self.log_ratio_ = float(ratio.sum() / worth) if len(ratio) else 0.0
        squares = float(np.sum((ratio - self.log_ratio_) ** 2))
        self.log_sd_ = sqrt((squares + self.prior_bills * self.log_ratio_**2) / max(worth, 1e-9))
        self.n_features_in_ = 2
        return self

    def predict(self, X: Any) -> Array:
        """Median cost, US dollars, shape (n,)."""
        result: Array = self.predict_distribution(X)[:, I50]
        return result

    def predict_distribution(self, X: Any) -> Array:
        """Quantiles of the cost, US dollars, shape (n, len(LEVELS)).

        Args:
            X: `run_s`, seconds that are paid for: a vector (n,), or quantiles (n, len(LEVELS));
                `usd_per_h`, the price now, (n,); `p50_24h_usd_per_h` and `p90_24h_usd_per_h`, its
                median and 90 % quantile over the last day, not-a-number or absent where the price
                does not move.

        Raises:
            ValueError: Columns or values are wrong.
        """
        self._check_fitted()
        unmoved = {"p50_24h_usd_per_h": np.nan, "p90_24h_usd_per_h": np.nan}
        columns = number_columns(X, required=("run_s", "usd_per_h"), defaults=unmoved)
        run_s, usd_per_h = _quantiles(columns["run_s"]), columns["usd_per_h"]
        not_negative(usd_per_h, "usd_per_h")
        sigma = price_sigma(columns["p50_24h_usd_per_h"], columns["p90_24h_usd_per_h"])
        sigma = np.hypot(sigma, self.log_sd_)
        cost: Array = run_s * (usd_per_h / 3600 * np.exp(self.log_ratio_))[:, None]
        moving = (sigma > 0) & (usd_per_h > 0) & (run_s[:, 0] > 0)
        if moving.any():
            log_price = np.asarray(Z) * sigma[moving][:, None]
            cost[moving] = np.exp(add_independent(np.log(cost[moving]), log_price))
        return ordered(cost)


def price_sigma(p50_24h: Array, p90_24h: Array) -> Array:
    """Spread of a log-normal price from its median and 90 % quantile; 0 where one is NaN."""
    known = (p50_24h > 0) & (p90_24h > p50_24h)  # false for NaN
    ratio = np.divide(p90_24h, p50_24h, out=np.ones_like(p50_24h), where=known)
    result: Array = np.log(ratio) / _Z90
    return result


def _quantiles(run_s: Array) -> Array:
    not_negative(run_s, "run_s")
    if run_s.ndim == 2 and np.any(np.diff(run_s, axis=1) < 0):
        raise ValueError("column 'run_s' must hold quantiles that do not fall along a row")
    return np.repeat(run_s[:, None], len(LEVELS), axis=1) if run_s.ndim == 1 else run_s
