"""Where nothing can be turned in flight: a loader whose order is its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.sdk.crew.board import Order
from planner.sdk.errors import SdkError
from planner.sdk.gear import Gear


class FixedChanges:
    """Refuses every change; see `planner.sdk.changes.Changes` for what it stands in for."""

    def __init__(self, gear: Gear) -> None:
        self._courier = gear.courier
        self._keeper = gear.keeper
        self._accumulation = gear.accumulation
        self._requests = gear.requests
        self._probing = gear.probing

    def screen(self, adjust: Mapping[str, Any]) -> None:
        """As the leader: say that it cannot be."""
        self._requests.looked_at(adjust.get("id"))
        reason = (
            "this loader's order is its own, so nothing about it can be changed in flight: only a "
            "checkpoint and relaunch can"
        )
        self._courier.say("adjust_refused", at_once=True, id=adjust.get("id"), reason=reason)

    def room_for(self, _workers: int, _epoch: int, _position: int) -> bool:
        """Nothing is shared out anew."""
        return True

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """As the leader: tell of wishes that came to nothing, by id."""
        for wish, reason in reasons.items():
            self._courier.say("adjust_refused", at_once=True, id=wish, reason=reason)

    def withdraw(self) -> None:
        """Nothing was taken up."""
        self._requests.looked_at(None)

    def lead_steps(self, _adjust: Mapping[str, Any] | None) -> int:
        """Nothing is drawn ahead that would matter."""
        return 0

    def ahead(self, steps: int) -> tuple[int, int]:
        """Epoch and position so many steps from now."""
        return self._keeper.at.epoch, self._keeper.at.position + steps

    def prepare(self, _order: Order) -> None:
        """There is nothing to prepare."""

    def turn(self, _adjust: Mapping[str, Any]) -> None:
        """Never asked for, as all is refused."""

    def enter(self, _generation: int) -> None:
        """Never asked for, as all is refused."""

    def recover(self, _redone_samples: int = 0) -> None:
        """A lost worker is lost. Raises `SdkError`."""
        raise SdkError("a worker was lost, and this loader's order cannot be shared out anew")

    def take_hold(self) -> None:
        """Have the script's objects act as planner needs it."""
        self._accumulation.remove()
        self._accumulation.install(accumulates=False, freeze_scheduler=self._probing)

    def step_begins(self, _start: int, _stop: int) -> None:
        """Nothing to do."""

    def stepped(self) -> None:
        """Nothing to do."""

    def steps_end(self) -> None:
        """Nothing to do."""

    def restore_buffers(self) -> None:
        """Nothing to do."""

    def average_buffers(self) -> None:
        """Nothing to do."""
