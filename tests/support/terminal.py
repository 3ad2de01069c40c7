"""A pseudo-terminal with a process on it."""

from __future__ import annotations

import os
import pty
import select
import signal
import time
from pathlib import Path


class Terminal:
    """A process on a pseudo-terminal: type to it, read what it shows."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execve(command[0], command, environment)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def see(self, what: str, timeout_s: float = 30) -> None:
        end_s = time.monotonic() + timeout_s
        while what not in self.shown:
            assert time.monotonic() < end_s, f"never saw {what!r} in {self.shown!r}"
            self._read(0.1)

    def end(self, timeout_s: float = 30) -> int:
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            self._read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._read(0.05)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"did not end: {self.shown!r}")

    def close(self) -> int:
        """Close the terminal, as its window's cross does; how the process ended."""
        os.close(self.master)  # the kernel sends SIGHUP
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def _read(self, timeout_s: float) -> None:
        ready, _, _ = select.select([self.master], [], [], timeout_s)
        if ready:
            try:
                self.shown += os.read(self.master, 65536).decode(errors="replace")
            except OSError:  # the other side is closed
                time.sleep(timeout_s)
