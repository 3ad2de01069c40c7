"""What is asked for between two steps, and that all workers do it at the same step."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from planner.sdk.courier import Courier
from planner.sdk.crew.board import Order
from planner.sdk.crew.crew import Crew, Expelled
from planner.sdk.crew.group import GroupBroken
from planner.sdk.distributed import Workers
from planner.sdk.keeper import Keeper
from planner.sdk.signals import StopFlag

_PERIOD_S = 1.0
_MOST_STEPS = 1000
_STOP_REASONS = ("", "control", "signal")
_SAVE_REASONS = ("", "interval", "request")


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What is to be done at this boundary, the same on all workers.

    Attributes:
        stop: Why to checkpoint and leave; empty when not.
        save: Why to write a checkpoint; empty when not.
        adjust: What is wanted of the knobs; None changes nothing.
        plan: Generation to enter; 0 stays.
        recover: A worker is lost: find the others and go on with them.
    """

    stop: str = ""
    save: str = ""
    adjust: Mapping[str, Any] | None = None
    plan: int = 0
    recover: bool = False


class Requests:
    """What is asked of this worker: by signals, by the control file, by the time that passes."""

    def __init__(self, stop: StopFlag, courier: Courier, keeper: Keeper, *, probing: bool) -> None:
        self._stop = stop
        self._courier = courier
        self._keeper = keeper
        self._probing = probing
        control = courier.control
        self._served = control.checkpoint if control is not None else 0
        self._adjust_id = control.adjust.get("id") if control and control.adjust else None

    @property
    def pending(self) -> bool:
        """Whether one of the others has something to say: a quick look, for every step."""
        control = self._courier.control
        if control is None:
            return self._stop.raised
        wish = None if control.adjust is None else control.adjust.get("id")
        return (
            self._stop.raised
            or control.stop
            or control.checkpoint > self._served
            or wish != self._adjust_id
            or time.monotonic() - self._keeper.saved_at_s >= control.interval_s
        )

    @property
    def stop(self) -> int:
        """Number of the reason to stop; 0 when there is none."""
        if self._stop.raised:
            return 2
        control = self._courier.control
        return int(control is not None and control.stop)

    @property
    def save(self) -> int:
        """Number of the reason to save; 0 when there is none."""
        control = self._courier.control
        if control is None or self._probing:
            return 0
        if control.checkpoint > self._served:
            return 2
        if self._keeper.writing:
            return 0  # it would wait for the one that is on its way to the disk
        return int(time.monotonic() - self._keeper.saved_at_s >= control.interval_s)

    @property
    def adjust(self) -> Mapping[str, Any] | None:
        """What is wanted and was not looked at yet."""
        control = self._courier.control
        if control is None or control.adjust is None or self._probing:
            return None
        return control.adjust if control.adjust.get("id") != self._adjust_id else None

    @property
    def withdrawn(self) -> bool:
        """Whether nothing is wanted any more of what was taken up."""
        control = self._courier.control
        return control is not None and control.adjust is None and self._adjust_id is not None

    @property
    def asked(self) -> int:
        """Number of the last checkpoint that was asked for."""
        control = self._courier.control
        return control.checkpoint if control is not None else 0

    def saved(self, asked: int) -> None:
        """A checkpoint was written: whatever had been `asked` for before it is served."""
        self._served = asked

    def looked_at(self, adjust_id: object) -> None:
        """An adjustment was taken up or refused."""
        self._adjust_id = adjust_id


class Boundary(Protocol):
    """Looks for orders at step boundaries."""

    def look(self, *, always: bool = False) -> Orders | None:
        """What all workers do now; None when there is nothing, or when it is not time to look.

        Asking changes nothing: orders that are not obeyed are there again at the next look.
        """


