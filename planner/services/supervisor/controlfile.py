"""The control file: what planner says to the workers (docs/training-script.md, "Control")."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.core.errors import StoreError
from planner.store.files import read_json, write_atomic


class ControlFile:
    """Writes one run's control file; its number grows over all attempts."""

    def __init__(self, path: Path, checkpoint_interval_s: float) -> None:
        self._path = path
        self._interval_s = checkpoint_interval_s
        self._stop = False
        self._adjust: dict[str, Any] | None = None
        self._seq, self._checkpoints = self._read()

    def _read(self) -> tuple[int, int]:
        """Last number and count of checkpoints; a file that is missing or damaged starts anew."""
        try:
            data = read_json(self._path)
            return int(data["seq"]), int(data["checkpoint"])
        except (StoreError, KeyError, TypeError, ValueError):
            return 0, 0

    def start(self, checkpoint_interval_s: float) -> None:
        """For a new attempt: nothing is asked for. Raises `StoreError`."""
        self._stop = False
        self._adjust = None
        self._interval_s = checkpoint_interval_s
        self._write()

    def ask_checkpoint(self) -> None:
        """Ask for one checkpoint at the next step boundary. Raises `StoreError`."""
        self._checkpoints += 1
        self._write()

    def ask_stop(self) -> None:
        """Ask all workers to checkpoint and leave. Raises `StoreError`."""
        self._stop = True
        self._write()

    def set_interval(self, checkpoint_interval_s: float) -> None:
        """The wanted time between checkpoints from now on. Raises `StoreError`."""
        self._interval_s = checkpoint_interval_s
        self._write()

    def want(self, adjust: Mapping[str, Any] | None) -> None:
        """What is wanted of the job, all of it; None when that is nothing more than what is.

        Raises:
            StoreError: It cannot be written.
        """
        self._adjust = None if adjust is None else dict(adjust)
        self._write()

    def _write(self) -> None:
        self._seq += 1
        content: dict[str, Any] = {
            "seq": self._seq,
            "checkpoint": self._checkpoints,
            "stop": self._stop,
            "checkpoint_interval_s": self._interval_s,
        }
        if self._adjust is not None:
            content["adjust"] = self._adjust
        write_atomic(self._path, json.dumps(content))
