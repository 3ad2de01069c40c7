"""The sockets of one process group, so that they can be cut.

Gloo waits for a peer that lives but has given up, and cannot be told to stop: in a ring of four, a
worker opposite to the one that died hears nothing. Shutting its sockets down wakes it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat

_Known = frozenset[tuple[int, int]]


class Connections:
    """Sockets of this process that were made between `__init__` and `note`."""

    def __init__(self) -> None:
        self._before = _sockets()
        self._made: _Known = frozenset()

    def note(self) -> None:
        """The group is connected."""
        self._made = _sockets() - self._before

    def cut(self) -> None:
        """Shut down those that still are what they were: a number may have been given out anew."""
        for number, inode in self._made:
            with contextlib.suppress(OSError):  # closed, or never connected
                if os.fstat(number).st_ino != inode:
                    continue
                with socket.socket(fileno=os.dup(number)) as own:
                    own.shutdown(socket.SHUT_RDWR)


def _sockets() -> _Known:
    """Descriptor and inode of every socket of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(f"/proc/self/fd/{name}")
            if stat.S_ISSOCK(status.st_mode):
                found.add((int(name), status.st_ino))
    return frozenset(found)
