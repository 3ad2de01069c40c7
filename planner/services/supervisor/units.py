"""Units: the launches of a runner that make up an attempt, and their workers by number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from planner.core.errors import CleanupError, RunnerError
from planner.services.runs.outputtimes import OutputNotes
from planner.services.supervisor.book import RunBook
from planner.store.layout import UnitDir
from runners.base import Handle, Measurement, Runner, Signal, WorkerStatus

_RELEASE_TRIES = 3


@dataclass(slots=True)
class Unit:
    """One launch. Worker numbers are those of the attempt: the first one's, and on from there.

    Attributes:
        usd_per_h: Price of the whole unit as it was launched.
        gone: Workers of it that hold nothing any more.
    """

    folder: UnitDir
    handle: Handle
    runner: Runner
    first_worker: int
    size: int
    usd_per_h: float
    launched_at: datetime
    launched_s: float = 0.0
    gone: set[int] = field(default_factory=set)
    _notes: OutputNotes = field(init=False)

    def __post_init__(self) -> None:
        self._notes = OutputNotes(self.folder)

    @property
    def workers(self) -> range:
        """Numbers of its workers."""
        return range(self.first_worker, self.first_worker + self.size)

    @property
    def held(self) -> tuple[int, ...]:
        """Numbers of the workers that still hold something."""
        return tuple(worker for worker in self.workers if worker not in self.gone)

    @property
    def usd_per_h_now(self) -> float:
        """The price of what it still holds."""
        return self.usd_per_h * len(self.held) / self.size

    def poll(self) -> list[WorkerStatus]:
        """Where its workers stand, by number. Raises `RunnerError`."""
        if not self.held:
            return []
        return [replace(w, rank=self.first_worker + w.rank) for w in self._polled()]

    def _polled(self) -> Sequence[WorkerStatus]:
        return self.runner.poll(self.handle).workers

    def measure(self) -> list[Measurement]:
        """What its running workers use, by number. Raises `RunnerError`."""
        if not self.held:
            return []
        found = self.runner.measure(self.handle)
        return [replace(m, rank=self.first_worker + m.rank) for m in found]

    def signal(self, signal: Signal) -> None:
        """Tell its workers. Raises `RunnerError`."""
        if self.held:
            self.runner.signal(self.handle, signal)

    def note_output(self, now: datetime, *, last: bool = False) -> None:
        """Write down how much its workers have printed by now."""
        self._notes.take(now, last=last)

    def shrink(self, workers: Iterable[int]) -> None:
        """End some of its workers and free what they held; the whole unit when they are all.

        Raises:
            RunnerError: The runner does not shrink.
            CleanupError: They could not be ended.
        """
        ending = [worker for worker in workers if worker in self.held]
        if not ending:
            return
        if len(ending) == len(self.held):
            self.runner.signal(self.handle, Signal.KILL)  # nobody waits for their checkpoint
            self.runner.release(self.handle)
        else:
            self.runner.shrink(self.handle, [worker - self.first_worker for worker in ending])
        self.gone.update(ending)


def release(book: RunBook, unit: Unit) -> None:
    """Release a unit, verify, and say so when something is left. Never raises for that.

    What is left is journaled as `resource.leaked` with how to remove it.
    """
    problem: CleanupError | RunnerError = CleanupError("workers still run after their release")
    for _ in range(_RELEASE_TRIES):
        try:
            unit.runner.release(unit.handle)
            if not unit.runner.poll(unit.handle).running:
                unit.gone.update(unit.workers)
                return
        except (CleanupError, RunnerError) as error:
            problem = error
        book.clock.sleep(1.0)
    hint = problem.hint or "see planner clean"
    text = f"{problem.text} ({hint})"
    book.emit("resource.leaked", {"text": text, "key": unit.handle.key})
