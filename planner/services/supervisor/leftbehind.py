"""What a supervisor that is gone left behind: attempts, their units and workers, and strays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from planner.core.errors import CleanupError, PlannerError, RunnerError, StoreError
from planner.services.supervisor.attempt import Attempt
from planner.services.supervisor.book import RunBook
from planner.services.supervisor.heard import Said
from planner.services.supervisor.launcher import RunnerOf
from planner.services.supervisor.units import Unit
from planner.store.files import load
from planner.store.layout import AttemptDir
from runners.base import Handle, Leftover, Runner, Status, WorkerStatus


def unreleased(book: RunBook, runner_of: RunnerOf) -> list[Attempt]:
    """Attempts that were started and whose release is not in the journal, oldest first."""
    found = []
    record = book.record
    for number in range(record.released_attempt + 1, record.attempt + 1):
        folder = book.run.attempt(number)
        if folder.handle.exists():
            launched_at = record.acquired_at or book.clock.now()
            units = _units(book, folder, runner_of, launched_at)
            if units:
                found.append(attempt_of(folder, units, launched_at))
    return found


def attempt_of(folder: AttemptDir, units: list[Unit], launched_at: datetime) -> Attempt:
    """An attempt as its folder tells it: who joined is known once its events were heard."""
    later = {worker for unit in units for worker in unit.workers if unit.first_worker}
    return Attempt(folder, units, launched_at, joining=later)


def all_said(attempt: Attempt) -> Iterator[Said]:
    """Everything its workers ever said; who belongs to the attempt is known afterwards."""
    reader = attempt_of(attempt.folder, attempt.units, attempt.launched_at)
    while batch := reader.said():
        for said in batch:
            attempt.hear(said)
            yield said


def _units(
    book: RunBook, folder: AttemptDir, runner_of: RunnerOf, launched_at: datetime
) -> list[Unit]:
    """The units of an attempt by their handles; what they cost is known of the whole only."""
    found: list[Unit] = []
    for first, unit in folder.units().items():
        if not unit.handle.exists():
            continue  # its processes are found by their mark
        try:
            handle = load(Handle, unit.handle)
        except StoreError as error:
            book.warn("handle.damaged", error.text)
            continue
        runner = runner_of(handle.runner)
        size = max(len(_polled(runner, handle)), 1)
        found.append(Unit(unit, handle, runner, first, size, 0.0, launched_at))
    return found


def workers_of(attempt: Attempt) -> tuple[WorkerStatus, ...]:
    """How the workers that the attempt consists of stand, as far as the runners tell."""
    try:
        polled = [
            replace(worker, rank=unit.first_worker + worker.rank)
            for unit in attempt.units
            for worker in unit.runner.poll(unit.handle).workers
        ]
    except (RunnerError, CleanupError):
        return ()
    return attempt.own(Status(workers=tuple(polled))).workers


def _polled(runner: Runner, handle: Handle) -> tuple[WorkerStatus, ...]:
    try:
        return runner.poll(handle).workers
    except (RunnerError, CleanupError):
        return ()


def remove_strays(book: RunBook, runner_of: RunnerOf) -> bool:
    """End whatever of this run still exists without a handle, a launch that was cut short.

    Whether there was anything.
    """
    found = False
    for name in _runners(book):
        try:
            runner = runner_of(name)
            for stray in runner.leftovers():
                if _is_ours(stray, book):
                    found = True
                    runner.remove(stray)
        except PlannerError as error:
            if isinstance(error, StoreError):
                raise
            text = f"{error.text} ({error.hint or 'planner clean'})"
            book.emit("resource.leaked", {"text": text})
    return found


def _runners(book: RunBook) -> list[str]:
    """Where something of this run may be: where it is, and where it was to move to."""
    wishes = [change.wish for change in book.record.adjust.changes if change.wish]
    moves = [wish.move.runner for wish in wishes if wish.move]
    named = (book.plan.option.resources.runner, book.in_force.resources.runner, *moves)
    return list(dict.fromkeys(named))


def _is_ours(stray: Leftover, book: RunBook) -> bool:
    if stray.run_id != book.run.run_id:
        return False
    folder = stray.attempt_dir
    return folder is None or Path(folder).resolve().is_relative_to(book.run.path.resolve())
