"""Taking turns at probing: two planners that probe one machine at once would measure each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from planner.core.clock import Clock
from planner.core.events import EventSink
from planner.services.api import Cancel
from planner.store.layout import StateDir

_LOOK_S = 0.2


@contextmanager
def turn_to_probe(
    state: StateDir, clock: Clock, on_event: EventSink, cancel: Cancel | None
) -> Iterator[None]:
    """Be the only one who probes with this state directory; says so once when it has to wait.

    Who is told to end while it waits goes on without its turn: it then probes nothing.

    Raises:
        StoreError: The state directory cannot be written.
    """
    lock = FileLock(state.locks / "probing.lock")
    told = False
    while not (cancel is not None and cancel.is_set()):
        try:
            lock.acquire(blocking=False)
            break
        except Timeout:
            if not told:
                told = True
                text = "another planner is probing on this machine: waiting until it is done"
                on_event("log.line", {"text": text})
            clock.sleep(_LOOK_S)
    try:
        yield
    finally:
        lock.release()
