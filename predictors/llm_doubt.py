"""Probes of a language model that do not belong, and how much wider intervals are for them.

The law foresees how probes of one model differ. One that is far from where the median of them has
it hardly counts; where half of them are, nobody can tell which ones are right. Noise only slows:
one that is too fast may be the only right one, and the interval reaches down to it. A single probe
has nothing beside it but the law, which is that of other people's scripts: it is believed, and the
interval reaches down to where the truth is if it was slowed (`predictors.wild`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, hypot, sqrt
from typing import TYPE_CHECKING

import numpy as np

from predictors import wild
from predictors.llm_belief import Belief
from predictors.llm_law import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.core.distribution import Array

    Mask = NDArray[np.bool_]

_ODD = 2.5
"""Standard deviations from the median of probes at which one hardly counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strays:
    """What is thought of n probes, of how log(s) misses what the law foresaw.

    Attributes:
        off: From the median of them; shape (n,).
        odd: Those that are too far from it.
        below: Standard deviation of log(s) below the median, if the only one, or all but one that
            is too fast, may be wild; else 0.
    """

    off: Array
    odd: Mask
    below: float = 0.0

    @property
    def torn(self) -> bool:
        """Whether as many of them are odd as are not, or one is too fast to have been slowed."""
        return self.halved or bool(np.any(self.odd & (self.off < 0)))

    @property
    def halved(self) -> bool:
        """Whether as many of them are odd as are not."""
        return bool(2 * np.sum(self.odd) >= len(self.off))

    @property
    def slowed(self) -> Mask:
        """Those that others have much faster."""
        result: Mask = self.odd & (self.off > 0) & (not self.torn)
        return result

    @property
    def sigma(self) -> float:
        """Standard deviation of log(s) that odd ones add to all."""
        if self.halved:
            return float(np.abs(self.off[self.odd]).max())
        return wild.SHAKEN * sqrt(float(self.odd.mean()))

    def draws(self, rng: np.random.Generator, *, size: int) -> Array:
        """Draws of what all log(s) are off by together for the odd ones, shape (size, 1)."""
        z = rng.standard_normal((size, 1))
        result: Array = z * np.where(z < 0, hypot(self.sigma, self.below), self.sigma)
        return result

    def noise(self, usual: Array) -> Array:
        """Standard deviation of each probe's log(s), from that of such probes; (n,)."""
        return np.where(self.odd, np.abs(self.off), usual)


def strays(belief: Belief, c: Table, log_s: Array, sigma: Array) -> Strays:
    """Look at n probes of a model before they are taken in.

    Args:
        belief: What is known before them, with their shapes.
        c: Their configurations.
        log_s: log(s) of them, shape (n,).
        sigma: Standard deviation of each measurement, shape (n,).
    """
    found, covariance = belief.foresee(c, np.ones(len(log_s)))
    usual = np.sqrt(np.diag(covariance) + sigma**2)
    missed = log_s - found
    off = missed - np.median(missed)
    odd = np.abs(off) > _ODD * usual
    seen = Strays(off=off, odd=odd)
    if len(off) == 1:
        return replace(seen, below=_below(float(missed[0]), float(usual[0])))
    if seen.torn and not seen.halved:
        return replace(seen, below=float(-off[odd].min()))
    return seen


def _below(missed: float, usual: float) -> float:
    """Root mean square distance to the truth if the only probe was slowed."""
    least = wild.CHANCE * wild.SIGMA**2
    if missed <= 0:
        return sqrt(least)
    odds = exp(wild.log_odds(np.asarray([missed]), usual, wild.FREEDOM))
    return sqrt(max(least, min(odds / (1 + odds), 0.5) * missed**2))
