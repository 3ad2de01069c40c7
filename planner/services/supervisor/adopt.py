"""Taking over a run from a supervisor that is gone: release first, then tell what was missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from planner.core.errors import CleanupError, RunnerError, StoreError
from planner.core.events import EventType
from planner.core.plan import Plan
from planner.core.types import RunState
from planner.services.supervisor.attempt import Attempt
from planner.services.supervisor.book import LoopSettings, RunBook
from planner.services.supervisor.controlfile import ControlFile
from planner.services.supervisor.launcher import RunnerOf
from planner.services.supervisor.leftbehind import (
    all_said,
    attempt_of,
    remove_strays,
    unreleased,
    workers_of,
)
from planner.services.supervisor.made import emit_made, made_of
from planner.services.supervisor.outcome import TARGETS
from planner.services.supervisor.progress import Progress
from planner.services.supervisor.sayings import checkpoint_data
from planner.services.supervisor.units import release
from planner.store.codec import datetime_text
from planner.store.layout import AttemptDir
from planner.store.record import RunRecord
from runners.base import Signal, WorkerStatus

_UNATTENDED = (RunState.PROVISIONING, RunState.RUNNING)
_SLOWEST_START_S = 30.0
"""A first supervisor that comes later than this was not started by the launch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How an old attempt ended: when, whether it was asked to, and with what exit codes."""

    at: datetime
    asked: bool
    exit_codes: tuple[int | None, ...]


def adopt(book: RunBook, runner_of: RunnerOf, control: ControlFile, settings: LoopSettings) -> None:
    """Bring a run that nobody watches to a state from which it can go on. Repeatable.

    Workers that still run are asked to checkpoint and leave, and get the time for it; whatever is
    left is ended. Only then is the run continued, so that no step is trained twice.

    Raises:
        StoreError: The journal cannot be written.
    """
    # Before anything is told: warnings would move it.
    heard_at = _released_at(book.record) or book.record.last_at
    if book.journal.torn_bytes:
        text = "the journal ended in half a line, which was put aside"
        book.warn("journal.repaired", text, bytes=book.journal.torn_bytes)
    finished = False
    ended_at: datetime | None = None
    for attempt in unreleased(book, runner_of):
        end = _settle(book, control, attempt, settings, heard_at=heard_at)
        progress = _catch_up(book, attempt)
        finished = _is_done(book.plan, progress, end)
        ended_at = end.at
    were_running = remove_strays(book, runner_of)
    unnamed = _unnamed(book)
    if unnamed is not None:
        ended_at = book.clock.now() if were_running else _last_sign(unnamed, book, heard_at)
        _bill(book, unnamed.number, ended_at)
    _resolve(book, finished=finished, ended_at=ended_at, since=ended_at or heard_at)


def _released_at(record: RunRecord) -> datetime | None:
    """When the attempt ended that a supervisor released before it died with nothing said of it."""
    released = record.released_attempt == record.attempt
    unsaid = record.state in (*_UNATTENDED, RunState.STOPPING)
    return record.released_at if released and unsaid else None


def _unnamed(book: RunBook) -> AttemptDir | None:
    """The folder of a launch that left traces but no handle that can be read."""
    record = book.record
    if record.released_attempt == record.attempt or book.state not in (
        *_UNATTENDED,
        RunState.STOPPING,
    ):
        return None
    folder = book.run.attempt(record.attempt)
    return folder if folder.path.is_dir() and any(folder.path.iterdir()) else None


def _settle(
    book: RunBook,
    control: ControlFile,
    attempt: Attempt,
    settings: LoopSettings,
    *,
    heard_at: datetime | None,
) -> _End:
    """End one old attempt in good order, and bill it until it was last alive."""
    asked = _leave_in_order(attempt, control, book, settings)
    times_s = _times_s(book, attempt)
    workers = workers_of(attempt)
    for unit in attempt.units:
        release(book, unit)
    workers = workers_of(attempt) or workers
    if asked:
        at = book.clock.now()
    else:
        at = _ended_at(workers, book) or _last_sign(attempt.folder, book, heard_at)
    _bill(book, attempt.folder.number, at, times_s)
    return _End(at=at, asked=asked, exit_codes=tuple(w.exit_code for w in workers))


def _times_s(book: RunBook, attempt: Attempt) -> dict[str, float]:
    """Where an attempt's time went, by name, as far as its workers told."""
    progress = Progress(book.plan)
    for _, event, leads in all_said(attempt):
        if leads:
            progress.take(event)
    return progress.times_s


def _bill(
    book: RunBook, number: int, ended_at: datetime, times_s: Mapping[str, float] | None = None
) -> None:
    """Count the money and the time of an attempt from where its supervisor stopped counting."""
    record = book.record
    unseen_s = (ended_at - (record.spent_at or ended_at)).total_seconds()
    held_s = (ended_at - (record.acquired_at or record.spent_at or ended_at)).total_seconds()
    told = dict(times_s or {})
    told["other"] = max(0.0, held_s - sum(told.values()))  # its start, too, which nobody timed
    book.meter.add(record.usd_per_h or book.plan.option.price.usd_per_h, unseen_s)
    book.emit(
        "resource.released",
        {
            "attempt": number,
            "held_s": round(max(0.0, held_s), 3),
            "spent_microusd": book.spent_microusd(),
            "times_s": {name: round(seconds, 3) for name, seconds in told.items()},
            "unattended": True,
            "ended_at": datetime_text(ended_at),
        },
    )


