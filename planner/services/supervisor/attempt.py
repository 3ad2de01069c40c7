"""One attempt of a run: its launch, what its workers say, and its release."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from planner.core.errors import CleanupError, RunnerError, StoreError
from planner.core.plan import Plan
from planner.core.types import JobSpec, PriceQuote
from planner.services import failure
from planner.services.jobenv import render_argv, worker_env
from planner.services.runs.outputtimes import OutputNotes, output_files
from planner.services.runs.pricepin import check_price, place_of, quote
from planner.services.supervisor.book import LoopSettings, RunBook
from planner.services.supervisor.controlfile import ControlFile
from planner.store.files import NdjsonTail, save
from planner.store.layout import AttemptDir, RunDir, make_folder
from runners.base import Handle, LaunchSpec, Runner, Status, WorkerState

Stage = Callable[[Path], None]
"""Puts the SDK into a folder; see `runners.staging.stage_sdk`."""
EXIT_AGAIN = 75
"""Exit code of a worker that checkpointed on request and wants to run again."""
_RELEASE_TRIES = 3


def checkpoint_dir(job: JobSpec, run: RunDir) -> Path:
    """Where the run's checkpoints are: the job's own template, or the run's folder."""
    if job.checkpoint_dir is None:
        return run.checkpoints
    return Path(job.workdir) / job.checkpoint_dir.replace("{run_id}", run.run_id)


