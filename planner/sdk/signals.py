"""SIGTERM and SIGUSR1 as flags: what they ask for happens at the next step boundary."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from planner.sdk.errors import EXIT_STOPPED, tell


class StopFlag:
    """Raised by a signal, read at step boundaries."""

    def __init__(self) -> None:
        self.raised = False
        self._complete = False
        self._before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            tell("attach() was not called in the main thread: signals will end the job at once")
            return
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._handle)

    def training_is_over(self, *, saved: bool) -> None:
        """No boundary follows: from now on a signal ends the script, with 75 if all is saved."""
        if saved:
            self._complete = True
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.raised = True
        if self._complete:
            raise SystemExit(EXIT_STOPPED)
