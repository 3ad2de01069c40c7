"""Runs as they are kept: lists, single views, references such as `@last`, and their history.

Journals are followed, not read again: the app asks once or twice a second. Runs that have ended
come from the index, which is made anew from the journals whenever it is missing or behind.
"""

from __future__ import annotations

import json
import os
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from planner.core.clock import Clock
from planner.core.distribution import Distribution
from planner.core.errors import NotFoundError, StoreError
from planner.core.plan import Plan
from planner.core.types import RunState
from planner.services.api import RunSummary, RunView
from planner.services.runs.runlock import supervisor_pid
from planner.services.runs.runview import run_summary, run_view
from planner.store.codec import datetime_text, from_json, to_json
from planner.store.files import load
from planner.store.index import IndexRow, RunIndex
from planner.store.journal import JournalReader
from planner.store.layout import RunDir, StateDir
from planner.store.record import RunRecord
from predictors.base import Bill

if TYPE_CHECKING:
    from planner.services.runs.unheard import Unheard

_BACK = re.compile(r"@-(\d+)")
_SHOWN = 5


@dataclass(slots=True)
class _Followed:
    """A run whose journal is being followed."""

    plan: Plan
    reader: JournalReader
    record: RunRecord = field(default_factory=RunRecord)
    unheard: Unheard | None = None

    def catch_up(self) -> RunRecord:
        for event in self.reader.read_new():
            self.record.apply(event)
        return self.record


