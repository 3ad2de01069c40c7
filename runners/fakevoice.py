"""What a simulated job says: its events and its output, through the files of the contract."""

from __future__ import annotations

import json
import os
from typing import Any


class Voice:
    """Gathers what all workers say and writes it down at once.

    Args:
        folder: The attempt folder.
        workers: How many there are; rank 0 speaks, the others when `everyone` does.
    """

    def __init__(self, folder: str, workers: int) -> None:
        self._folder = folder
        self._lines: list[list[str]] = [[] for _ in range(workers)]

    def say(self, t: float, kind: str, *, everyone: bool = False, **data: Any) -> None:
        """One event at Unix time `t`."""
        event = {"t": round(t, 6), "type": kind, **data}
        for rank, lines in enumerate(self._lines if everyone else self._lines[:1]):
            if kind == "attached":
                event["rank"] = rank
            lines.append(json.dumps(event))

    def write(self) -> None:
        """Append what was said since the last time."""
        for rank, lines in enumerate(self._lines):
            if lines:
                self._append(f"events-{rank}.ndjson", "\n".join(lines))
                lines.clear()

    def print(self, text: str) -> None:
        """A line of rank 0's standard output."""
        self._append("worker-0.out", text)

    def complain(self, text: str) -> None:
        """A line of every worker's standard errors."""
        for rank in range(len(self._lines)):
            self._append(f"worker-{rank}.err", text)

    def _append(self, name: str, text: str) -> None:
        fd = os.open(f"{self._folder}/{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(fd, text.encode() + b"\n")
        finally:
            os.close(fd)