@dataclass(slots=True)
class Attempt:
    """Workers that were launched, and the files they write."""

    folder: AttemptDir
    handle: Handle
    workers: int
    launched_at: datetime
    launched_s: float = 0.0
    _tails: list[NdjsonTail] = field(init=False)
    _notes: OutputNotes = field(init=False)

    def __post_init__(self) -> None:
        self._tails = [NdjsonTail(self.folder.events(rank)) for rank in range(self.workers)]
        self._notes = OutputNotes(self.folder, self.workers)

    def events(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """What the workers said since the last call, by rank. Raises `StoreError`."""
        for rank, tail in enumerate(self._tails):
            for event in tail.read_new():
                yield rank, event

    @property
    def garbage(self) -> int:
        """Lines of the event files that were no events."""
        return sum(tail.skipped for tail in self._tails)

    def output_bytes(self) -> int:
        """Size of everything the workers have printed: grows while they live."""
        paths = [path for _, path in output_files(self.folder, self.workers)]
        return sum(path.stat().st_size for path in paths if path.exists())

    def note_output(self, now: datetime, *, last: bool = False) -> None:
        """Write down how much the workers have printed by now; `last` after they have left."""
        self._notes.take(now, last=last)

    def explain(self, status: Status, first: Sequence[int]) -> tuple[str, tuple[str, ...]]:
        """Why it failed in one line, and the last lines that the worker to blame printed.

        Args:
            status: How the workers ended.
            first: Ranks of those that failed before any other.
        """
        errors = [failure.tail(self.folder.err(rank)) for rank in range(self.workers)]
        codes = {w.rank: w.exit_code for w in status.workers}
        # A worker that a signal ended says nothing; those that lost it say so at length.
        signalled = [rank for rank in first if (codes.get(rank) or 0) < 0]
        if len(first) == 1 or len(signalled) == 1:
            rank = (signalled or first)[0]
        else:
            rank = failure.guilty_rank(status, errors)
        code = codes.get(rank)
        text = f"worker {rank} {failure.describe_exit(code)}"
        line = failure.last_error_line(errors[rank])
        if code == -9 and line is None:
            line = "killed from outside, perhaps for want of memory"
        shown = errors[rank] or failure.tail(self.folder.out(rank))
        return (f"{text}: {line}" if line else text), failure.log_lines(shown)


class Launcher:
    """Starts the attempts of one run."""

    def __init__(
        self,
        book: RunBook,
        runner: Runner,
        control: ControlFile,
        settings: LoopSettings,
        stage: Stage,
    ) -> None:
        self._book = book
        self._runner = runner
        self._control = control
        self._settings = settings
        self._stage = stage
        self._place = place_of(book.plan.job, book.plan.option.resources)

    def price(self) -> PriceQuote:
        """The price now, not above what was agreed to.

        Raises:
            PriceMovedError: It is dearer.
        """
        plan = self._book.plan
        try:
            price = quote(self._runner, self._place, plan.option.resources)
        except RunnerError:
            # Whether it can be had at all is the launch's to say; the agreed price holds.
            return plan.option.price
        check_price(plan.option, price, plan.max_usd_per_h)
        return price

    def launch(self, number: int, price: PriceQuote, tail_s: float) -> Attempt:
        """Start attempt `number`; its handle is on the disk before anything else happens.

        Args:
            number: From 1.
            price: What is paid from now on.
            tail_s: How long an epoch's evaluation may take, which is heard out at a stop.

        Raises:
            RunnerError: Nothing was started.
            UsageError: The command or the environment cannot be made.
            StoreError: The attempt's folder cannot be written.
        """
        book, clock = self._book, self._book.clock
        spec = self._spec(number, tail_s)
        self._control.start()
        self._stage(Path(spec.stage_dir))
        launched_at, launched_s = clock.now(), clock.monotonic_s()
        book.meter.hold(price.usd_per_h, launched_s)
        try:
            handle = self._runner.launch(spec)
        except BaseException:
            book.meter.release(clock.monotonic_s())
            raise
        folder = book.run.attempt(number)
        try:
            save(folder.handle, handle)
        except StoreError:
            release(book, self._runner, handle)
            book.meter.release(clock.monotonic_s())
            raise
        acquired: dict[str, Any] = {"attempt": number, "runner": handle.runner, "key": handle.key}
        acquired |= {"usd_per_h": price.usd_per_h, "source": price.source}
        # As of when it was held, since that is from when it costs.
        book.emit("resource.acquired", acquired, at=launched_at)
        workers = spec.resources.workers
        return Attempt(folder, handle, workers, launched_at, launched_s)

    def _spec(self, number: int, tail_s: float) -> LaunchSpec:
        run, plan = self._book.run, self._book.plan
        checkpoints = make_folder(checkpoint_dir(plan.job, run))
        folder = make_folder(run.attempt(number).path)
        return LaunchSpec(
            run_id=run.run_id,
            attempt=number,
            idempotency_key=f"{run.run_id}/{number}",
            argv=_argv(plan, run, checkpoints),
            workdir=plan.job.workdir,
            env=_env(plan, run, checkpoints, number),
            resources=plan.option.resources,
            place=self._place,
            attempt_dir=str(folder),
            stage_dir=str(make_folder(run.stage)),
            stop_grace_s=self._settings.stop_grace_s + 2 * tail_s,
        )


def _argv(plan: Plan, run: RunDir, checkpoints: Path) -> tuple[str, ...]:
    return render_argv(
        plan.job,
        resources=plan.option.resources,
        knobs=plan.option.knobs,
        run_id=run.run_id,
        data=plan.job.data,
        checkpoint_dir=str(checkpoints),
        output_dir=str(run.output),
    )


def _env(plan: Plan, run: RunDir, checkpoints: Path, number: int) -> Mapping[str, str]:
    return worker_env(
        plan.job,
        resources=plan.option.resources,
        knobs=plan.option.knobs,
        run_id=run.run_id,
        attempt=number,
        control=str(run.control),
        checkpoint_dir=str(checkpoints),
        output_dir=str(run.output),
    )


def release(book: RunBook, runner: Runner, handle: Handle) -> None:
    """Release, verify, and say so when something is left. Never raises for that.

    What is left is journaled as `resource.leaked` with how to remove it.
    """
    problem: CleanupError | RunnerError = CleanupError("workers still run after their release")
    for _ in range(_RELEASE_TRIES):
        try:
            runner.release(handle)
            if not runner.poll(handle).running:
                return
        except (CleanupError, RunnerError) as error:
            problem = error
        book.clock.sleep(1.0)
    hint = problem.hint or "see planner clean"
    book.emit("resource.leaked", {"text": f"{problem.text} ({hint})", "key": handle.key})


def left_to_run_again(status: Status) -> bool:
    """Whether a worker left with exit code 75."""
    return any(code == EXIT_AGAIN for code in status.exit_codes)


def failed_workers(status: Status) -> list[int]:
    """Ranks of workers that ended otherwise than by finishing or on request."""
    return [
        w.rank
        for w in status.workers
        if w.state is WorkerState.LOST
        or (w.state is WorkerState.EXITED and w.exit_code not in (0, EXIT_AGAIN))
    ]
