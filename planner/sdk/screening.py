"""Before a change: what is wanted is checked, and the feed is told what will be needed of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.sdk.changes import Changes
from planner.sdk.crew.board import Order
from planner.sdk.errors import SdkError
from planner.sdk.gathering import REASON
from planner.sdk.gear import Gear
from planner.sdk.levers import Knobs, Refused
from planner.sdk.planned import require_possible
from planner.sdk.plannedfeed import PlannedFeed

_LOADER_LEAD_STEPS = 4
"""Steps in which new loader processes come up while the old ones still serve."""
_MOST_LEAD_S = 10.0
"""Nothing else is done while a change waits for its step: neither a checkpoint nor a stop."""


class Screening:
    """What the boundary asks about a wish; see `planner.sdk.boundary.Planner`."""

    def __init__(self, gear: Gear, feed: PlannedFeed, changes: Changes) -> None:
        self._in_force = changes.in_force
        self._reports = changes.reports
        self._feed = feed
        self._parts = gear.parts
        self._crew = gear.crew
        self._workers = gear.workers
        self._keeper = gear.keeper
        self._courier = gear.courier
        self._requests = gear.requests
        self._stopwatch = gear.stopwatch
        self._gathering = gear.accumulation.gathering

    def screen(self, adjust: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """As the leader: take a wish up; what the workers must agree on for it, if anything."""
        if not self._gathering.settled:
            return None  # for now: it is looked at again at the next boundary
        wish = adjust.get("id")
        self._requests.looked_at(wish)
        crew = adjust.get("crew")
        try:
            target = self._in_force.target(adjust)
            members = self._checked_crew(crew) if crew is not None else None
            self._check(target, len(members) if members is not None else self._workers.count)
            self._check_gathering(target, members)
        except (Refused, SdkError) as error:
            self._courier.say("adjust_refused", at_once=True, id=wish, reason=str(error))
            return None
        if members is not None and self._crew is not None and isinstance(crew, list):
            try:
                self._crew.want(crew, None if wish is None else str(wish))
            except OSError as error:
                reason = f"other workers cannot be met: {error}"
                self._courier.say("adjust_refused", at_once=True, id=wish, reason=reason)
                return None
        if target != self._in_force.knobs:
            return adjust
        if members is None or members == frozenset(self._crew.workers if self._crew else ()):
            self._reports.begin(self._in_force.knobs, wish, "asked")
            self._reports.close()  # it is in force already
        return None

    def room_for(self, workers: int, epoch: int, position: int) -> bool:
        """Whether the step that begins there has samples for so many workers."""
        return self._feed.has_room(workers, epoch, position)

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """As the leader: tell of wishes that came to nothing, by id."""
        for wish, reason in reasons.items():
            self._courier.say("adjust_refused", at_once=True, id=wish, reason=reason)

    def withdraw(self) -> None:
        """As the leader: wait for nobody any more."""
        self._requests.looked_at(None)
        if self._crew is not None and self._crew.started:
            self._crew.want(self._crew.workers, None)

    def _checked_crew(self, crew: object) -> frozenset[int]:
        if self._crew is None or not self._crew.can_change:
            raise Refused(
                "the script joins its workers by itself: their number can only be changed by "
                "checkpoint and relaunch"
            )
        if not isinstance(crew, list) or not crew or not all(isinstance(w, int) for w in crew):
            raise Refused(f"a crew is a list of worker numbers, not {crew!r}")
        return frozenset(crew)

    def _check(self, target: Knobs, workers: int) -> None:
        """Raise `Refused` or `SdkError` when it cannot be."""
        why = self._feed.fits(workers=workers, global_batch=target.global_batch)
        if why is not None:
            raise Refused(why)
        if (
            target.global_batch != self._in_force.knobs.global_batch
            and self._parts.optimizer is None
        ):
            raise Refused("attach() was given no optimizer whose learning rate could follow")
        shape = self._in_force.shape(target, 0, workers)
        require_possible(shape, self._parts, crew=self._crew is not None)

    def _check_gathering(self, target: Knobs, members: frozenset[int] | None) -> None:
        """Raise `Refused` when gradients that the script itself gathers would be lost by it."""
        now, crew = self._in_force.knobs, self._crew
        batches = (target.global_batch, target.micro_batch) != (now.global_batch, now.micro_batch)
        workers = members is not None and crew is not None and members != frozenset(crew.workers)
        if self._gathering.found and (batches or workers):
            raise Refused(REASON)

    def lead_steps(self, adjust: Mapping[str, Any] | None) -> int:
        """Steps from now until a change can be had without a pause."""
        if adjust is None:
            return self._soon(self._feed.horizon)
        target = self._in_force.target(adjust)
        if self._in_force.loader_settings(target) != self._feed.settings:
            return self._soon(_LOADER_LEAD_STEPS)
        return self._soon(self._feed.horizon)

    def _soon(self, steps: int) -> int:
        """So many steps, or fewer where they take long: what they drew is then drawn anew."""
        usual_s = self._stopwatch.usual_step_s
        return steps if not usual_s else min(steps, int(_MOST_LEAD_S / usual_s))

    def ahead(self, steps: int) -> tuple[int, int]:
        """Epoch and position so many steps from now."""
        at = self._keeper.at
        return self._feed.ahead(at.epoch, at.position, steps)

    def prepare(self, order: Order) -> None:
        """An order became known that is due later."""
        if order.at <= self._keeper.at.step:
            return
        if order.plan and self._crew is not None and self._crew.board.entry is not None:
            plan = self._crew.board.entry.plan
            rank = plan.rank(self._crew.worker)
            if rank is not None:
                shape = self._in_force.shape(self._in_force.knobs, rank, len(plan.members))
                self._feed.announce(order.epoch, order.position, shape)
        elif order.knobs is not None:
            target = self._in_force.target(order.knobs)
            shape = self._in_force.shape(target, self._workers.rank, self._workers.count)
            self._feed.announce(order.epoch, order.position, shape)
            settings = self._in_force.loader_settings(target)
            if settings != self._feed.settings:
                self._feed.prepare(order.epoch, order.position, settings)
