"""What a simulated job says of itself: the events of docs/training-script.md and docs/adjust.md."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from runners import fakecrew
from runners.fakeadjust import Pace
from runners.fakelaw import LEVERS, FakeSettings
from runners.fakeorder import Order
from runners.fakestate import Change, Member, State
from runners.fakevoice import Voice

_MEMORY_S = 10.0


class Reporter:
    """Puts a job's state into events, spoken by whoever leads, or by everyone.

    Args:
        order: What was launched.
        settings: The place's.
    """

    def __init__(self, order: Order, settings: FakeSettings) -> None:
        self._order = order
        self._settings = settings
        self._voice = Voice()
        self.write = self._voice.write
        self.complain = self._voice.complain

    def levers(self) -> list[str]:
        """What can be changed in flight."""
        able = [name for name in LEVERS if name in self._settings.levers]
        return [name for name in able if name != "workers" or self._order.joinable]

    def say(self, state: State, kind: str, *, everyone: bool = False, **data: Any) -> None:
        """One event of the crew, now."""
        self._voice.say(state.t, kind, _speakers(state, everyone=everyone), **data)

    def print(self, state: State, text: str) -> None:
        """A line of the leader's output."""
        for leader in _speakers(state, everyone=False):
            self._voice.print(leader, text)

    def attached(self, pace: Pace, member: Member, t: float, resumed: object) -> None:
        """One worker attached."""
        law = self._settings.law
        self._voice.say(
            t,
            "attached",
            [member],
            tier=1,
            rank=member["number"] if member["joins"] else member["rank"],
            worker=member["number"],
            joins=member["joins"],
            levers=self.levers(),
            world_size=member["world_size"],
            pid=None,
            device=self._settings.gpu or "cpu",
            device_memory_bytes=law.capacity_bytes,
            samples=law.samples,
            epochs=self._order.epochs,
            **pace.in_force(),
            steps_per_epoch=pace.steps_per_epoch,
            resumed=resumed,
        )

    def ready(self, member: Member, t: float) -> None:
        """One worker can join."""
        self._voice.say(t, "ready", [member], worker=member["number"])

    def left(self, state: State, member: Member) -> None:
        """One worker left."""
        self._voice.say(state.t, "left", [member], worker=member["number"], step=state.step)

    def adjusted(self, state: State, pace: Pace, change: Change, step_s: float) -> None:
        """A change, after the first step under it: the gap around it holds that step, too."""
        told: dict[str, Any] = {
            **change,
            "stall_s": round(change["stall_s"] + step_s, 6),
            "step_time_s": round(change["step_time_s"], 6),
        }
        self.say(
            state,
            "adjusted",
            **told,
            first_step_t=round(state.t, 6),
            generation=state.generation,
            crew=state.crew,
            **pace.in_force(),
            steps_per_epoch=pace.steps_per_epoch,
            memory=state.knobs["memory"],
            lr_scale=state.knobs["lr_scale"],
            lost_samples=0,
        )

    def flush(self, state: State, pace: Pace) -> None:
        """Which steps were done since the last time, and at times how much memory is used."""
        law, on_gpu = self._settings.law, bool(self._settings.gpu)
        if state.t - state.memory_t >= _MEMORY_S:
            state.memory_t = state.t
            used = pace.peak_bytes if state.attached else 0
            self.say(
                state,
                "memory",
                everyone=True,
                peak_device_bytes=used,
                reserved_device_bytes=used if on_gpu else None,
                rss_bytes=law.fixed_bytes if on_gpu else used,
                peak_rss_bytes=law.fixed_bytes if on_gpu else used,
            )
        if not state.step_times:
            return
        state.flushed_t = state.t
        self.say(
            state,
            "steps",
            epoch=state.epoch,
            step=state.step,
            samples=self.samples(state),
            step_time_s=state.step_times,
            wait_s=state.waits,
        )
        passes = self.samples(state) / law.samples
        self.metric(state, loss=round(0.05 + 2.25 * math.exp(-0.6 * passes), 5))
        state.step_times, state.waits = [], []

    def metric(self, state: State, **values: float) -> None:
        """Numbers that the script logs."""
        self.say(state, "metric", step=state.step, epoch=state.epoch, values=values)

    def samples(self, state: State) -> int:
        """Done so far."""
        return state.epoch * self._settings.law.samples + state.position


def _speakers(state: State, *, everyone: bool) -> Collection[Member]:
    crew = fakecrew.training(state)
    return crew if everyone else crew[:1]