class RunShelf:
    """All runs of a state directory, for readers. May be used from several threads."""

    def __init__(self, state: StateDir, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._index = RunIndex(state.index)
        self._followed: dict[str, _Followed] = {}
        self._lock = threading.RLock()

    def record(self, run_id: str) -> RunRecord:
        """The run's record as of now. Raises `NotFoundError`, `StoreError`."""
        with self._lock:
            return self._follow(run_id).catch_up()

    def plan(self, run_id: str) -> Plan:
        """What was agreed to at launch. Raises `NotFoundError`, `StoreError`."""
        with self._lock:
            return self._follow(run_id).plan

    def alive(self, run_id: str) -> bool:
        """Whether the run's supervisor lives."""
        return supervisor_pid(self._state.run(run_id)) is not None

    def view(self, run_id: str) -> RunView:
        """The run in full. Raises `NotFoundError`, `StoreError`."""
        with self._lock:
            followed = self._follow(run_id)
            record = followed.catch_up()
            alive = not record.ended and self.alive(run_id)
            record = self._as_it_is(followed, run_id, alive=alive)
            return run_view(followed.plan, record, self._clock.now(), supervisor_alive=alive)

    def summaries(self, limit: int | None = None) -> tuple[RunSummary, ...]:
        """All runs, newest first; those whose plan cannot be read are left out."""
        with self._lock:
            known = self._rows()
            found: list[RunSummary] = []
            fresh: list[IndexRow] = []
            run_ids = self._state.run_ids()
            for run_id in run_ids:
                summary = self._indexed(known.get(run_id))
                if summary is None:
                    summary, row = self._summarise(run_id)
                    fresh += [row] if row else []
                if summary is not None:
                    found.append(summary)
            self._keep(fresh, [run_id for run_id in known if run_id not in run_ids])
        found.sort(key=lambda s: (s.created_at, s.id), reverse=True)
        return tuple(found[:limit])

    # ---- references

    def resolve(self, reference: str) -> str:
        """The run id behind an id, a unique prefix of one, a name, `@last` or `@-2`.

        Raises:
            NotFoundError: No run, or more than one, goes by that.
        """
        if self._is_run(reference):
            return reference
        runs = self.summaries()
        if reference == "@last" or _BACK.fullmatch(reference):
            match = _BACK.fullmatch(reference)
            back = int(match.group(1)) if match else 1
            if not 1 <= back <= len(runs):
                raise NotFoundError(
                    f"there is no run {reference}: {len(runs)} runs are kept", hint="planner status"
                )
            return runs[back - 1].id
        named = [run.id for run in runs if run.name == reference]
        if named:
            return named[0]
        found = [run.id for run in runs if run.id.startswith((reference, f"r-{reference}"))]
        if reference and len(found) == 1:
            return found[0]
        raise self._unknown(reference, found or [run.id for run in runs], bool(found))

    def _is_run(self, reference: str) -> bool:
        try:
            return self._state.run(reference).journal.exists()
        except NotFoundError:
            return False

    def _unknown(self, reference: str, near: list[str], ambiguous: bool) -> NotFoundError:
        shown = ", ".join(near[:_SHOWN]) or "none"
        if ambiguous:
            return NotFoundError(f"{reference!r} could be any of {shown}", hint="write more of it")
        return NotFoundError(
            f"no run goes by {reference!r}", hint=f"kept runs: {shown}; see planner status"
        )

    # ---- following

    def _follow(self, run_id: str) -> _Followed:
        followed = self._followed.get(run_id)
        if followed is None:
            run = self._state.run(run_id)
            if not run.journal.exists():
                raise self._unknown(run_id, [], ambiguous=False)
            followed = _Followed(load(Plan, run.plan), JournalReader(run.journal))
            self._followed[run_id] = followed
        return followed

    def _as_it_is(self, followed: _Followed, run_id: str, *, alive: bool) -> RunRecord:
        """The record; of a run without supervisor with what its workers did unheard."""
        record = followed.record
        if alive or record.ended or record.attempt <= record.released_attempt:
            followed.unheard = None
            return record
        from planner.services.runs.unheard import Unheard

        if followed.unheard is None or followed.unheard.attempt != record.attempt:
            followed.unheard = Unheard(self._state.run(run_id), followed.plan, record.attempt)
        return followed.unheard.amended(record)

    def _summarise(self, run_id: str) -> tuple[RunSummary | None, IndexRow | None]:
        run = self._state.run(run_id)
        try:
            stamp = _stamp(run)
            followed = self._follow(run_id)
            record = followed.catch_up()
        except (StoreError, NotFoundError):
            # One damaged run must not hide all the others; asking for it by id says what is wrong.
            return None, None
        alive = not record.ended and self.alive(run_id)
        record = self._as_it_is(followed, run_id, alive=alive)
        summary = run_summary(followed.plan, record, self._clock.now(), supervisor_alive=alive)
        if not record.ended:
            return summary, None
        del self._followed[run_id]
        return summary, _row(summary, record, stamp)

    # ---- the index

    def _rows(self) -> dict[str, IndexRow]:
        try:
            return self._index.rows()
        except StoreError:
            return {}  # slower without, but nothing is lost

    def _keep(self, rows: list[IndexRow], gone: list[str]) -> None:
        if not rows and not gone:
            return
        try:
            self._index.put(*rows)
            self._index.forget(*gone)
        except StoreError:
            return  # a read-only or full disk: the journals are read again the next time

    def _indexed(self, row: IndexRow | None) -> RunSummary | None:
        """The summary in a row, when the journal has not changed since."""
        if row is None or row.run_id in self._followed:
            return None
        try:
            if _stamp(self._state.run(row.run_id)) != (row.journal_bytes, row.journal_mtime_ns):
                return None
            return from_json(RunSummary, json.loads(row.summary))
        except (StoreError, ValueError):
            return None


def _stamp(run: RunDir) -> tuple[int, int]:
    try:
        found = os.stat(run.journal)
    except OSError as error:
        raise StoreError(f"cannot read {run.journal}: {error.strerror}") from error
    return found.st_size, found.st_mtime_ns


def _row(summary: RunSummary, record: RunRecord, stamp: tuple[int, int]) -> IndexRow:
    return IndexRow(
        run_id=summary.id,
        name=summary.name,
        state=summary.state.value,
        created_at=datetime_text(summary.created_at),
        spent_microusd=record.spent_microusd,
        journal_bytes=stamp[0],
        journal_mtime_ns=stamp[1],
        summary=json.dumps(to_json(summary)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRuns:
    """What finished runs teach, oldest first.

    Attributes:
        times: What was predicted for each, and the seconds that it really took.
        bills: What they cost, of those that cost anything.
    """

    times: tuple[tuple[Distribution, float], ...] = ()
    bills: tuple[Bill, ...] = ()


def finished_runs(state_dir: Path) -> FinishedRuns:
    """What the runs teach that finished.

    Runs that were paused or interrupted count with the time they held or waited for resources.
    Those that were adjusted are left out: the prediction was about another run.
    """
    from planner.core.clock import SystemClock

    times: list[tuple[Distribution, float]] = []
    bills: list[Bill] = []
    for run in reversed(RunShelf(StateDir(state_dir), SystemClock()).summaries()):
        if run.state is not RunState.DONE or run.total_s is None or run.adjusted:
            continue
        times.append((run.predicted_total_s, run.total_s))
        if run.held_s > 0 and run.agreed_usd_per_h > 0 and run.spent_usd > 0:
            bills.append(
                Bill(run_s=run.held_s, usd_per_h=run.agreed_usd_per_h, cost_usd=run.spent_usd)
            )
    return FinishedRuns(times=tuple(times), bills=tuple(bills))