def _leave_in_order(
    attempt: Attempt, control: ControlFile, book: RunBook, settings: LoopSettings
) -> bool:
    """Ask workers that still run to checkpoint and leave; whether there were any.

    One that evaluates hears of it only afterwards, and gets the time for that.
    """
    clock, progress = book.clock, Progress(book.plan)
    reader = attempt_of(attempt.folder, attempt.units, attempt.launched_at)
    began_s = clock.monotonic_s()
    asked = False
    try:
        while attempt.poll().running:
            if not asked:
                asked = True
                _ask_stop(control, book)
                attempt.signal(Signal.STOP)
            for _, event, leads in reader.said():
                if leads:
                    progress.take(event)
            tail_s = max(2 * progress.expected_tail_s, book.plan.job.hang_timeout_s)
            grace_s = settings.stop_grace_s + 3 * progress.stop_s(0.0)
            if clock.monotonic_s() - began_s > grace_s + (tail_s if progress.in_tail else 0.0):
                break
            clock.sleep(min(0.1, settings.poll_s))
    except (RunnerError, CleanupError) as error:
        book.warn("adopt.unreachable", f"an old attempt could not be asked to leave: {error.text}")
    return asked


def _ask_stop(control: ControlFile, book: RunBook) -> None:
    try:
        control.ask_stop()
    except StoreError as error:
        book.warn("control.failed", f"the control file cannot be written: {error.text}")


def _ended_at(workers: Sequence[WorkerStatus], book: RunBook) -> datetime | None:
    """When the last worker ended, if that is known of each; never after now."""
    times = [w.ended_t for w in workers if w.ended_t is not None]
    if not times or len(times) < len(workers):
        return None
    return min(book.clock.now(), datetime.fromtimestamp(max(times), UTC))


def _last_sign(folder: AttemptDir, book: RunBook, heard_at: datetime | None) -> datetime:
    """When workers or their supervisor last wrote anything; never after now."""
    folders = [unit.path for unit in folder.units().values()]
    times = [p.stat().st_mtime for path in folders for p in path.iterdir() if p.is_file()]
    seen = datetime.fromtimestamp(max(times, default=0.0), UTC)
    return min(book.clock.now(), max(seen, heard_at or seen))


def _catch_up(book: RunBook, attempt: Attempt) -> Progress:
    """Journal what the workers said and nobody heard; how far they came."""
    record = book.record
    progress = Progress(book.plan)
    progress.expect(book.in_force)
    known = record.checkpoint.step if record.checkpoint else -1
    metrics: dict[tuple[str, ...], dict[str, object]] = {}
    said = list(all_said(attempt))
    # What was asked for at once may be done in several steps; after the last all of it is in force.
    last = {event.get("id"): event for _, event, _ in said if event.get("type") == "adjusted"}
    for _, event, leads in said:
        kind = event.get("type")
        if kind == "memory":
            progress.take_memory(event)
        if not leads:
            continue
        if kind == "adjusted" and event is last[event.get("id")]:
            _adjusted(book, attempt, event, progress)
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
    return progress


def _adjusted(
    book: RunBook, attempt: Attempt, event: Mapping[str, Any], progress: Progress
) -> None:
    """A change that was made and nobody heard of: it is in force all the same."""
    decision_id = event.get("id")
    change = book.record.adjust.find(decision_id) if isinstance(decision_id, str) else None
    if change is None or not change.pending:
        return
    target = book.record.adjust.targets.get(change.id or "", book.in_force)
    made = made_of(event, target, attempt, book, change)
    emit_made(book, change.id, made)
    progress.expect(made.in_force)


def _is_done(plan: Plan, progress: Progress, end: _End) -> bool:
    """Whether an attempt did all of its training.

    Exit codes of 0 alone do not say so: workers are told to leave when their supervisor dies, and
    some scripts then leave with 0.
    """
    if not end.exit_codes or any(code != 0 for code in end.exit_codes):
        return False
    return progress.complete or (plan.job.tier == 0 and not end.asked)


def _resolve(
    book: RunBook, *, finished: bool, ended_at: datetime | None, since: datetime | None
) -> None:
    """Leave the states that need a living supervisor.

    Args:
        book: The run's.
        finished: Whether the training is done.
        ended_at: When the workers ended, if there were any.
        since: Since when nobody worked on the run.
    """
    record, state, now = book.record, book.state, book.clock.now()
    unattended_s = max(0.0, (now - (since or now)).total_seconds())
    if finished and state in (RunState.RUNNING, RunState.STOPPING):
        _rest(book, RunState.DONE, None, ended_at or now, progress=1.0)
    elif state in _UNATTENDED:
        book.move(
            RunState.INTERRUPTED,
            "run.interrupted",
            attempt=record.attempt,
            reason="the supervisor was gone",
            cause="orphaned",
            unattended_s=round(unattended_s, 3),
        )
    elif state is RunState.INTERRUPTED or (
        state is RunState.PLANNED and unattended_s > _SLOWEST_START_S
    ):
        book.emit("run.unattended", {"unattended_s": round(unattended_s, 3)})
    elif state is RunState.STOPPING:
        target = TARGETS.get(record.stop_reason or "pause", RunState.PAUSED)
        reason = "the supervisor was gone while it stopped the run"
        _rest(book, target, reason, since or now, progress=record.progress)


def _rest(
    book: RunBook, target: RunState, reason: str | None, ended_at: datetime, *, progress: float
) -> None:
    """The end of a run as of when its workers really ended: what came after is nobody's time."""
    kind: EventType = "run.paused" if target is RunState.PAUSED else "run.finished"
    book.move(
        target,
        kind,
        reason=reason,
        spent_microusd=book.spent_microusd(),
        step=book.record.step,
        progress=progress,
        total_s=book.record.total_s(ended_at),
        ended_at=datetime_text(ended_at),
    )
