"""What a simulated job says: its events and its output, through the files of the contract."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from runners.fakestate import Member


class Voice:
    """Gathers what workers say and writes it down at once."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def say(self, t: float, kind: str, speakers: Iterable[Member], **data: Any) -> None:
        """One event at Unix time `t`, said by each of these."""
        line = json.dumps({"t": round(t, 6), "type": kind, **data})
        for member in speakers:
            path = f"{member['folder']}/events-{member['number']}.ndjson"
            self._lines.setdefault(path, []).append(line)

    def write(self) -> None:
        """Append what was said since the last time."""
        for path, lines in self._lines.items():
            _append(path, "\n".join(lines))
        self._lines.clear()

    def print(self, speaker: Member, text: str) -> None:
        """A line of a worker's standard output."""
        _append(f"{speaker['folder']}/worker-{speaker['number']}.out", text)

    def complain(self, speakers: Iterable[Member], text: str) -> None:
        """A line of the standard errors of each of these."""
        for member in speakers:
            _append(f"{member['folder']}/worker-{member['number']}.err", text)


def _append(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, text.encode() + b"\n")
    finally:
        os.close(fd)
