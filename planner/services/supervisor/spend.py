"""Money as it is spent: the price in force, integrated over the time that resources are held."""

from __future__ import annotations

from planner.core.units import to_microusd

_HOUR_US = 3_600_000_000


class SpendMeter:
    """Adds up micro-dollars exactly: whole numbers all the way, nothing lost to rounding.

    Times are monotonic seconds of the caller's clock.

    Args:
        spent_microusd: Spent before, by earlier attempts.
    """

    def __init__(self, spent_microusd: int = 0) -> None:
        self._before = spent_microusd
        self._units = 0  # micro-dollars times microseconds of an hour
        self._price_microusd_per_h = 0
        self._since_s: float | None = None
        self._held_s = 0.0

    @property
    def usd_per_h(self) -> float:
        """The price in force; 0 while nothing is held."""
        return self._price_microusd_per_h / 1e6 if self._since_s is not None else 0.0

    @property
    def holding(self) -> bool:
        """Whether resources are held."""
        return self._since_s is not None

    def hold(self, usd_per_h: float, at_s: float) -> None:
        """From now on this price is in force: the start of holding, or a change of price."""
        self._settle(at_s)
        self._price_microusd_per_h = to_microusd(usd_per_h)
        self._since_s = at_s

    def release(self, at_s: float) -> float:
        """Nothing is held any more; seconds held since the last release."""
        self._settle(at_s)
        self._since_s = None
        held, self._held_s = self._held_s, 0.0
        return held

    def add(self, usd_per_h: float, duration_s: float) -> None:
        """Count time that nobody measured: resources held without a supervisor."""
        self._units += to_microusd(usd_per_h) * round(max(0.0, duration_s) * 1e6)

    def spent_microusd(self, at_s: float) -> int:
        """Spent in all, up to now."""
        self._settle(at_s)
        return self._before + self._units // _HOUR_US

    def _settle(self, at_s: float) -> None:
        if self._since_s is None:
            return
        elapsed_s = max(0.0, at_s - self._since_s)
        self._units += self._price_microusd_per_h * round(elapsed_s * 1e6)
        self._held_s += elapsed_s
        self._since_s = max(self._since_s, at_s)
