"""A run's log: what the job printed, and what planner did, each from where the reader left off."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from planner.core.events import Event
from planner.core.redact import redact
from planner.core.units import format_bytes, format_duration, format_money
from planner.services.api import LogLine, LogPage
from planner.services.runs.outputtimes import OutputTimes, output_files
from planner.store.journal import JournalReader
from planner.store.layout import RunDir, UnitDir

_PAGE_BYTES = 256 * 1024
"""Most bytes of one file in one page; a reader that is behind asks again."""
_JOURNAL, _SEQ = "journal", "journal seq"
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Said:
    """A line of a file: where it starts, and when it counts as said."""

    key: str
    start: int
    when: datetime
    line: LogLine


def log_page(run: RunDir, cursor: Mapping[str, int] | None) -> LogPage:
    """New lines of all sources since `cursor`, in the order in which they came.

    The time of what the job printed is when the supervisor saw it. Where a page cannot hold all of
    a file, the others wait for it.

    Raises:
        StoreError: The journal cannot be read.
    """
    at = dict(cursor or {})
    said: list[_Said] = []
    cut_at: list[datetime] = []
    notes: dict[str, OutputTimes] = {}
    for unit, folder in _units(run):
        notes[unit] = OutputTimes(folder, at.get(f"{unit}/times", 0))
        for worker, path in output_files(folder):
            key = f"{unit}/{path.name}"
            new, at[key], cut = _new_lines(path, key, at.get(key, 0), worker, notes[unit])
            said += new
            cut_at += [new[-1].when] if cut and new else []
    horizon = min(cut_at, default=None)
    lines = [*_up_to(horizon, said, at), *_journal_lines(run.journal, horizon, at)]
    for unit, times in notes.items():
        read = {name: at[f"{unit}/{name}"] for name in _names(at, unit)}
        at[f"{unit}/times"] = times.settled(read)
    lines.sort(key=lambda timed: timed[0])
    return LogPage(lines=tuple(line for _, line in lines), cursor=at, more=horizon is not None)


def _up_to(
    horizon: datetime | None, said: Sequence[_Said], at: dict[str, int]
) -> Iterator[tuple[datetime, LogLine]]:
    """What was said up to a time; the cursors of the rest are put back to it."""
    for one in said:
        if horizon is None or one.when <= horizon:
            yield one.when, one.line
        else:
            at[one.key] = min(at[one.key], one.start)


def _journal_lines(
    journal: Path, horizon: datetime | None, at: dict[str, int]
) -> Iterator[tuple[datetime, LogLine]]:
    """What planner did before a time. Events that wait are read again, and known by number."""
    reader = JournalReader(journal, at.get(_JOURNAL, 0))
    done = at.get(_SEQ, -1)
    waits = False
    for event in reader.read_new():
        waits = waits or (horizon is not None and event.ts >= horizon)
        if waits or event.seq <= done:
            continue
        at[_SEQ] = event.seq
        text = event_text(event)
        if text is not None:
            yield event.ts, LogLine(source="planner", rank=None, text=redact(text), at=event.ts)
    if not waits:
        at[_JOURNAL] = reader.offset


def _names(at: Mapping[str, int], unit: str) -> list[str]:
    """The output files of a launch that a cursor knows."""
    mine = [key.partition("/") for key in at if key.startswith(f"{unit}/worker-")]
    return [name for _, _, name in mine]


def _units(run: RunDir) -> Iterator[tuple[str, UnitDir]]:
    """The folders of all launches, in order, each with its name in a cursor."""
    try:
        numbers = sorted(int(p.name) for p in run.attempts.iterdir() if p.name.isdigit())
    except FileNotFoundError:
        return
    for number in numbers:
        for first, folder in run.attempt(number).units().items():
            yield (f"{number}.{first}" if first else str(number)), folder


def _new_lines(
    path: Path, key: str, offset: int, rank: int, times: OutputTimes
) -> tuple[list[_Said], int, bool]:
    """Whole lines from a byte on, the byte after them, and whether there is more to read."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            chunk = file.read(_PAGE_BYTES)
            written_at = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
    except OSError:
        return [], offset, False
    full = len(chunk) == _PAGE_BYTES
    end = chunk.rfind(b"\n") + 1
    if end == 0 and full:
        end = len(chunk)  # a very long line is cut in pieces
    lines: list[_Said] = []
    start, when = offset, _LONG_AGO
    for raw in BytesIO(chunk[:end]):
        # What no note reaches was written after the last one, and not after the file was. Where
        # nothing was noted, that orders the lines, but is no time to show.
        noted = times.at(path.name, start + len(raw)) or written_at
        when = max(when, noted)
        at = noted if times.known else None
        lines.append(_Said(key, start, when, _line(raw, rank, at)))
        start += len(raw)
    return lines, start, full


