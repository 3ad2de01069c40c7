"""How wide a run's interval must be, from the runs that were finished.

Until there are `ENOUGH` finished runs, machine drift (the same run on the same machine takes longer
on another day) has a prior, updated by what those runs showed. From then on the interval is split
conformal (Vovk et al. 2005; Lei et al. 2018, doi:10.1080/01621459.2017.1307116) on the absolute log
ratio of real to predicted median: with n exchangeable runs the real time lies inside with
probability at least 90 %, whatever is wrong with the model. The score uses the median alone, so
that intervals which were shown, themselves calibrated, do not feed back. A machine that was
unsteady or crowded while it was probed widens either kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, log, sqrt
from typing import TYPE_CHECKING, Literal

import numpy as np

from planner.core.distribution import I50, Distribution, Z

if TYPE_CHECKING:
    from planner.core.distribution import Array

ENOUGH = 10
"""Finished runs from which intervals are conformal."""
LEVEL = 0.9
PRIOR_DRIFT_SIGMA = 0.08
"""Prior standard deviation of log(time of a run / the same run at the probes' speed)."""
_UNSTEADY_SHARE, _MOST_UNSTEADY = 0.6, 0.25
"""A machine whose steps differ from one to the next, or that others use as well, also differs from
one minute to the next: so much of the one is taken for the other, up to a limit. Both are guesses,
also once runs finished: those may have had the machine for themselves."""
_PRIOR_RUNS = 6.0
_LARGEST_SCORE = 0.5
_PRIOR_UNITS = 2.0
_Z95 = 1.6448536269514722


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What finished runs say about intervals.

    Attributes:
        drift_sigma: Standard deviation of log(time of a run / as predicted), apart from what the
            model knows to be unsure of. Finished runs cannot tell these apart: all of their error
            counts for drift, so that intervals are rather too wide than too narrow.
        radius: Conformal half-width on the log scale at 90 %; None until there are `ENOUGH` runs.
        n: Finished runs that count.
        coverage: Share of them inside the 90 % interval they were given; None without any.
    """

    drift_sigma: float = PRIOR_DRIFT_SIGMA
    radius: float | None = None
    n: int = 0
    coverage: float | None = None

    @property
    def method(self) -> Literal["split", "analytic"]:
        """Name of the interval's method, as it is shown."""
        return "analytic" if self.radius is None else "split"

    def widen(self, quantiles: Array, *, unsteadiness: float = 0.0, crowding: float = 0.0) -> Array:
        """Add drift to quantiles of a time that hold model uncertainty only.

        Args:
            quantiles: s, shape (n, len(LEVELS)), positive.
            unsteadiness: Of the steps while the machine was probed: `features.unsteadiness`.
            crowding: Of the machine then: `features.crowding`. The larger of the two counts.
        """
        middle = np.maximum(quantiles[:, I50 : I50 + 1], 1e-9)
        known = np.abs(np.log(np.maximum(quantiles, 1e-9) / middle))
        z = np.asarray(Z)
        if self.radius is None:
            spread = np.hypot(known, self.drift_sigma * np.abs(z))
        else:
            # Conformal width is that of a typical run; an unsure prediction keeps its own.
            spread = np.maximum(known, self.radius / _Z95 * np.abs(z))
        unsteady = _UNSTEADY_SHARE * min(max(unsteadiness, crowding), _MOST_UNSTEADY)
        spread = np.hypot(spread, unsteady * np.abs(z))
        result: Array = middle * np.exp(np.sign(z) * spread)
        return np.maximum.accumulate(result, axis=1)


def width_factor(scores: Sequence[Array], units: int) -> float:
    """Factor on standard deviations of step times that makes their 90 % intervals hold.

    The factor that would have covered 90 % of the held-out rows, jobs counting the same (the rows
    of one job are far from exchangeable), moved towards 1 as if `_PRIOR_UNITS` more jobs or
    clusters had said so.

    Args:
        scores: Of each held-out job: |log(measured / median)| in standard deviations, (rows,).
        units: How many jobs, or clusters where whole ones were held out, this rests on.
    """
    useful = [score for score in scores if len(score)]
    if not useful:
        return 1.0
    score = np.concatenate(useful)
    weight = np.concatenate([np.full(len(s), 1 / len(s)) for s in useful])
    order = np.argsort(score)
    share = np.cumsum(weight[order]) / weight.sum()
    needed = score[order][min(int(np.searchsorted(share, LEVEL)), len(score) - 1)] / _Z95
    return float(np.clip(needed, 0.3, 3.0) ** (units / (units + _PRIOR_UNITS)))


def calibrate(finished: Sequence[tuple[Distribution, float]]) -> Calibration:
    """Learn from finished runs.

    Args:
        finished: Predicted whole-run time (s) and the real one (s) of each.
    """
    useful = [(d, real) for d, real in finished if d.p50 > 0 and 0 < real < inf]
    n = len(useful)
    if n == 0:
        return Calibration()
    scores = sorted(abs(log(real / d.p50)) for d, real in useful)
    inside = sum(d.p05 <= real <= d.p95 for d, real in useful)
    squares = sum(min(s, _LARGEST_SCORE) ** 2 for s in scores)
    sigma = sqrt((_PRIOR_RUNS * PRIOR_DRIFT_SIGMA**2 + squares) / (_PRIOR_RUNS + n))
    radius = scores[min(ceil((n + 1) * LEVEL), n) - 1] if n >= ENOUGH else None
    return Calibration(drift_sigma=sigma, radius=radius, n=n, coverage=inside / n)