class Planner(Protocol):
    """Works out what an order needs of the feed; see planner.sdk.screening."""

    def screen(self, adjust: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """As the leader: take a wish up; what the workers must agree on for it, if anything."""

    def withdraw(self) -> None:
        """As the leader: wait for nobody any more."""

    def room_for(self, workers: int, epoch: int, position: int) -> bool:
        """Whether the step that begins there has samples for so many workers."""

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """As the leader: tell of wishes that came to nothing, by id."""

    def lead_steps(self, adjust: Mapping[str, Any] | None) -> int:
        """Steps from now until a change can be had without a pause."""

    def ahead(self, steps: int) -> tuple[int, int]:
        """Epoch and position so many steps from now."""

    def prepare(self, order: Order) -> None:
        """An order became known that is due later."""


class ScriptBoundary:
    """Of workers that the script joined: they agree by a collective.

    That costs, so they do it about once a second, and each time the leader also says after how many
    steps the next time is.
    """

    def __init__(self, requests: Requests, workers: Workers, planner: Planner) -> None:
        self._requests = requests
        self._workers = workers
        self._planner = planner
        self._steps_left = 1
        self._steps_since = 0
        self._looked_s = time.monotonic()

    def look(self, *, always: bool = False) -> Orders | None:
        """See `Boundary`."""
        self._steps_since += 1
        self._steps_left -= 1
        if self._steps_left > 0 and not always:
            return None
        wanted = self._requests
        adjust = wanted.adjust if self._workers.leads else None
        if adjust is not None:
            adjust = self._planner.screen(adjust)
        mine = [wanted.stop, wanted.save, self._next_in(), int(adjust is not None)]
        stop, save, self._steps_left, changes = self._workers.highest(mine)
        self._steps_since = 0
        self._looked_s = time.monotonic()
        if changes:
            adjust = json.loads(self._workers.from_leader(json.dumps(adjust)))
        if not (stop or save or changes):
            return None
        return Orders(stop=_STOP_REASONS[stop], save=_SAVE_REASONS[save], adjust=adjust)

    def _next_in(self) -> int:
        """Steps that take about a second, as the last ones did; 0 from all but the leader."""
        if not self._workers.leads:
            return 0
        step_s = (time.monotonic() - self._looked_s) / max(1, self._steps_since)
        return max(1, min(_MOST_STEPS, int(_PERIOD_S / max(step_s, 1e-6))))


class CrewBoundary:
    """Of workers that planner joins, and of a single one.

    The leader tells the others an order over their connections, and takes part in the next step
    only once all have it. They cannot be further than in that step, which ends with a collective:
    so an order for the boundary after it reaches everyone in time. Without orders nothing is sent.
    """

    def __init__(self, requests: Requests, crew: Crew, keeper: Keeper, planner: Planner) -> None:
        self._requests = requests
        self._crew = crew
        self._keeper = keeper
        self._planner = planner
        self._known: Order | None = None
        self._wished = False
        self._plan = crew.plan
        self._generation = crew.generation

    def look(self, *, always: bool = False) -> Orders | None:
        """See `Boundary`.

        Raises:
            Expelled: The others went on without this worker.
        """
        board = self._crew.board
        if self._plan is not self._crew.plan:
            self._plan = self._crew.plan
            if self._generation != self._crew.generation:
                self._begin_generation()
        if board.look:
            board.look = False
            if board.expelled:
                raise Expelled
            if board.broken:
                return Orders(recover=True)
            if board.order is not None and board.order.generation == self._crew.generation:
                self._learn(board.order)
        if self._known is None and (self._requests.pending or board.asks):
            try:
                self._ask()
            except GroupBroken:
                self._requests.looked_at(None)
                return Orders(recover=True)
        order = self._known
        if order is None or order.at > self._keeper.at.step:
            return None
        self._known = board.order = None
        return Orders(stop=order.stop, save=order.save, adjust=order.knobs, plan=order.plan)

    def _begin_generation(self) -> None:
        """What was ordered in the one before is ordered anew, if it is still wanted."""
        self._generation = self._crew.generation
        if self._known is not None and self._known.generation != self._generation:
            if self._known.knobs is not None:
                self._requests.looked_at(None)
            self._known = None
        self._wished = False

    def _learn(self, order: Order) -> None:
        if self._known is None or self._known.number != order.number:
            self._known = order
            self._planner.prepare(order)

    def _ask(self) -> None:
        """Have an order given, if there is anything to do. One thing at a time."""
        requests = self._requests
        if not self._crew.leads:
            if requests.stop == 2 and not self._wished:
                self._wished = True
                self._crew.wish_stop("signal")
            return
        stop = _STOP_REASONS[requests.stop] or self._crew.board.stop_wished
        if stop:
            self._give(0, stop=stop)
        elif self._crew.board.ready is not None:
            plan = self._crew.board.ready
            self._give(self._steps_to_room(len(plan.members)), plan=plan.generation)
        elif self._crew.board.refused:
            self._planner.refuse(self._crew.board.take_refused())
        elif requests.adjust is not None:
            wanted = self._planner.screen(requests.adjust)
            if wanted is not None:
                self._give(self._planner.lead_steps(wanted), knobs=wanted)
        elif requests.withdrawn:
            self._planner.withdraw()
        elif requests.save:
            self._give(0, save=_SAVE_REASONS[requests.save])

    def _steps_to_room(self, workers: int) -> int:
        """Steps until one that so many workers can share: an epoch's last may be too short.

        The next epoch's first step is the furthest: no other has more room.
        """
        steps = self._planner.lead_steps(None)
        while True:
            epoch, position = self._when(steps)[1]
            if position == 0 or self._planner.room_for(workers, epoch, position):
                return steps
            steps += 1

    def _give(self, lead_steps: int, **what: Any) -> None:
        steps, (epoch, position) = self._when(lead_steps)
        at = self._keeper.at
        where = {"at": at.step + steps, "epoch": epoch, "position": position, "seed": at.seed}
        self._learn(self._crew.give(**where, **what))

    def _when(self, lead_steps: int) -> tuple[int, tuple[int, int]]:
        """The first step that all can be told of before they come to it; epoch and position."""
        # With others, one more: they may be in the step that begins now.
        steps = lead_steps + int(self._crew.size > 1)
        return steps, self._planner.ahead(steps)
