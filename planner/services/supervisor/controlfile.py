"""The control file: what planner says to the workers (docs/training-script.md, "Control")."""

from __future__ import annotations

import json
from pathlib import Path

from planner.core.errors import StoreError
from planner.store.files import read_json, write_atomic


class ControlFile:
    """Writes one run's control file; its number grows over all attempts."""

    def __init__(self, path: Path, checkpoint_interval_s: float) -> None:
        self._path = path
        self._interval_s = checkpoint_interval_s
        self._stop = False
        self._seq, self._checkpoints = self._read()

    def _read(self) -> tuple[int, int]:
        """Last number and count of checkpoints; a file that is missing or damaged starts anew."""
        try:
            data = read_json(self._path)
            return int(data["seq"]), int(data["checkpoint"])
        except (StoreError, KeyError, TypeError, ValueError):
            return 0, 0

    def start(self) -> None:
        """For a new attempt: nothing is asked for. Raises `StoreError`."""
        self._stop = False
        self._write()

    def ask_checkpoint(self) -> None:
        """Ask for one checkpoint at the next step boundary. Raises `StoreError`."""
        self._checkpoints += 1
        self._write()

    def ask_stop(self) -> None:
        """Ask all workers to checkpoint and leave. Raises `StoreError`."""
        self._stop = True
        self._write()

    def _write(self) -> None:
        self._seq += 1
        content = {
            "seq": self._seq,
            "checkpoint": self._checkpoints,
            "stop": self._stop,
            "checkpoint_interval_s": self._interval_s,
        }
        write_atomic(self._path, json.dumps(content))
