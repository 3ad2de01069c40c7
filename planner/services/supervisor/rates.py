"""The rate that a change brought, measured for a while after it."""

from __future__ import annotations

from dataclasses import dataclass

from planner.services.supervisor.book import LoopSettings, RunBook
from planner.services.supervisor.progress import Progress
from planner.services.supervisor.wishes import Wishes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rating:
    """A change that was made and whose new rate is being measured."""

    id: str
    text: str
    before: float | None
    from_s: float


class Rates:
    """Writes down what came of each change once its rate is known. One at a time."""

    def __init__(
        self, book: RunBook, progress: Progress, settings: LoopSettings, wishes: Wishes
    ) -> None:
        self._clock = book.clock
        self._progress = progress
        self._settings = settings
        self._wishes = wishes
        self._rating: _Rating | None = None

    def begin(self, decision_id: str | None, text: str, before: float | None) -> None:
        """A change was made: measure from now on. `text` says what it took."""
        self.close(None)
        if decision_id is not None:
            now_s = self._clock.monotonic_s()
            self._rating = _Rating(id=decision_id, text=text, before=before, from_s=now_s)

    def look(self, now_s: float) -> None:
        """Write down the new rate once it was measured for long enough."""
        rating, rate = self._rating, self._progress.samples_per_s
        if rating is not None and rate and now_s - rating.from_s >= self._settings.rate_s:
            self.close(rate)

    def close(self, rate: float | None) -> None:
        """Write down what is known; `rate` is None where it was not measured."""
        rating, self._rating = self._rating, None
        if rating is None:
            return
        text = rating.text
        if rate is not None:
            before = "" if rating.before is None else f"{rating.before:.0f} -> "
            text += f"; {before}{rate:.0f} samples/s"
        rates = {"samples_per_s_before": rating.before, "samples_per_s": rate}
        self._wishes.measured(rating.id, text, rates)
