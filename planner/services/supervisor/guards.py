"""The guards of a run at work: they look at its books and progress, and write what they saw."""

from __future__ import annotations

from planner.services.supervisor.book import LoopSettings, RunBook
from planner.services.supervisor.progress import Progress
from planner.services.supervisor.rules import BudgetGuard, DeadlineGuard, Remaining, Warned

FORCE_S = 2.0
"""From SIGKILL until everything is released."""
_HEAR_S = 1.0
"""Between what a job does and its word of it, at most."""


class Guards:
    """Cap and deadline of one run.

    Attributes:
        p_deadline: Chance to be done in time, at the last look.
        p_budget: Chance to end under the cap, at the last look.
    """

    def __init__(self, book: RunBook, progress: Progress, settings: LoopSettings) -> None:
        confidence = book.plan.goal.confidence
        self._book = book
        self._progress = progress
        self._settings = settings
        self._budget = BudgetGuard(cap_microusd=book.record.budget_microusd, confidence=confidence)
        self._budget.remember(book.record.warnings)
        self._deadline = DeadlineGuard(deadline_at=book.record.deadline_at, confidence=confidence)
        self._tail_since_s: float | None = None
        self.p_deadline: float | None = None
        self.p_budget: float | None = None

    def extended(self) -> None:
        """The record's cap or deadline changed."""
        record = self._book.record
        if record.budget_microusd != self._budget.cap_microusd:
            self._budget.extend(record.budget_microusd)
        if record.deadline_at is not None and record.deadline_at != self._deadline.deadline_at:
            self._deadline.extend(record.deadline_at)
        self._judge(self._progress.remaining())

    def affords(self, usd_per_h: float) -> bool:
        """Whether an attempt at this price could be stopped cleanly before the cap."""
        return not self._budget.must_stop(self._book.spent_microusd(), usd_per_h, self._stop_s())

    def stop_now(self) -> bool:
        """Whether the rest of the cap is needed for a clean stop; writes that down."""
        if self.affords(self._book.meter.usd_per_h):
            return False
        self._book.decide(
            "stop at the cap",
            "the rest of the cap is needed for a clean stop",
            expected="checkpoint kept, everything released, cap not passed",
            observation={
                "cap_usd": (self._budget.cap_microusd or 0) / 1e6,
                "stop_s": self._stop_s(),
                "p_budget": self.p_budget,
            },
            alternatives=(("go on", None, "would pass the cap"),),
        )
        self._book.emit("guard.stop", {"code": "budget.stop", "text": "stopped by the cap"})
        return True

    def out_of_money(self) -> bool:
        """Whether not even one more look fits under the cap."""
        last_s = 2 * self._settings.poll_s + FORCE_S
        usd_per_h = self._book.meter.usd_per_h
        return self._budget.must_stop(self._book.spent_microusd(), usd_per_h, last_s)

    def look(self) -> None:
        """Work out the chances, and tell what is new."""
        remaining = self._progress.remaining()
        self._judge(remaining)
        told = self._deadline.warnings(self._book.clock.now(), self.p_deadline)
        told += self._budget.warnings(self._book.spent_microusd(), self.p_budget)
        for warned in told:
            self._tell(warned, remaining)

    def _judge(self, remaining: Remaining | None) -> None:
        """The chances as of now."""
        book = self._book
        self.p_deadline = self._deadline.p_deadline(book.clock.now(), remaining)
        self.p_budget = self._budget.p_budget(
            book.spent_microusd(), book.meter.usd_per_h, remaining
        )

    def _stop_s(self) -> float:
        """A high estimate of the time from noticing until everything is released."""
        settings = self._settings
        leave_s = self._progress.stop_s(settings.unknown_checkpoint_s) + settings.exit_s
        return leave_s + 2 * settings.poll_s + FORCE_S + self._tail_left_s()

    def _tail_left_s(self) -> float:
        """What a stop would have to wait for an epoch's evaluation, which nothing interrupts.

        Reserved as soon as a request to stop might come too late to keep it from beginning.
        """
        progress, now_s = self._progress, self._book.clock.monotonic_s()
        heard_s = 2 * self._settings.poll_s + _HEAR_S + 2 * progress.slowest_step_s
        if not progress.in_tail:
            self._tail_since_s = None
            return progress.expected_tail_s if progress.tail_within(heard_s) else 0.0
        if self._tail_since_s is None:
            self._tail_since_s = now_s
        return max(0.0, progress.expected_tail_s - (now_s - self._tail_since_s))

    def _tell(self, warned: Warned, remaining: Remaining | None) -> None:
        """A warning, and the decision to hold, with what it was based on."""
        book = self._book
        if warned.falling:
            book.warn(warned.code, warned.text)
        book.decide(
            "warn" if warned.falling else "hold",
            warned.text,
            observation={
                "p_deadline": self.p_deadline,
                "p_budget": self.p_budget,
                "samples_per_s": self._progress.samples_per_s,
                "planned_samples_per_s": book.plan.option.throughput_samples_per_s.p50,
                "loader_wait": self._progress.loader_wait,
                "remaining_p50_s": remaining.run_s.p50 if remaining else None,
                "remaining_p95_s": remaining.run_s.p95 if remaining else None,
            },
            alternatives=(("hold", None, "chosen"), ("stop", None, "only at the cap")),
        )
