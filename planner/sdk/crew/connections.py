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
_OURS: set[tuple[int, int]] = set()


def keep_from_children(sock: socket.socket) -> None:
    """Have processes that are forked from now on close their copy of a socket.

    A loader process outlives its worker by some seconds. With a copy of the worker's sockets it
    would keep them open, and nobody would hear that the worker is gone.
    """
    _OURS.add((sock.fileno(), os.fstat(sock.fileno()).st_ino))


def _close_ours() -> None:
    for number, inode in _OURS:
        with contextlib.suppress(OSError):
            if os.fstat(number).st_ino == inode:
                os.close(number)


os.register_at_fork(after_in_child=_close_ours)


class Connections:
    """Sockets of this process that were made between `__init__` and `note`."""

    def __init__(self) -> None:
        self._before = _sockets()
        self._made: _Known = frozenset()

    def note(self) -> None:
        """The group is connected."""
        self._made = _sockets() - self._before - _OURS
        _OURS.update(self._made)

    def cut(self) -> None:
        """Shut down those that still are what they were: a number may have been given out anew."""
        for number, inode in self._made:
            with contextlib.suppress(OSError):  # closed meanwhile, or one that only listens
                if os.fstat(number).st_ino != inode:
                    continue
                with socket.socket(fileno=os.dup(number)) as own:
                    own.getpeername()
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
