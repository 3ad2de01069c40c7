"""The sockets of one process group, so that they can be cut.

Gloo waits for a peer that lives but has given up, and cannot be told to stop: in a ring of four, a
worker opposite to the one that died hears nothing. Shutting its sockets down wakes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable

_Known = frozenset[tuple[int, int]]
_OURS: dict[int, int] = {}
"""Inodes by descriptor."""


def keep_from_children(sock: socket.socket) -> None:
    """Have processes that are forked from now on close their copy of a socket.

    A loader process outlives its worker by some seconds. With a copy of the worker's sockets it
    would keep them open, and nobody would hear that the worker is gone.
    """
    _OURS[sock.fileno()] = os.fstat(sock.fileno()).st_ino


def _close_ours() -> None:
    for number, inode in _OURS.items():
        with contextlib.suppress(OSError):
            if os.fstat(number).st_ino == inode:
                os.close(number)


os.register_at_fork(after_in_child=_close_ours)


class Connections:
    """Sockets to `hosts` that this process made between `__init__` and `note`."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._hosts = {address for host in hosts for address in _addresses(host)}
        self._before = _sockets()
        self._made: _Known = frozenset()

    def note(self) -> None:
        """The group is connected. What the script connected to elsewhere meanwhile is its own."""
        made = _sockets() - self._before - _OURS.items()
        self._made = frozenset(found for found in made if _peer(*found) in self._hosts)
        _OURS.update(self._made)

    def cut(self) -> None:
        """Shut down those that still are what they were: a number may have been given out anew."""
        for number, inode in self._made:
            with contextlib.suppress(OSError), _same(number, inode) as own:
                own.shutdown(socket.SHUT_RDWR)


def _addresses(host: str) -> set[str]:
    return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}


def _peer(number: int, inode: int) -> str:
    """Address at the other end; empty when there is none."""
    with contextlib.suppress(OSError), _same(number, inode) as own:
        if own.family in (socket.AF_INET, socket.AF_INET6):
            return str(own.getpeername()[0]).removeprefix("::ffff:")
    return ""


def _same(number: int, inode: int) -> socket.socket:
    """The socket with that descriptor. Raises OSError: it is another one by now."""
    own = socket.socket(fileno=os.dup(number))
    if os.fstat(own.fileno()).st_ino != inode:
        own.close()
        raise OSError(errno.EBADF, "the socket was closed")
    return own


def _sockets() -> _Known:
    """Descriptor and inode of every socket of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(f"/proc/self/fd/{name}")
            if stat.S_ISSOCK(status.st_mode):
                found.add((int(name), status.st_ino))
    return frozenset(found)
