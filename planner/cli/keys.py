"""Single keys from a terminal, without a full screen."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ReadKey = Callable[[float], str]


@contextmanager
def reader(*, active: bool) -> Iterator[ReadKey]:
    """A function that waits so many seconds for a key; empty when none came.

    While it is open the terminal gives keys at once and without echo; Ctrl-C still interrupts.
    """
    if not active:
        yield _no_key
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSADRAIN)  # keeps what was typed already
    try:
        yield _read_key
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def cooked() -> Iterator[None]:
    """Lines with echo again, for a question in between."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    line_by_line = termios.tcgetattr(descriptor)
    line_by_line[3] |= termios.ICANON | termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSADRAIN, line_by_line)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _read_key(timeout_s: float) -> str:
    descriptor = sys.stdin.fileno()
    ready, _, _ = select.select([descriptor], [], [], timeout_s)
    key = os.read(descriptor, 1) if ready else b""
    if ready and not key:
        # At the end of input every later wait would return at once: sit it out instead.
        time.sleep(timeout_s)
    return key.decode("ascii", errors="ignore")


def _no_key(timeout_s: float) -> str:
    time.sleep(timeout_s)
    return ""
