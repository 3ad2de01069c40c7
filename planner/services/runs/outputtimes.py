"""When a job printed what: the sizes of its output files, noted with a time as they grow.

The files are written by the job alone and carry no time. The notes stand beside them, one JSON
object a line: `{"t": 1795243165.2, "worker-0.out": 4096}`.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from planner.store.files import json_line
from planner.store.layout import UnitDir

_DETAIL = 1e-4
"""Between two notes, as a part of the attempt's age: 9 s after a day, so that notes stay few."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def output_files(folder: UnitDir) -> Iterator[tuple[int, Path]]:
    """What the workers of a launch print to, each with its number. Raises `StoreError`."""
    for worker in folder.printing():
        yield worker, folder.out(worker)
        yield worker, folder.err(worker)


class OutputNotes:
    """Writes the notes of one launch.

    Args:
        folder: The launch's.
    """

    def __init__(self, folder: UnitDir) -> None:
        self._folder = folder
        self._sizes: dict[str, int] | None = None
        self._first: datetime | None = None
        self._due = _LONG_AGO

    def take(self, now: datetime, *, last: bool = False) -> None:
        """Note what has grown since the last note. The first call makes the file in any case.

        Args:
            now: When this is.
            last: Nothing grows after this: it is noted however soon after the note before.
        """
        self._first = self._first or now
        if now < self._due and not last:
            return
        before = self._sizes or {}
        grown: dict[str, int] = {}
        for _, path in output_files(self._folder):
            with suppress(FileNotFoundError):  # a worker that has not started yet
                size = path.stat().st_size
                if size > before.get(path.name, 0):
                    grown[path.name] = size
        if not grown and self._sizes is not None:
            return
        self._sizes = before | grown
        self._due = now + _DETAIL * (now - self._first)
        # A log without times can be borne; a disk that is full is told of elsewhere.
        with suppress(OSError), open(self._folder.output_times, "ab") as file:
            if grown:
                file.write(json_line({"t": now.timestamp(), **grown}))


class OutputTimes:
    """Reads the notes of one launch.

    Args:
        folder: The launch's.
        offset: Byte of the notes to start at, from `settled`.

    Attributes:
        known: Whether there are notes at all.
    """

    def __init__(self, folder: UnitDir, offset: int = 0) -> None:
        self._notes: list[tuple[int, dict[str, Any]]] = []
        self._offset = offset
        self._until: dict[str, tuple[list[int], list[datetime]]] = {}
        self.known = False
        with suppress(OSError), open(folder.output_times, "rb") as file:
            self.known = True
            file.seek(offset)
            for line in file:
                offset += len(line)
                self._add(line, offset)

    def _add(self, line: bytes, end: int) -> None:
        try:
            note = json.loads(line)
            at = datetime.fromtimestamp(note.pop("t"), UTC)
        except (ValueError, TypeError, KeyError, AttributeError):
            return  # half written, or damaged: the note after it covers its bytes
        self._notes.append((end, note))
        for name, size in note.items():
            sizes, times = self._until.setdefault(name, ([], []))
            sizes.append(size)
            times.append(at)

    def at(self, name: str, end: int) -> datetime | None:
        """When byte `end` of a file had been written; None when no note reaches so far."""
        sizes, times = self._until.get(name, ((), ()))
        index = bisect_left(sizes, end)
        return times[index] if index < len(times) else None

    def settled(self, read: Mapping[str, int]) -> int:
        """Byte of the notes up to which none is needed by a reader that has `read` so far."""
        settled = self._offset
        for end, note in self._notes:
            if any(size > read.get(name, 0) for name, size in note.items()):
                break
            settled = end
        return settled