def _line(raw: bytes, rank: int, at: datetime | None) -> LogLine:
    # Progress bars overwrite their line with carriage returns: only the last state is of interest.
    text = raw.decode("utf-8", "replace").rstrip("\n").rsplit("\r", 1)[-1]
    return LogLine(source="train", rank=rank, text=redact(text), at=at)


def event_text(event: Event) -> str | None:
    """An event as a line for people; None for those that only carry numbers."""
    maker = _TEXTS.get(event.type)
    return maker(event.data) if maker else None


def _checkpoint(data: Mapping[str, Any]) -> str:
    size, took = data.get("bytes"), data.get("duration_s")
    text = f"checkpoint of step {data.get('step')} written"
    if isinstance(size, int):
        text += f", {format_bytes(size)}"
    if isinstance(took, int | float):
        text += f" in {took:.1f} s"
    return text


def _released(data: Mapping[str, Any]) -> str:
    if "unit" in data:
        return f"worker {_listed(data.get('workers'))} released"
    spent, held = data.get("spent_microusd"), data.get("held_s")
    text = "everything released"
    if isinstance(held, int | float):
        text += f" after {format_duration(float(held))}"
    return text + (f", {format_money(spent / 1e6)} spent" if isinstance(spent, int) else "")


def _finished(data: Mapping[str, Any]) -> str:
    state = str(data.get("state", "ended")).replace("_", " ")
    reason = data.get("reason")
    return f"run {state}: {reason}" if reason else f"run {state}"


def _adjusted(data: Mapping[str, Any]) -> str:
    workers, stall, down = data.get("workers"), data.get("stall_s"), data.get("downtime_s")
    text = f"changed at step {data.get('step')}: {workers} worker{'s' * (workers != 1)}"
    if data.get("micro_batch"):
        text += f", micro-batch up to {data.get('micro_batch')} x {data.get('accumulation')}"
    if isinstance(stall, int | float):
        text += f"; stall {stall:.2f} s"
    if isinstance(down, int | float):
        text += f"; {down:.1f} s from the request"
    return text


def _listed(value: object) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list) else "?"


def _decision(data: Mapping[str, Any]) -> str:
    return f"decision: {data.get('action')} ({data.get('why')})"


_TEXTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "run.created": lambda d: f"run created: {d.get('option', '')}",
    "run.provisioning": lambda d: f"attempt {d.get('attempt')} starts",
    "run.started": lambda d: f"{d.get('workers')} worker{'s' * (d.get('workers') != 1)} started",
    "run.resumed": lambda d: f"goes on from step {d.get('step')}",
    "run.interrupted": lambda d: f"interrupted: {d.get('reason')}",
    "run.adjusted": _adjusted,
    "run.worker_lost": lambda d: f"worker {d.get('worker')} was lost: {d.get('reason')}",
    "run.unattended": lambda d: (
        f"nobody looked after it for {format_duration(float(d.get('unattended_s') or 0.0))}"
    ),
    "run.stopping": lambda d: f"stopping ({d.get('reason')})",
    "run.paused": _finished,
    "run.finished": _finished,
    "run.checkpoint": _checkpoint,
    "resource.released": _released,
    "resource.leaked": lambda d: f"NOT RELEASED: {d.get('text')}",
    "guard.warning": lambda d: f"warning: {d.get('text')}",
    "guard.stop": lambda d: f"guard: {d.get('text')}",
    "decision.applied": _decision,
    "command.received": lambda d: f"asked to {d.get('action')}",
}
