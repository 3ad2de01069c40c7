"""The journal of a run: append-only NDJSON, one writer, the truth about the run.

Each line is one event in the envelope of `planner.event/1`. Numbers have no gaps. Whatever is a
decision, money or a change of state is on the disk before `append` returns; progress and metrics
only reach the operating system, which survives the death of this process but not of the machine.

A writer that died in the middle of a line leaves half of one. The next writer puts those bytes
aside in `journal.torn` and goes on after the last whole line.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from planner.core.clock import Clock
from planner.core.errors import StoreError
from planner.core.events import Event, EventType
from planner.store.codec import datetime_text, parse_datetime
from planner.store.files import NdjsonTail, json_line, store_error, sync_folder, write_all

SCHEMA = "planner.event/1"
UNSYNCED: frozenset[EventType] = frozenset({"run.progress", "run.metric", "log.line"})
"""Events that may be lost when the machine itself fails."""
_KNOWN: frozenset[str] = frozenset(get_args(EventType))
_MAX_WAITING = 10_000


def event_to_json(event: Event) -> dict[str, Any]:
    """An event in its envelope, as it stands in a journal and in `--ndjson` output."""
    return {
        "schema": SCHEMA,
        "seq": event.seq,
        "ts": datetime_text(event.ts),
        "run_id": event.run_id,
        "type": event.type,
        "data": dict(event.data),
    }


def event_from_json(line: Mapping[str, Any]) -> Event | None:
    """The event on a line, or None when it is not one or of a kind only a later version knows."""
    seq, kind, data = line.get("seq"), line.get("type"), line.get("data")
    if not isinstance(seq, int) or kind not in _KNOWN or not isinstance(data, dict):
        return None
    try:
        ts = parse_datetime(str(line.get("ts")))
    except ValueError:
        return None
    run_id = line.get("run_id")
    return Event(
        seq=seq, ts=ts, type=kind, data=data, run_id=run_id if isinstance(run_id, str) else None
    )


class JournalReader:
    """Follows a journal; each call gives the events gained since the last one."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._tail = NdjsonTail(path, offset)

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return self._tail.offset

    @property
    def skipped(self) -> int:
        """Damaged lines passed over so far."""
        return self._tail.skipped

    def read_new(self) -> list[Event]:
        """Events since the last call. Raises `StoreError`."""
        events: list[Event] = []
        while lines := self._tail.read_new():
            events += [event for line in lines if (event := event_from_json(line)) is not None]
        return events


class Journal:
    """The one writer. The caller holds the run's lock.

    A disk that is full does not stop a run: what cannot be written waits here in order, progress
    and metrics excepted, and is written once there is room.

    Args:
        path: The journal; made when missing.
        run_id: Stands in every event.
        clock: Time of the events.

    Raises:
        StoreError: It cannot be opened or repaired.

    Attributes:
        events: What the journal held when it was opened.
        torn_bytes: Length of the half-written line that was put aside.
        dropped: Progress and metric events given up because the disk refused them.
    """

    def __init__(self, path: Path, run_id: str, clock: Clock) -> None:
        self._path = path
        self._run_id = run_id
        self._clock = clock
        self._waiting: deque[Event] = deque()
        self.dropped = 0
        try:
            new = not path.exists()
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._handle = os.open(path, flags, 0o644)
            if new:
                sync_folder(path.parent)
            self.torn_bytes = self._repair()
        except OSError as error:
            raise store_error(error, "open the journal", path) from error
        self.events: tuple[Event, ...] = tuple(JournalReader(path).read_new())
        self._seq = max((event.seq for event in self.events), default=-1) + 1

    def _repair(self) -> int:
        """Put a half-written last line aside; its length in bytes."""
        size = os.fstat(self._handle).st_size
        torn = b""
        start = size
        while start > 0 and b"\n" not in torn:
            step = min(65536, start)
            start -= step
            torn = os.pread(self._handle, step, start) + torn
        torn = torn[torn.rfind(b"\n") + 1 :]
        if torn:
            with open(self._path.with_name("journal.torn"), "ab") as aside:
                aside.write(torn + b"\n")
                aside.flush()
                os.fsync(aside.fileno())
            os.ftruncate(self._handle, size - len(torn))
            os.fsync(self._handle)
        self._size = size - len(torn)
        return len(torn)

    @property
    def waiting(self) -> int:
        """Events that the disk has refused so far."""
        return len(self._waiting)

    def append(
        self, kind: EventType, data: Mapping[str, Any], *, at: datetime | None = None
    ) -> Event:
        """Write one event and return it; see the class for a disk that is full.

        Raises:
            StoreError: `data` has no JSON form, or the disk has refused far too much.
        """
        event = Event(
            seq=self._seq, ts=at or self._clock.now(), type=kind, data=data, run_id=self._run_id
        )
        json_line(event_to_json(event))
        if self._waiting and kind in UNSYNCED and not self._flush():
            self.dropped += 1
            return event
        self._seq += 1
        self._waiting.append(event)
        if not self._flush():
            self._give_up(event)
        return event

    def _give_up(self, event: Event) -> None:
        """Keep the event for later, or drop it when it is only progress."""
        if event.type in UNSYNCED:
            self._waiting.pop()
            self._seq -= 1
            self.dropped += 1
        elif len(self._waiting) > _MAX_WAITING:
            raise StoreError(f"{self._path} could not be written for too long", hint="free space")

    def require_written(self) -> None:
        """Raise `StoreError` when an event still waits for the disk."""
        if not self._flush():
            raise StoreError(
                f"cannot write the journal {self._path}: the disk refuses it",
                hint="free some space, then planner resume",
            )

    def _flush(self) -> bool:
        """Write what waits; whether all of it is written."""
        while self._waiting:
            event = self._waiting[0]
            line = json_line(event_to_json(event))
            try:
                write_all(self._handle, line)
                if event.type not in UNSYNCED:
                    os.fsync(self._handle)
            except OSError:
                # Part of the line may be there: a later line must not be glued to it.
                os.ftruncate(self._handle, self._size)
                return False
            self._size += len(line)
            self._waiting.popleft()
        return True

    def close(self) -> None:
        """Write what still waits, if the disk lets it, and close the file."""
        self._flush()
        os.close(self._handle)


def read_events(path: Path, since_seq: int = -1) -> tuple[Event, ...]:
    """The journal's events after a number. Raises `StoreError`."""
    return tuple(event for event in JournalReader(path).read_new() if event.seq > since_seq)
