"""Taking over a run from a supervisor that is gone: release first, then tell what was missed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from planner.core.errors import CleanupError, PlannerError, RunnerError, StoreError
from planner.core.events import EventType
from planner.core.types import RunState
from planner.services.supervisor.attempt import Attempt, release
from planner.services.supervisor.book import LoopSettings, RunBook
from planner.services.supervisor.controlfile import ControlFile
from planner.services.supervisor.outcome import TARGETS
from planner.services.supervisor.progress import Progress
from planner.services.supervisor.watch import checkpoint_data
from planner.store.files import load
from planner.store.layout import AttemptDir
from runners.base import Handle, Leftover, Runner, Signal

_UNATTENDED = (RunState.PROVISIONING, RunState.RUNNING)


def adopt(book: RunBook, runner: Runner, control: ControlFile, settings: LoopSettings) -> None:
    """Bring a run that nobody watches to a state from which it can go on. Repeatable.

    Workers that still run are asked to checkpoint and leave, and get the time for it; whatever is
    left is ended. Only then is the run continued, so that no step is trained twice.

    Raises:
        StoreError: The journal cannot be written.
    """
    if book.journal.torn_bytes:
        text = "the journal ended in half a line, which was put aside"
        book.warn("journal.repaired", text, bytes=book.journal.torn_bytes)
    finished = False
    last_alive: datetime | None = None
    for attempt in _unreleased(book):
        last_alive = _settle(book, runner, control, attempt, settings)
        _catch_up(book, attempt)
        finished = _ended_well(runner, attempt)
    _remove_strays(book, runner)
    _resolve(book, finished=finished, last_alive=last_alive)


def _unreleased(book: RunBook) -> list[Attempt]:
    """Attempts that were started and whose release is not in the journal, oldest first."""
    found = []
    record = book.record
    for number in range(record.released_attempt + 1, record.attempt + 1):
        folder = book.run.attempt(number)
        if not folder.handle.exists():
            continue
        try:
            handle = load(Handle, folder.handle)
        except StoreError as error:
            book.warn("handle.damaged", error.text)  # its processes are found by their mark
            continue
        workers = book.plan.option.resources.workers
        found.append(Attempt(folder, handle, workers, record.acquired_at or book.clock.now()))
    return found


def _settle(
    book: RunBook, runner: Runner, control: ControlFile, attempt: Attempt, settings: LoopSettings
) -> datetime:
    """End one old attempt in good order; when it was last alive."""
    clock = book.clock
    was_running = _leave_in_order(runner, attempt.handle, control, book, settings)
    release(book, runner, attempt.handle)
    now = clock.now()
    last_alive = now if was_running else min(now, _last_sign(attempt.folder, book))
    since = book.record.last_at or last_alive
    unseen_s = max(0.0, (last_alive - since).total_seconds())
    held_s = max(0.0, (last_alive - (book.record.acquired_at or last_alive)).total_seconds())
    usd_per_h = book.record.usd_per_h or book.plan.option.price.usd_per_h
    book.meter.add(usd_per_h, unseen_s)
    book.emit(
        "resource.released",
        {
            "attempt": attempt.folder.number,
            "held_s": round(held_s, 3),
            "spent_microusd": book.spent_microusd(),
            "unattended": True,
        },
    )
    return last_alive


def _leave_in_order(
    runner: Runner, handle: Handle, control: ControlFile, book: RunBook, settings: LoopSettings
) -> bool:
    """Ask workers that still run to checkpoint and leave; whether there were any."""
    clock = book.clock
    until_s = clock.monotonic_s() + settings.stop_grace_s
    asked = False
    try:
        while runner.poll(handle).running and clock.monotonic_s() < until_s:
            if not asked:
                asked = True
                _ask_stop(control, book)
                runner.signal(handle, Signal.STOP)
            clock.sleep(min(0.1, settings.poll_s))
    except (RunnerError, CleanupError) as error:
        book.warn("adopt.unreachable", f"an old attempt could not be asked to leave: {error.text}")
    return asked


def _ask_stop(control: ControlFile, book: RunBook) -> None:
    try:
        control.ask_stop()
    except StoreError as error:
        book.warn("control.failed", f"the control file cannot be written: {error.text}")


def _last_sign(folder: AttemptDir, book: RunBook) -> datetime:
    """When the workers last wrote anything."""
    times = [path.stat().st_mtime for path in folder.path.iterdir() if path.is_file()]
    seen = datetime.fromtimestamp(max(times, default=0.0), UTC)
    return max(seen, book.record.last_at or seen)


def _catch_up(book: RunBook, attempt: Attempt) -> None:
    """Journal what the workers said and nobody heard."""
    record = book.record
    progress = Progress(book.plan)
    known = record.checkpoint.step if record.checkpoint else -1
    metrics: dict[tuple[str, ...], dict[str, object]] = {}
    for rank, event in attempt.events():
        kind = event.get("type")
        if kind == "memory":
            progress.take_memory(event)
        if rank != 0:
            continue
        progress.take(event)
        step = event.get("step")
        if kind == "checkpoint" and isinstance(step, int) and step > known:
            book.emit("run.checkpoint", checkpoint_data(event, attempt.folder.number))
        if kind == "metric" and isinstance(event.get("values"), dict):
            values = event["values"]
            metrics[tuple(sorted(values))] = {"step": step, "values": values}
    if progress.steps_seen or progress.finished:
        for line in metrics.values():
            book.emit("run.metric", line)
        book.emit(
            "run.progress",
            {
                "attempt": attempt.folder.number,
                "step": progress.step,
                "steps_total": progress.steps_total,
                "epoch": progress.epoch,
                "epochs": progress.epochs,
                "samples": progress.samples,
                "progress": round(progress.fraction, 5),
                "spent_microusd": book.spent_microusd(),
                "peak_memory_bytes": progress.peak_memory_bytes,
            },
        )


def _remove_strays(book: RunBook, runner: Runner) -> None:
    """End whatever of this run still exists without a handle: a launch that was cut short."""
    try:
        for stray in runner.leftovers():
            if _is_ours(stray, book):
                runner.remove(stray)
    except PlannerError as error:
        if isinstance(error, StoreError):
            raise
        book.emit("resource.leaked", {"text": f"{error.text} ({error.hint or 'planner clean'})"})


def _is_ours(stray: Leftover, book: RunBook) -> bool:
    if stray.run_id != book.run.run_id:
        return False
    folder = stray.attempt_dir
    return folder is None or Path(folder).resolve().is_relative_to(book.run.path.resolve())


def _resolve(book: RunBook, *, finished: bool, last_alive: datetime | None) -> None:
    """Leave the states that need a living supervisor."""
    record, state = book.record, book.state
    if finished and state in (RunState.RUNNING, RunState.STOPPING):
        spent = book.spent_microusd()
        book.move(
            RunState.DONE,
            "run.finished",
            reason=None,
            spent_microusd=spent,
            step=record.step,
            progress=1.0,
        )
    elif state in _UNATTENDED:
        since = last_alive or record.last_at or book.clock.now()
        unattended_s = max(0.0, (book.clock.now() - since).total_seconds())
        book.move(
            RunState.INTERRUPTED,
            "run.interrupted",
            attempt=record.attempt,
            reason="the supervisor was gone",
            cause="orphaned",
            unattended_s=round(unattended_s, 3),
        )
    elif state is RunState.STOPPING:
        target = TARGETS.get(record.stop_reason or "pause", RunState.PAUSED)
        kind: EventType = "run.paused" if target is RunState.PAUSED else "run.finished"
        book.move(
            target,
            kind,
            reason="the supervisor was gone while it stopped the run",
            spent_microusd=book.spent_microusd(),
        )


def _ended_well(runner: Runner, attempt: Attempt) -> bool:
    """Whether every worker is known to have finished."""
    try:
        codes = runner.poll(attempt.handle).exit_codes
    except (RunnerError, CleanupError):
        return False
    return bool(codes) and all(code == 0 for code in codes)
