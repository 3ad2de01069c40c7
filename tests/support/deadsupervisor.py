"""Supervisors that die in mid-run, in this process, and workers that they leave behind."""

from __future__ import annotations

from typing import Any

import pytest

from planner.core.events import EventType
from planner.store.files import load
from runners.base import Handle, Signal

from .runs import Case


class Killed(BaseException):
    """Stands for kill -9: nothing after it is carried out."""


def die_at(case: Case, kind: EventType, count: int = 1) -> None:
    """Let the loop die right after it wrote its `count`-th event of a kind; then it is gone."""
    loop = case.loop()
    seen = 0
    append = loop.book.journal.append

    def dying(name: EventType, data: dict[str, Any], **more: Any) -> Any:
        nonlocal seen
        event = append(name, data, **more)
        seen += name == kind
        if seen == count:
            raise Killed
        return event

    loop.book.journal.append = dying  # type: ignore[assignment, method-assign]
    loop._abort = lambda error: None  # type: ignore[method-assign]  # the killed clean nothing up
    with pytest.raises(Killed):
        loop.run()
    loop.book.journal.close()


def leave(case: Case) -> None:
    """What the workers of a dead supervisor do, told by the system: checkpoint and go."""
    for number in range(1, case.record.attempt + 1):
        units = case.run.attempt(number).units().values()
        for path in [unit.handle for unit in units if unit.handle.exists()]:
            handle = load(Handle, path)
            case.runner.signal(handle, Signal.STOP)
            while case.runner.poll(handle).running:
                case.clock.sleep(0.5)
