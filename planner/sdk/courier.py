"""The one thread that touches planner's files, so that a slow or full disk never stops training.

It writes the events, reads the control file and samples memory, a few times a second. The training
loop only appends to a bounded queue and reads plain attributes.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from planner.sdk.errors import tell
from planner.sdk.memory import device_bytes, tree_rss_bytes

_PERIOD_S = 0.25
_MEMORY_PERIOD_S = 2.0
_KEPT_EVENTS = 10_000
_LAST_WORDS_S = 3.0


class Control:
    """What the control file said last. A file that is half there changes nothing."""

    def __init__(self, path: Path | None, interval_s: float) -> None:
        self.seq = 0
        self.stop = False
        self.checkpoint = 0
        self.interval_s = interval_s
        self.adjust: Mapping[str, Any] | None = None
        self._path = path
        self._read_before = False
        self._stamp: tuple[int, int] | None = None

    def read(self) -> int | None:
        """Read the file; its `seq` when that grew, else None."""
        if self._path is None:
            return None
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self._stamp:
                return None
            said = json.loads(self._path.read_text(encoding="utf-8"))
            seq = int(said.get("seq", 0))
            stop = bool(said.get("stop", False))
            checkpoint = int(said.get("checkpoint", 0))
            interval_s = float(said.get("checkpoint_interval_s") or self.interval_s)
            adjust = said.get("adjust")
        except (OSError, ValueError, TypeError, AttributeError):
            return None  # not there yet, or caught in mid-write: the next look will tell
        self._stamp = stamp
        if self._read_before and seq <= self.seq:
            return None
        self._read_before = True
        self.seq, self.stop, self.checkpoint = seq, stop, checkpoint
        self.adjust = adjust if isinstance(adjust, dict) else None
        if interval_s > 0:
            self.interval_s = interval_s
        return seq


class Courier:
    """Carries events out and orders in. Made once per worker process."""

    def __init__(
        self, path: Path, *, control: Control | None = None, device: Any = None, speaks: bool = True
    ) -> None:
        self.control = control
        self._path = path
        self._device = device
        self.speaks = speaks
        self._queue: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVENTS)
        self._unwritten = b""
        self._file: int | None = None
        self._complained: set[str] = set()
        self._peak_rss_bytes = 0
        self._next_memory_s = 0.0
        self._busy = threading.Lock()
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="planner-courier", daemon=True)
        if control is not None:
            control.read()  # what stood there before this process is no new request
        self._thread.start()
        atexit.register(self.close)

    def say(self, kind: str, *, at_once: bool = False, **data: Any) -> None:
        """Queue one event. The oldest are dropped when the disk takes none for long."""
        self._queue.append({"t": round(time.time(), 3), "type": kind, **data})
        if at_once:
            self._wake.set()

    def flush(self) -> None:
        """Wait until everything said is written, but no longer than a few seconds."""
        deadline_s = time.monotonic() + _LAST_WORDS_S
        while (self._queue or self._unwritten) and self._thread.is_alive():
            self._idle.clear()
            self._wake.set()
            if not self._idle.wait(deadline_s - time.monotonic()):
                return
            if self._unwritten:
                return  # the disk takes no more: said already, once

    def say_memory(self) -> None:
        """Queue a `memory` event with what is used now."""
        rss_bytes, own_peak_bytes = tree_rss_bytes()
        self._peak_rss_bytes = max(self._peak_rss_bytes, own_peak_bytes or 0, rss_bytes or 0)
        allocated, reserved = device_bytes(self._device)
        self.say(
            "memory",
            peak_device_bytes=allocated,
            reserved_device_bytes=reserved,
            rss_bytes=rss_bytes,
            peak_rss_bytes=self._peak_rss_bytes or None,
        )

    def close(self) -> None:
        """Write what is left, waiting a few seconds at the most."""
        if self._closing:
            return
        self._closing = True
        self._wake.set()
        self._thread.join(_LAST_WORDS_S)

    def _work(self) -> None:
        closing = False
        while not closing:
            self._wake.wait(_PERIOD_S)
            self._wake.clear()
            closing = self._closing
            for part in (self._look, self._measure, self._write):
                self._guarded(part)
            self._idle.set()

    def _guarded(self, part: Callable[[], None]) -> None:
        """Run one duty; a failure is told once and never reaches the training loop."""
        try:
            part()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if text not in self._complained:
                self._complained.add(text)
                tell(f"cannot report to {self._path} ({text}); training goes on")

    def _look(self) -> None:
        if self.control is None:
            return
        seq = self.control.read()
        if seq is not None and self.speaks:
            self.say("control", seq=seq)

    def _measure(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_memory_s:
            self._next_memory_s = now_s + _MEMORY_PERIOD_S
            self.say_memory()

    def _write(self) -> None:
        while self._unwritten or self._queue:
            if not self._unwritten:
                event = self._queue.popleft()
                self._unwritten = (_line(event) + "\n").encode()
            if self._file is None:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._file = os.open(self._path, flags, 0o644)
            # What a full disk took of a line is not written again: the rest follows later.
            written = os.write(self._file, self._unwritten)
            self._unwritten = self._unwritten[written:]


def _line(event: dict[str, Any]) -> str:
    """`event` as JSON; most hold plain numbers only, and need no look at each of them."""
    try:
        return json.dumps(event, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(plain(event))


def plain(value: Any) -> Any:
    """`value` as JSON holds it: tensors read out here, what is not finite as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if not isinstance(value, float):  # most are numbers already, and a failed look-up is slow
        with contextlib.suppress(AttributeError):
            value = value.item()
    if isinstance(value, (bool, int, str)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
