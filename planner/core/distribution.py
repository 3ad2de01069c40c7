"""Predictive distributions as quantiles at fixed levels.

Every predicted quantity (time, cost, memory, wait) is a `Distribution`: its quantiles at `LEVELS`.
Tables of options hold many of them at once as an array of shape (n, len(LEVELS)); the functions
below work on such arrays, so that thousands of options are scored without a Python loop.

Sums need an assumption about dependence. Quantities that share their cause (an epoch's time, and
the next epoch's) are comonotone: quantiles add. Independent ones (queue wait and run time) add
their deviations from the median in quadrature, level by level, which is exact for normal
distributions and mild on skewed ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isnan
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

LEVELS: tuple[float, ...] = (0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99)
"""Probability levels of the quantiles: 0.01, 0.05, 0.10, ..., 0.95, 0.99."""

I05, I50, I95 = LEVELS.index(0.05), LEVELS.index(0.5), LEVELS.index(0.95)
Z: tuple[float, ...] = tuple(NormalDist().inv_cdf(level) for level in LEVELS)
"""Standard normal quantiles at `LEVELS`."""

Evidence = Literal["probe", "history", "transfer", "prior"]
"""Where a number comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """A predictive distribution, in the unit that the owning name carries.

    Attributes:
        quantiles: Values at `LEVELS`, non-decreasing.
        evidence: Where the knowledge comes from.
    """

    quantiles: tuple[float, ...]
    evidence: Evidence = "prior"

    def __post_init__(self) -> None:
        if len(self.quantiles) != len(LEVELS):
            raise ValueError(f"need {len(LEVELS)} quantiles, got {len(self.quantiles)}")
        # Sorting lets not-a-number pass. Both are faster than looking at each pair.
        if isnan(sum(self.quantiles)) or sorted(self.quantiles) != list(self.quantiles):
            raise ValueError(f"quantiles must not decrease: {self.quantiles}")

    @classmethod
    def exactly(cls, value: float, evidence: Evidence = "probe") -> Distribution:
        """A value that is known, as a distribution without width."""
        return cls(quantiles=(float(value),) * len(LEVELS), evidence=evidence)

    @classmethod
    def lognormal(cls, median: float, sigma: float, evidence: Evidence = "prior") -> Distribution:
        """Log-normal with the given median and standard deviation of the logarithm."""
        from math import exp

        return cls(quantiles=tuple(median * exp(sigma * z) for z in Z), evidence=evidence)

    @classmethod
    def from_samples(cls, samples: Sequence[float], evidence: Evidence = "probe") -> Distribution:
        """Empirical quantiles of a sample of at least one value."""
        import numpy as np

        values = np.quantile(np.asarray(samples, dtype=float), LEVELS)
        return cls(quantiles=tuple(float(v) for v in values), evidence=evidence)

    @property
    def p05(self) -> float:
        """The 5 % quantile."""
        return self.quantiles[I05]

    @property
    def p50(self) -> float:
        """The median."""
        return self.quantiles[I50]

    @property
    def p95(self) -> float:
        """The 95 % quantile."""
        return self.quantiles[I95]

    @property
    def mean(self) -> float:
        """Mean of the piecewise-linear quantile function, its ends held constant."""
        edges = [0.0] + [(a + b) / 2 for a, b in pairwise(LEVELS)] + [1.0]
        weights = [b - a for a, b in pairwise(edges)]
        return sum(w * q for w, q in zip(weights, self.quantiles, strict=True))

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """The central interval that holds with probability `level` (0.9 gives p05 to p95)."""
        tail = (1 - level) / 2
        return self.quantile(tail), self.quantile(1 - tail)

    def quantile(self, level: float) -> float:
        """The quantile at any level, linear between `LEVELS` and held constant beyond them."""
        import numpy as np

        return float(np.interp(level, LEVELS, self.quantiles))

    def prob_below(self, limit: float) -> float:
        """Probability that the value is at most `limit`; see `prob_below` for arrays."""
        import numpy as np

        return float(prob_below(np.asarray([self.quantiles]), limit)[0])

    def scaled(self, factor: float) -> Distribution:
        """The distribution of `factor` (not negative) times the value."""
        if factor < 0:
            raise ValueError(f"factor must not be negative: {factor}")
        return Distribution(
            quantiles=tuple(factor * q for q in self.quantiles), evidence=self.evidence
        )

    def shifted(self, offset: float) -> Distribution:
        """The distribution of the value plus a constant."""
        return Distribution(
            quantiles=tuple(offset + q for q in self.quantiles), evidence=self.evidence
        )


def add_independent(a: Array, b: Array) -> Array:
    """Quantiles of a sum of independent quantities, row by row.

    Args:
        a: Quantiles, shape (n, len(LEVELS)) or (1, len(LEVELS)).
        b: The same for the other summand.
    """
    import numpy as np

    a_mid, b_mid = a[:, I50 : I50 + 1], b[:, I50 : I50 + 1]
    spread = np.hypot(a - a_mid, b - b_mid)
    side = np.sign(np.asarray(LEVELS) - 0.5)
    result: Array = a_mid + b_mid + side * spread
    return result


def mean(quantiles: Array) -> Array:
    """Means of distributions given as quantiles of shape (n, len(LEVELS)); shape (n,)."""
    import numpy as np

    levels = np.asarray(LEVELS)
    edges = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [1.0]])
    result: Array = quantiles @ np.diff(edges)
    return result


def prob_below(quantiles: Array, limit: float) -> Array:
    """Probability, row by row, that a value is at most `limit`.

    Linear between the quantiles. Beyond the outermost levels nothing is known but the level: the
    answer is then half of what lies outside, 0.005 or 0.995. A distribution without width gives
    exactly 0 or 1.

    Args:
        quantiles: Shape (n, len(LEVELS)).
        limit: In the unit of the quantiles.
    """
    import numpy as np

    levels = np.asarray(LEVELS)
    n = quantiles.shape[0]
    above = (quantiles <= limit).sum(axis=1)
    low = np.clip(above - 1, 0, len(LEVELS) - 2)
    rows = np.arange(n)
    q_low, q_high = quantiles[rows, low], quantiles[rows, low + 1]
    width = np.where(q_high > q_low, q_high - q_low, 1.0)
    part = np.clip((limit - q_low) / width, 0.0, 1.0)
    inside = levels[low] + part * (levels[low + 1] - levels[low])
    result = np.where(above == 0, levels[0] / 2, np.where(above == len(LEVELS), 0.0, inside))
    result = np.where(above == len(LEVELS), (1 + levels[-1]) / 2, result)
    certain = quantiles[:, 0] == quantiles[:, -1]
    return np.where(certain, (quantiles[:, 0] <= limit).astype(float), result)
