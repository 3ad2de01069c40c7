"""What the crew's thread and the training loop tell each other. The loop reads plain attributes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from planner.sdk.crew.group import Group
from planner.sdk.crew.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What all workers do at one step boundary.

    Attributes:
        number: Counts the orders of one leader.
        generation: Whose members it is for.
        at: Optimiser steps done at that boundary.
        epoch: The epoch then in progress.
        position: Samples of it done then.
        seed: Of the data order.
        stop: Why to checkpoint and leave; empty when not.
        save: Why to write a checkpoint; empty when not.
        knobs: What is to be in force from there on, and under which id; None changes nothing.
        plan: Number of the generation to enter; 0 stays.
    """

    number: int
    generation: int
    at: int
    epoch: int
    position: int
    seed: int = 0
    stop: str = ""
    save: str = ""
    knobs: Mapping[str, Any] | None = None
    plan: int = 0

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A generation whose groups are connected."""

    plan: Plan
    handing: Group | None
    training: Group | None


@dataclass(slots=True)
class Board:
    """Notes between the two threads. Whatever is changed is changed under `changed`.

    Attributes:
        look: Whether there is anything for the training loop to look at.
        order: The order that was given and not carried out yet.
        acknowledged: Workers that have the leader's last order.
        entry: The newest generation that could be entered.
        ready: The planned generation that all are prepared for; the leader may order it.
        generation: The one that the training loop is in.
        recovering: The newest generation that was made since a worker was lost.
        expelled: The others went on without this worker.
        deserted: Worker 0, through which the first workers meet, was lost before they met.
        over: Training ended before this worker joined.
        stop_wished: Why a worker asks all to stop.
        refused: Why a generation that was wanted cannot be, by the id that asked for it.
        group: The group that the training loop works with, so that it can be cut.
    """

    changed: threading.Condition = field(default_factory=threading.Condition)
    look: bool = False
    order: Order | None = None
    acknowledged: set[int] = field(default_factory=set)
    entry: Entry | None = None
    ready: Plan | None = None
    generation: int = 0
    recovering: int = 0
    expelled: bool = False
    deserted: bool = False
    over: bool = False
    stop_wished: str = ""
    refused: dict[str, str] = field(default_factory=dict)
    group: Group | None = None

    @property
    def broken(self) -> bool:
        """Whether a worker is lost: the next generation is entered as soon as it can be."""
        return self.recovering > self.generation

    @property
    def asks(self) -> bool:
        """Whether the other workers have something for the leader to order, or to tell of."""
        return bool(self.stop_wished or self.refused) or self.ready is not None

    def note(self, **values: Any) -> None:
        """Write down, and wake whoever waits."""
        with self.changed:
            for name, value in values.items():
                setattr(self, name, value)
            self.look = True
            self.changed.notify_all()

    def take_entry(self) -> Entry | None:
        """The generation that can be entered; whoever takes it sees to its groups."""
        with self.changed:
            entry, self.entry = self.entry, None
        return entry

    def take_refused(self) -> dict[str, str]:
        """What was refused since the last call."""
        with self.changed:
            refused, self.refused = self.refused, {}
        return refused

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait on the training loop's side until `done`; whether it was in time."""
        until_s = time.monotonic() + timeout_s
        with self.changed:
            while not done():
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    return False
                # In short waits, so that a signal's handler gets its turn.
                self.changed.wait(min(left_s, 0.2))
        return True
