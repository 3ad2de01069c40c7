"""The crew as the training loop sees it: this worker's place, and how generations change."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.sdk.crew.board import Board, Entry, Order
from planner.sdk.crew.coordinator import Coordinator
from planner.sdk.crew.group import Group, GroupBroken, retire
from planner.sdk.crew.handover import clear_up, load_state, send_state
from planner.sdk.crew.plan import CrewFolder, Plan
from planner.sdk.errors import SdkError
from planner.sdk.state import Parts

_BEGIN_S = 600.0
"""The first workers may take long to import and build, and differ in it."""
_ACKNOWLEDGE_S = 60.0
_RECOVER_S = 120.0


class Expelled(Exception):
    """The others went on without this worker: it must not train or save any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where one worker stands when a generation begins.

    Attributes:
        worker: Its number.
        has_state: Whether it has trained; a newcomer has not.
        step: Optimiser steps done.
        position: Where training stands, as plain values.
        random: Its random states.
        knobs: What is in force.
        normal_micro_batch: The micro-batch to go back to when memory becomes normal again.
    """

    worker: int
    has_state: bool
    step: int
    position: Mapping[str, Any]
    random: bytes
    knobs: Mapping[str, Any]
    normal_micro_batch: int = 0

    def blob(self) -> bytes:
        """As bytes, for the others."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(values | {"random": base64.b64encode(self.random).decode()}).encode()

    @classmethod
    def of_blob(cls, blob: bytes) -> Standing:
        """The reverse of `blob`."""
        values = json.loads(blob)
        return cls(**(values | {"random": base64.b64decode(values["random"])}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered:
    """What a worker knows after entering a generation.

    Attributes:
        plan: The generation.
        source: Where training stands: that of the most advanced worker.
        random: Random states to go on with; None draws new ones, as the number of workers changed.
        leaves: Whether this worker is no member of it.
    """

    plan: Plan
    source: Standing
    random: bytes | None
    leaves: bool


class Crew:
    """This worker's membership. With one worker, and until somebody joins, it costs nothing.

    Attributes:
        rank: Place in the generation.
        size: Workers of the generation.
        group: What gradients are reduced over; None with one worker.
        plan: The generation; None before the first, and for a worker that never had company.
    """

    def __init__(
        self,
        *,
        worker: int,
        host: str,
        folder: Path | None,
        device: Any,
        parts: Parts,
        silence_s: float,
    ) -> None:
        self.worker = worker
        self.rank = 0
        self.size = 1
        self.group: Group | None = None
        self.plan: Plan | None = None
        self.board = Board()
        self._host = host
        self._folder = CrewFolder(folder) if folder is not None else None
        self._device = device
        self._parts = parts
        self._silence_s = silence_s
        self._coordinator: Coordinator | None = None
        self._orders = 0

    @property
    def leads(self) -> bool:
        """Whether this worker speaks and writes for all."""
        return self.rank == 0

    @property
    def started(self) -> bool:
        """Whether this worker can be reached by others."""
        return self._coordinator is not None

    @property
    def can_change(self) -> bool:
        """Whether workers can come and go."""
        return self._folder is not None

    @property
    def generation(self) -> int:
        """Number of the generation; 0 for a worker that never had company."""
        return self.plan.generation if self.plan is not None else 0

    @property
    def workers(self) -> tuple[int, ...]:
        """Worker numbers by rank."""
        return self.plan.workers if self.plan is not None else (self.worker,)

    def may_write(self) -> bool:
        """Whether nobody else leads meanwhile; looked up right before a checkpoint counts."""
        return self._coordinator is None or self._shared().led_by(self.worker)

    # ---- beginning

    def begin(self, workers: int) -> None:
        """Meet the other first workers.

        Raises:
            SdkError: They did not come, or worker 0 was lost.
        """
        if workers == 1:
            return
        coordinator = self._start()
        coordinator.network.do(lambda: coordinator.gather(workers))
        board = self.board
        if not board.wait(lambda: board.entry is not None or board.deserted, _BEGIN_S):
            raise SdkError(f"the other {workers - 1} workers did not come within {_BEGIN_S:.0f} s")
        entry = board.take_entry()
        if entry is None:
            raise SdkError("worker 0 was lost before the workers had met: start all of them again")
        retire(entry.handing)
        self._settle(entry)

    def join(self) -> None:
        """Turn to those who train, and wait to be let in."""
        coordinator = self._start()
        coordinator.network.do(coordinator.join)

    def want(self, crew: Sequence[int], asked: str | None) -> None:
        """These workers are wanted; the leader makes it so once all of them are here."""
        if self._coordinator is None:
            if tuple(crew) == (self.worker,):
                return
            started = self._start()
            started.network.do(started.lead_alone)
            self.board.wait(lambda: started.plan is not None or self.board.expelled, 10.0)
            self.plan = started.plan
        coordinator = self._coordinator
        if coordinator is not None:
            coordinator.network.do(lambda: coordinator.want(crew, asked))

    def _start(self) -> Coordinator:
        folder = self._shared()
        folder.make()
        self._coordinator = Coordinator(
            worker=self.worker,
            host=self._host,
            folder=folder,
            device=self._device,
            board=self.board,
            silence_s=self._silence_s,
        )
        self._coordinator.network.start()
        return self._coordinator

    # ---- orders

    def give(self, **what: Any) -> Order:
        """As the leader: have all workers do something at the same step; they know of it now.

        Raises:
            GroupBroken: One of them is lost.
        """
        coordinator = self._coordinator
        self._orders += 1
        order = Order(number=self._orders, generation=self.generation, **what)
        if coordinator is None:
            return order
        self.board.note(order=order, acknowledged=set())
        coordinator.network.do(lambda: coordinator.give(order))
        others = set(self.workers) - {self.worker}
        told = self.board.wait(
            lambda: self.board.broken or self.board.acknowledged >= others, _ACKNOWLEDGE_S
        )
        if self.board.broken or not told:
            self.broke()
            raise GroupBroken("a worker was lost while an order was given")
        return order

    def wish_stop(self, reason: str) -> None:
        """Ask the leader to have all workers stop."""
        coordinator = self._coordinator
        if coordinator is not None:
            coordinator.network.do(lambda: coordinator.wish_stop(reason))

    # ---- changing the generation

    def broke(self, tried: int | None = None) -> None:
        """A collective failed, of the generation that was `tried`: all have to meet again."""
        coordinator = self._coordinator
        if self.group is not None:
            self.group.abort()
        if coordinator is not None:
            generation = self.generation if tried is None else tried
            coordinator.network.do(lambda: coordinator.broke(generation))

    def await_entry(self, generation: int | None = None) -> Entry:
        """Wait for a generation that can be entered: that one, or the next after a loss.

        Raises:
            Expelled: The others went on without this worker.
            GroupBroken: It will not come, as a worker was lost.
            SdkError: Nothing came of it for too long.
        """
        board = self.board

        def settled() -> bool:
            return board.expelled or board.over or board.entry is not None

        until_s = time.monotonic() + _RECOVER_S
        while time.monotonic() < until_s:
            board.wait(settled, 1.0)
            if board.expelled or board.over:
                raise Expelled
            entry = board.take_entry()
            if entry is None:
                continue
            if generation is not None and entry.plan.generation != generation:
                board.note(entry=entry)
                raise GroupBroken("another generation took the place of the planned one")
            if generation is None and not entry.plan.recovers:
                retire(entry.handing, entry.training)
                continue
            return entry
        raise SdkError(f"no way to go on was found within {_RECOVER_S:.0f} s of a worker's loss")

    def meet_again(self) -> Standing | None:
        """Before training: a worker was lost. Where the others stand, if they train already.

        Raises:
            Expelled: The others went on without this worker.
            SdkError: Nothing came of it for too long.
        """
        nowhere = Standing(
            worker=self.worker, has_state=True, step=-1, position={}, random=b"", knobs={}
        )
        while True:
            self.broke()
            try:
                source = self.enter(self.await_entry(), nowhere).source
            except GroupBroken:
                continue
            return source if source.step >= 0 else None

    def enter(self, entry: Entry, mine: Standing) -> Entered:
        """Meet the others of a generation, hand the state over, and train in it from now on.

        Raises:
            GroupBroken: A worker was lost meanwhile; this one's state is untouched or whole.
        """
        leaves = entry.plan.rank(self.worker) is None
        if leaves:
            self._say(lambda c: c.about_to_leave(True))
        try:
            standings = self._meet(entry, mine)
        except GroupBroken:
            retire(entry.handing, entry.training)
            if leaves:
                self._say(lambda c: c.about_to_leave(False))
            self.broke(entry.plan.generation)
            raise
        trained = [s for s in standings if s.has_state]
        source = max(trained, key=lambda s: s.step)
        random = None
        rank = entry.plan.rank(self.worker)
        if rank is not None and len(trained) == len(entry.plan.members):
            random = trained[rank].random
        retire(entry.handing)
        if leaves:
            retire(entry.training)
        else:
            self._settle(entry)
        return Entered(plan=entry.plan, source=source, random=random, leaves=leaves)

    def _meet(self, entry: Entry, mine: Standing) -> list[Standing]:
        """Hear where everyone stands, and bring those who lag or are new to where training is."""
        group = entry.handing
        if group is None:
            return [mine]
        self.board.group = group
        standings = [Standing.of_blob(blob) for blob in group.gather(mine.blob())]
        step = max(s.step for s in standings if s.has_state)
        lacking = [not s.has_state or s.step < step for s in standings]
        folder = self._shared().path / f"handover-{entry.plan.generation}"
        states = None
        if any(lacking):
            states = send_state(group, self._parts, lacking.index(False), folder)
        # Whoever leaves after this takes nothing along that others wait for, and only now is it
        # certain that all will stand at the same step.
        group.gather(b"")
        if states is not None and lacking[group.rank]:
            load_state(self._parts, states, folder)
        if states is not None and self._parts.save is not None:
            with contextlib.suppress(GroupBroken):  # then the next one clears up
                group.gather(b"")
                clear_up(folder)
        order = {worker: place for place, worker in enumerate(entry.plan.everyone)}
        return sorted(standings, key=lambda s: order[s.worker])

    def _settle(self, entry: Entry) -> None:
        before, plan = self.group, entry.plan
        rank = plan.rank(self.worker)
        self.rank, self.size = rank if rank is not None else 0, len(plan.members)
        self.group, self.plan = entry.training, plan
        with self.board.changed:
            self.board.group, self.board.generation = entry.training, plan.generation
            self.board.order = self.board.ready = None
        self._say(lambda c: c.entered(plan))
        retire(before)

    def _shared(self) -> CrewFolder:
        if self._folder is None:
            raise SdkError("the workers of this job cannot change: PLANNER_CREW_DIR is not set")
        return self._folder

    def _say(self, what: Any) -> None:
        coordinator = self._coordinator
        if coordinator is not None:
            coordinator.network.do(lambda: what(coordinator))

    # ---- ending

    def part(self, *, over: bool = False) -> None:
        """Leave: nobody is missed after this; training is `over` for those who wait to join, too.

        Never fails.
        """
        coordinator = self._coordinator
        if coordinator is None:
            if over and self._folder is not None:
                self._folder.finish()
            return
        coordinator.network.do(lambda: coordinator.part(over=over))
        coordinator.network.close()
        with self.board.changed:
            self.board.group = None
        retire(self.group, wait=True)
        self._coordinator, self.group = None, None
