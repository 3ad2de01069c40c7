"""A run's log: what the job printed, and what planner did, each from where the reader left off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from planner.core.events import Event
from planner.core.plan import Plan
from planner.core.redact import redact
from planner.core.units import format_bytes, format_duration, format_money
from planner.services.api import LogLine, LogPage
from planner.store.journal import JournalReader
from planner.store.layout import RunDir

_PAGE_BYTES = 256 * 1024
"""Most bytes of one file in one page; a reader that is behind asks again."""
_JOURNAL = "journal"


def log_page(run: RunDir, plan: Plan, cursor: Mapping[str, int] | None) -> LogPage:
    """New lines of all sources since `cursor`. Raises `StoreError`."""
    at = dict(cursor or {})
    lines: list[LogLine] = []
    for number in _attempts(run):
        folder = run.attempt(number)
        for rank in range(plan.option.resources.workers):
            for path in (folder.out(rank), folder.err(rank)):
                key = f"{number}/{path.name}"
                texts, at[key] = _new_lines(path, at.get(key, 0))
                lines += [LogLine(source="train", rank=rank, text=redact(t)) for t in texts]
    reader = JournalReader(run.journal, at.get(_JOURNAL, 0))
    for event in reader.read_new():
        text = event_text(event)
        if text is not None:
            lines.append(LogLine(source="planner", rank=None, text=redact(text), at=event.ts))
    at[_JOURNAL] = reader.offset
    return LogPage(lines=tuple(lines), cursor=at)


def _attempts(run: RunDir) -> list[int]:
    try:
        return sorted(int(p.name) for p in run.attempts.iterdir() if p.name.isdigit())
    except FileNotFoundError:
        return []


def _new_lines(path: Path, offset: int) -> tuple[list[str], int]:
    """Whole lines from a byte on, and the byte after them. A very long line is cut in pieces."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            chunk = file.read(_PAGE_BYTES)
    except OSError:
        return [], offset
    end = chunk.rfind(b"\n") + 1
    if end == 0 and len(chunk) == _PAGE_BYTES:
        end = len(chunk)
    text = chunk[:end].decode("utf-8", "replace")
    # Progress bars overwrite their line with carriage returns: only the last state is of interest.
    lines = text.rstrip("\n").split("\n") if end else []
    return [redact(line.rsplit("\r", 1)[-1]) for line in lines], offset + end


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
    spent, held = data.get("spent_microusd"), data.get("held_s")
    text = "everything released"
    if isinstance(held, int | float):
        text += f" after {format_duration(float(held))}"
    return text + (f", {format_money(spent / 1e6)} spent" if isinstance(spent, int) else "")


def _finished(data: Mapping[str, Any]) -> str:
    state = str(data.get("state", "ended")).replace("_", " ")
    reason = data.get("reason")
    return f"run {state}: {reason}" if reason else f"run {state}"


def _decision(data: Mapping[str, Any]) -> str:
    return f"decision: {data.get('action')} ({data.get('why')})"


_TEXTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "run.created": lambda d: f"run created: {d.get('option', '')}",
    "run.provisioning": lambda d: f"attempt {d.get('attempt')} starts",
    "run.started": lambda d: f"{d.get('workers')} workers started",
    "run.resumed": lambda d: f"goes on from step {d.get('step')}",
    "run.interrupted": lambda d: f"interrupted: {d.get('reason')}",
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
