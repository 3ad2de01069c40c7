"""Messages between workers: one JSON object a line over TCP, on one thread of each worker.

`Network` owns the sockets. Everything it is told to do and everything it hears happens on its own
thread, one thing at a time, so that whoever keeps state there needs no locks.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from planner.sdk.crew.connections import keep_from_children
from planner.sdk.errors import tell

Message = dict[str, Any]
_MOST_BYTES = 1 << 20
"""Of one message; a peer that sends more is not one of ours."""
_STRANGERS_BYTES = 4096
_STRANGERS_S = 5.0
_MOST_STRANGERS = 64
"""Connections that have not said yet who they are."""
_TICK_S = 0.5


class Line:
    """One connection. Made and used on the network's thread only.

    Attributes:
        worker: Who is at the other end; None while nobody has said.
        expects: The proof that the other end still has to give; empty when it need not.
        heard_s: When something came last.
        made_s: When it was opened.
    """

    def __init__(self, sock: socket.socket, network: Network) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_from_children(sock)
        self.sock = sock
        self.worker: int | None = None
        self.expects = ""
        self.heard_s = self.made_s = time.monotonic()
        self.closed = False
        self._network = network
        self._in = b""
        self._out = b""

    @property
    def strange(self) -> bool:
        """Whether the other end has not proved yet who it is."""
        return self.worker is None or bool(self.expects)

    def send(self, message: Message) -> None:
        """Queue a message and send what the socket takes now."""
        if not self.closed:
            self._out += json.dumps(message).encode() + b"\n"
            self.flush()

    def flush(self) -> None:
        """Send what waits; a connection that broke shows when it is read."""
        try:
            while self._out:
                self._out = self._out[self.sock.send(self._out) :]
        except BlockingIOError:
            self._network.watch(self, writes=True)
            return
        except OSError:
            self._out = b""
        self._network.watch(self, writes=False)

    def receive(self) -> list[Message] | None:
        """Messages that have come; None once the peer is gone or talks nonsense."""
        room = (_STRANGERS_BYTES if self.strange else _MOST_BYTES) - len(self._in)
        if room <= 0:
            return None
        try:
            data = self.sock.recv(min(room, 1 << 16))
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        self.heard_s = time.monotonic()
        *whole, self._in = (self._in + data).split(b"\n")
        try:
            messages = [json.loads(line) for line in whole]
        except (ValueError, RecursionError):
            return None
        return messages if all(isinstance(message, dict) for message in messages) else None


class Listener(Protocol):
    """Who is told of what happens, on the network's thread."""

    def heard(self, line: Line, message: Message) -> None:
        """A message came."""

    def lost(self, line: Line) -> None:
        """A connection is gone, and not by `close`."""

    def tick(self) -> None:
        """Half a second has passed."""


class Network:
    """The sockets of one worker. `start` once; `close` at the end."""

    def __init__(self, host: str, listener: Listener) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._server = socket.create_server((host, 0))
        keep_from_children(self._server)
        self._server.setblocking(False)
        self.host, self.port = host, int(self._server.getsockname()[1])
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._selector.register(self._server, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._jobs: deque[Callable[[], None]] = deque()
        self._lines: set[Line] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="planner-crew", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def do(self, job: Callable[[], None]) -> None:
        """Have the network's thread call `job`. May be called on any thread."""
        self._jobs.append(job)
        with contextlib.suppress(OSError):  # closed: nobody is left to do it
            self._wake_write.send(b"x")

    def connect(self, host: str, port: int, timeout_s: float = 2.0) -> Line:
        """A new connection, on the network's thread. Raises OSError: nobody listens there."""
        line = Line(socket.create_connection((host, port), timeout_s), self)
        self._lines.add(line)
        self._selector.register(line.sock, selectors.EVENT_READ, line)
        return line

    def refuses(self, host: str, port: int, timeout_s: float = 2.0) -> bool:
        """Whether it is certain that nobody listens there any more."""
        try:
            socket.create_connection((host, port), timeout_s).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False

    def drop(self, line: Line) -> None:
        """Close a connection; nobody is told."""
        if line.closed:
            return
        line.closed = True
        self._lines.discard(line)
        self._selector.unregister(line.sock)
        line.sock.close()

    def watch(self, line: Line, *, writes: bool) -> None:
        """Whether to be woken when the socket takes more."""
        if not line.closed:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if writes else 0)
            self._selector.modify(line.sock, wanted, line)

    def close(self) -> None:
        """Send what waits, then close everything; waits a moment for the thread."""
        if not self._thread.is_alive():
            return
        self.do(self._close)
        if threading.current_thread() is not self._thread:
            self._thread.join(2.0)

    def _close(self) -> None:
        self._closing = True

    def _work(self) -> None:
        next_tick_s = time.monotonic() + _TICK_S
        while not self._closing:
            for key, events in self._selector.select(max(0.0, next_tick_s - time.monotonic())):
                self._guarded(partial(self._ready, key, events))
            while self._jobs:
                self._guarded(self._jobs.popleft())
            if time.monotonic() >= next_tick_s:
                next_tick_s = time.monotonic() + _TICK_S
                self._guarded(self._drop_strangers)
                self._guarded(self._listener.tick)
        for line in tuple(self._lines):
            line.flush()
            self.drop(line)
        for sock in (self._server, self._wake_read, self._wake_write):
            sock.close()
        self._selector.close()

    def _drop_strangers(self) -> None:
        """Close what was opened and never said who it is."""
        strangers = [line for line in self._lines if line.worker is None]
        strangers.sort(key=lambda line: line.made_s)
        late_s = time.monotonic() - _STRANGERS_S
        for place, line in enumerate(reversed(strangers)):
            if line.made_s < late_s or place >= _MOST_STRANGERS:
                self.drop(line)

    def _guarded(self, job: Callable[[], None]) -> None:
        """A failure must not end the thread: without it nobody hears of anything any more."""
        try:
            job()
        except Exception as error:
            tell(f"crew: {type(error).__name__}: {error}")

    def _ready(self, key: selectors.SelectorKey, events: int) -> None:
        if key.fileobj is self._server:
            with contextlib.suppress(OSError):  # it gave up before it was taken
                sock, _ = self._server.accept()
                line = Line(sock, self)
                self._lines.add(line)
                self._selector.register(sock, selectors.EVENT_READ, line)
                self._drop_strangers()
            return
        if key.fileobj is self._wake_read:
            self._wake_read.recv(4096)
            return
        line = key.data
        if events & selectors.EVENT_WRITE:
            line.flush()
        if not events & selectors.EVENT_READ or line.closed:
            return
        if not self._hear(line) and not line.closed:
            self.drop(line)
            self._listener.lost(line)

    def _hear(self, line: Line) -> bool:
        """Pass on what has come; whether the line is of any use from here on."""
        try:
            messages = line.receive()
            for message in messages or ():
                if not line.closed:
                    self._listener.heard(line, message)
        except Exception:
            if not line.strange:
                raise
            return False  # unsaid: a stranger must not fill the log
        return messages is not None
