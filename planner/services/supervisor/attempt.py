"""One attempt of a run: its units, what their workers say, and how they ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from planner.services import failure
from planner.services.runs.outputtimes import output_files
from planner.services.supervisor.heard import Heard, Said
from planner.services.supervisor.units import Unit
from planner.store.layout import AttemptDir, UnitDir
from runners.base import Measurement, Signal, Status, WorkerState, WorkerStatus

EXIT_AGAIN = 75
"""Exit code of a worker that checkpointed on request and wants to run again."""


@dataclass(slots=True)
class Attempt:
    """Workers that were launched, and the files they write.

    Attributes:
        units: The first launch, then those that joined.
        joining: Numbers of workers that were started to join and do not train yet.
        parted: Numbers of workers that are no part of it any more: they left, were lost and the
            others went on, or were withdrawn. How they end says nothing about the attempt.
    """

    folder: AttemptDir
    units: list[Unit]
    launched_at: datetime
    launched_s: float = 0.0
    joining: set[int] = field(default_factory=set)
    parted: set[int] = field(default_factory=set)
    _heard: Heard = field(init=False)

    def __post_init__(self) -> None:
        self._heard = Heard(self.folder)

    @property
    def workers(self) -> tuple[int, ...]:
        """Numbers of the workers that train, or did until the attempt ended."""
        return tuple(
            worker
            for unit in self.units
            for worker in unit.workers
            if worker not in self.parted and worker not in self.joining
        )

    @property
    def next_worker(self) -> int:
        """A number that no worker of this attempt has had."""
        return max((unit.workers.stop for unit in self.units), default=0)

    @property
    def beside(self) -> Unit:
        """A unit that others can join: one that has not been let go."""
        return next((unit for unit in self.units if unit.held), self.units[0])

    @property
    def usd_per_h(self) -> float:
        """The price of everything that is held."""
        return sum(unit.usd_per_h_now for unit in self.units)

    def said(self) -> list[Said]:
        """What the workers said since the last call. Raises `StoreError`."""
        return self._heard.new()

    @property
    def garbage(self) -> int:
        """Lines of the event files that were no events."""
        return self._heard.garbage

    def poll(self) -> Status:
        """Where all workers stand, by number. Raises `RunnerError`."""
        found = [worker for unit in self.units for worker in unit.poll()]
        return Status(workers=tuple(sorted(found, key=lambda worker: worker.rank)))

    def own(self, status: Status) -> Status:
        """Of a status, the workers that the attempt consists of.

        Where all of those have left, it is those that take over from them.
        """
        mine = set(self.workers) or self.joining
        return Status(workers=tuple(w for w in status.workers if w.rank in mine))

    def measure(self) -> list[Measurement]:
        """What the workers that train use now. Raises `RunnerError`."""
        mine = set(self.workers)
        return [m for unit in self.units for m in unit.measure() if m.rank in mine]

    def signal(self, signal: Signal) -> None:
        """Tell every worker that still runs. Raises `RunnerError`."""
        for unit in self.units:
            unit.signal(signal)

    def hear(self, said: Said) -> None:
        """Take in what an event says about who belongs to the attempt."""
        worker, event, _ = said
        if event.get("type") == "left":
            self.part([worker])
        elif event.get("type") == "adjusted":
            crew = set(_workers(event.get("crew")))
            if crew:
                self.joining -= crew
                self.part(set(self.workers) - crew)
            self.part(_workers(event.get("lost")))

    def part(self, workers: Iterable[int]) -> None:
        """These are no part of the attempt any more."""
        self.parted.update(workers)
        self.joining.difference_update(self.parted)

    def output_bytes(self) -> int:
        """Size of everything the workers have printed: grows while they live."""
        paths = [path for unit in self.units for _, path in output_files(unit.folder)]
        return sum(path.stat().st_size for path in paths if path.exists())

    def note_output(self, now: datetime, *, last: bool = False) -> None:
        """Write down how much the workers have printed by now; `last` after they have left."""
        for unit in self.units:
            unit.note_output(now, last=last)

    def folder_of(self, worker: int) -> UnitDir:
        """Where a worker's files are."""
        for unit in self.units:
            if worker in unit.workers:
                return unit.folder
        return self.folder

    def explain(self, status: Status, first: Sequence[int]) -> tuple[str, tuple[str, ...]]:
        """Why it failed in one line, and the last lines that the worker to blame printed.

        Args:
            status: How the workers ended.
            first: Numbers of those that failed before any other.
        """
        numbers = [worker.rank for worker in status.workers] or [0]
        errors = {n: failure.tail(self.folder_of(n).err(n)) for n in numbers}
        codes = {w.rank: w.exit_code for w in status.workers}
        # A worker that a signal ended says nothing; those that lost it say so at length.
        signalled = [worker for worker in first if (codes.get(worker) or 0) < 0]
        if len(first) == 1 or len(signalled) == 1:
            blamed = (signalled or first)[0]
        else:
            blamed = failure.guilty_rank(status, errors)
        code = codes.get(blamed)
        text = f"worker {blamed} {failure.describe_exit(code)}"
        line = failure.last_error_line(errors.get(blamed, ""))
        if code == -9 and line is None:
            line = "killed from outside, perhaps for want of memory"
        shown = errors.get(blamed) or failure.tail(self.folder_of(blamed).out(blamed))
        return (f"{text}: {line}" if line else text), failure.log_lines(shown)


def _workers(value: object) -> list[int]:
    return [v for v in value if isinstance(v, int)] if isinstance(value, list) else []


def left_to_run_again(status: Status) -> bool:
    """Whether a worker left with exit code 75."""
    return any(code == EXIT_AGAIN for code in status.exit_codes)


def failed_workers(status: Status) -> list[int]:
    """Numbers of workers that ended otherwise than by finishing or on request."""
    return [worker.rank for worker in status.workers if has_failed(worker)]


def has_failed(worker: WorkerStatus) -> bool:
    """Whether a worker ended otherwise than by finishing or on request."""
    if worker.state is WorkerState.LOST:
        return True
    return worker.state is WorkerState.EXITED and worker.exit_code not in (0, EXIT_AGAIN)
