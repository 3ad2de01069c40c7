"""What happens between two steps: checkpoint, stop, on all workers at the same step."""

from __future__ import annotations

import time
from dataclasses import dataclass

from planner.sdk.courier import Courier
from planner.sdk.distributed import Workers
from planner.sdk.errors import EXIT_NOT_SAVED, EXIT_STOPPED, tell
from planner.sdk.keeper import Keeper
from planner.sdk.signals import StopFlag

_PERIOD_S = 1.0
_MOST_STEPS = 1000
_STOP_REASONS = ("", "control", "signal")
_SAVE_REASONS = ("", "interval", "request")


@dataclass(frozen=True, slots=True)
class Orders:
    """What is to be done at this boundary, the same on all workers: why, or an empty text."""

    stop: str
    save: str


class Boundary:
    """Looks for orders at step boundaries.

    A single worker looks every time: it costs a few attribute reads. Several workers must agree,
    which costs a collective; so they do it about once a second, and each time the leader also says
    after how many steps the next time is.
    """

    def __init__(
        self,
        workers: Workers,
        stop: StopFlag,
        courier: Courier,
        keeper: Keeper,
        *,
        probing: bool,
    ) -> None:
        self._workers = workers
        self._stop = stop
        self._courier = courier
        self._keeper = keeper
        self._probing = probing
        control = courier.control
        self._served = control.checkpoint if control is not None else 0
        self._steps_left = 1
        self._steps_since = 0
        self._looked_s = time.monotonic()

    def look(self, *, always: bool = False) -> Orders | None:
        """What was asked for; None when nothing was, or when it is not yet time to look.

        Asking changes nothing: orders that are not obeyed are there again at the next look.
        """
        stop, save, next_in = self._stop_wanted(), 0, 0
        if self._workers.count == 1:
            save = self._save_wanted()
        else:
            self._steps_since += 1
            self._steps_left -= 1
            if self._steps_left > 0 and not always:
                return None
            save, next_in = self._save_wanted(), self._next_in()
            stop, save, self._steps_left = self._workers.highest([stop, save, next_in])
            self._steps_since = 0
            self._looked_s = time.monotonic()
        return Orders(_STOP_REASONS[stop], _SAVE_REASONS[save]) if stop or save else None

    def obey(self, orders: Orders, *, random: bytes | None = None) -> None:
        """Save or stop; `random` is the random state to go on with, if it is not that of now.

        Raises:
            SystemExit: 75 when asked to stop and saved, 74 when it could not be saved.
        """
        if orders.stop:
            self._leave(orders.stop, random)
        if self._courier.control is not None:
            self._served = self._courier.control.checkpoint
        self._keeper.save(orders.save, random=random)

    def _stop_wanted(self) -> int:
        if self._stop.raised:
            return 2
        control = self._courier.control
        return int(control is not None and control.stop)

    def _save_wanted(self) -> int:
        control = self._courier.control
        if control is None or self._probing:
            return 0
        if control.checkpoint > self._served:
            return 2
        return int(time.monotonic() - self._keeper.saved_at_s >= control.interval_s)

    def _next_in(self) -> int:
        """Steps that take about a second, as the last ones did; 0 from all but the leader."""
        if not self._workers.leads:
            return 0
        step_s = (time.monotonic() - self._looked_s) / max(1, self._steps_since)
        return max(1, min(_MOST_STEPS, int(_PERIOD_S / max(step_s, 1e-6))))

    def _leave(self, reason: str, random: bytes | None) -> None:
        self._courier.say("stopping", at_once=True, reason=reason, step=self._keeper.at.step)
        saved = self._probing or self._keeper.save("stop", random=random)
        if not saved:
            tell(
                "asked to stop, but nothing could be saved: the steps since the last checkpoint "
                "will be done again"
            )
        self._workers.leave()
        self._courier.close()
        self._workers.exit(EXIT_STOPPED if saved else EXIT_NOT_SAVED)
