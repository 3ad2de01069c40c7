"""The simulated training job: what it does between two looks, said through the contract's files.

A job is an order (what was launched) and a state (how far it is), both plain data. `Job.advance`
performs everything that fits between the state's time and now: attach, steps, checkpoints, the end
of an epoch, changes of crew and knobs, and what goes wrong. Its outcome depends on the order, on
when it is told something, and on nothing else. One job has all units of an attempt: whatever is
grown is added to the state's members.
"""

from __future__ import annotations

import json
import math
import random
from functools import cache
from pathlib import Path
from typing import Any, Literal

from runners import fakeadjust, fakecheckpoint, fakecrew
from runners.fakeadjust import Pace
from runners.fakecrew import EXIT_KILL, EXIT_STOPPED, EXIT_TERM
from runners.fakelaw import Fault, read_settings
from runners.fakeorder import Order
from runners.fakereport import Reporter
from runners.fakestate import Change, State, starting

Action = Literal[
    "attach", "regroup", "stop", "finish", "checkpoint", "tail", "adjust", "refuse", "step"
]
_FLUSH_S = 1.0
_JITTERS = 997


class Job:
    """One simulated job at one moment."""

    def __init__(self, order: Order, state: State | None = None) -> None:
        self.order = order
        self.settings = read_settings(order.settings)
        self._law = self.settings.law
        self._faults = self.settings.step_faults(order.attempt)
        self._report = Reporter(order, self.settings)
        self.restore(state or starting(order, order.launched_t + self._law.start_s))

    def restore(self, state: State) -> None:
        """Go on from there."""
        self.state = state
        self._fit()

    def _fit(self) -> None:
        self._pace = Pace.of(self._law, self.state.knobs, len(self.state.crew))

    @property
    def running(self) -> bool:
        """Whether any worker of any unit does."""
        return any(member["exit_code"] is None for member in self.state.members)

    def advance(self, now_t: float) -> bool:
        """Do what fits until now; whether anything happened."""
        state = self.state
        happened = self._welcome(now_t)
        if state.exit_code is None and state.attached:
            happened |= self._read_control(now_t)
        while state.exit_code is None and not state.hung:
            if not state.attached and state.stop_t is not None:
                self._end(EXIT_TERM)  # told before it listened: the signal ends it
                break
            action, duration_s = self._next()
            if state.t + duration_s > now_t:
                break
            state.t += duration_s
            self._do(action, duration_s)
            happened = True
        self._report.write()
        return happened or state.exit_code is not None

    @property
    def busy_fraction(self) -> float:
        """Share of a step in which the device computes."""
        return 0.0 if self.state.hung else 1.0 - self._pace.wait_s / self._pace.step_s

    @property
    def memory_bytes(self) -> int:
        """Of one worker's device."""
        return self._pace.peak_bytes if self.state.attached else 0

    # ---- what comes next

    def _next(self) -> tuple[Action, float]:
        state, law = self.state, self._law
        if not state.attached:
            return "attach", max(0.0, self.order.launched_t + law.start_s - state.t)
        if state.lost:
            return "regroup", law.handover_s
        if state.stop_t is not None and state.stop_t <= state.t:
            return "stop", law.checkpoint_s
        if self._finished():
            return "finish", law.checkpoint_s
        if state.asked > state.written or state.t - state.checkpoint_t >= state.interval_s:
            return "checkpoint", law.checkpoint_s
        if self._epoch_over():
            return "tail", law.tail_s
        if state.wanted is not None and state.wanted_t <= state.t:
            if self._obstacle() is not None:
                return "refuse", 0.0
            if fakeadjust.complete(state, state.wanted):
                return "adjust", law.handover_s
        return "step", self._step_time_s()

    def _obstacle(self) -> str | None:
        return fakeadjust.obstacle(self.state, self.state.wanted or {}, self._report.levers())

    def _epoch_over(self) -> bool:
        if self.order.probe_steps is not None:
            return self.state.steps_here >= self.order.probe_steps
        return self.state.position >= self._law.samples

    def _finished(self) -> bool:
        return self.state.epoch >= (self.order.epochs if self.order.probe_steps is None else 1)

    def _step_time_s(self) -> float:
        jitters = _jitter_table(self.settings.seed, self._law.jitter)
        step_s = self._pace.step_s * jitters[self.state.step % _JITTERS]
        if self.state.steps_here == 0:
            step_s *= self._law.warmup_factor
        for fault in self._faults:
            if fault.kind == "slow" and self.state.step + 1 >= (fault.step or 1):
                step_s *= fault.value or 2.0
        return step_s

    def _do(self, action: Action, duration_s: float) -> None:
        match action:
            case "attach":
                self._attach()
            case "regroup":
                self._regroup(duration_s)
            case "refuse":
                reason, asked = self._obstacle(), self._take_wanted()
                self._say("adjust_refused", id=asked["id"], reason=reason)
            case "adjust":
                self._adjust(duration_s)
            case "step":
                self._step(duration_s)
            case "tail":
                self._tail(duration_s)
            case "checkpoint":
                on_request = self.state.asked > self.state.written
                self._checkpoint("request" if on_request else "interval", duration_s)
            case "stop":
                self._report.flush(self.state, self._pace)
                self._say(
                    "stopping", everyone=True, reason=self.state.stop_reason, step=self.state.step
                )
                self._checkpoint("stop", duration_s)
                self._end(EXIT_STOPPED)
            case "finish":
                self._finish(duration_s)

    # ---- what it does

    def _attach(self) -> None:
        state, order = self.state, self.order
        found = None
        if order.probe_steps is None:
            found = fakecheckpoint.newest(Path(order.checkpoint_dir))
        resumed = None
        if found is not None:
            path, progress = found
            state.step, state.epoch = progress["step"], progress["epoch"]
            state.position = progress["position"]
            resumed = {**progress, "path": str(path)}
        state.attached = True
        state.epoch_began_t = state.checkpoint_t = state.flushed_t = state.t
        for member in fakecrew.training(state):
            member["attached"] = True
            self._report.attached(self._pace, member, state.t, resumed)

    def _welcome(self, now_t: float) -> bool:
        """Joining workers that are due attach and are ready, or are not."""
        arriving = fakecrew.due(self.state, now_t)
        for member in arriving:
            t = member["attach_t"]
            if member["fault"] == "join_crash":
                self._report.complain([member], "RuntimeError: simulated crash of a joining worker")
                fakecrew.end([member], 1, t)
                continue
            member["attached"] = True
            self._report.attached(self._pace, member, t, None)
            if member["fault"] != "never_ready":
                member["ready_t"] = t
                self._report.ready(member, t)
        return bool(arriving)

    def _step(self, step_s: float) -> None:
        state, number = self.state, self.state.step + 1
        for fault in self._faults:
            if fault.step == number and fault.kind != "slow" and self._fail(fault):
                return
        if self._pace.peak_bytes > self._law.capacity_bytes:
            self._fail(Fault(kind="oom"))
            return
        state.step, state.steps_here = number, state.steps_here + 1
        state.position = min(self._law.samples, state.position + state.knobs["global_batch"])
        state.step_times.append(round(step_s, 6))
        state.waits.append(round(self._pace.wait_s, 6))
        if state.change is not None:
            change, state.change = state.change, None
            self._report.adjusted(state, self._pace, change, step_s)
        if state.t - state.flushed_t >= _FLUSH_S:
            self._report.flush(self.state, self._pace)

    def _fail(self, fault: Fault) -> bool:
        """Whether the step is not done."""
        state, crew = self.state, fakecrew.training(self.state)
        if fault.kind == "lost" and state.lost_at == state.step + 1:
            return False  # the others do it again
        self._report.flush(self.state, self._pace)
        if fault.kind == "hang":
            state.hung = True
        elif fault.kind == "lost":
            state.lost_at = state.step + 1
            fakecrew.kill(state, crew[-1:], state.t)
        elif fault.kind == "crash":
            self._report.complain(crew, f"RuntimeError: simulated crash at step {state.step + 1}")
            self._end(int(fault.value or 1))
        elif self.settings.gpu:
            self._report.complain(crew, "torch.OutOfMemoryError: CUDA out of memory. (simulated)")
            self._end(1)
        else:
            self._end(EXIT_KILL)
        return True

    # ---- changes

    def _take_wanted(self) -> dict[str, Any]:
        state = self.state
        asked, state.wanted = state.wanted or {}, None
        state.answered = asked["id"]
        return asked

    def _adjust(self, stall_s: float) -> None:
        """Everything that is wanted, between two steps."""
        state, asked = self.state, self._take_wanted()
        self._report.flush(self.state, self._pace)
        change = self._change(stall_s, asked["id"])
        leaving = fakecrew.regroup(state, asked.get("crew", state.crew))
        for member in leaving:
            self._report.left(state, member)
        state.knobs = fakeadjust.turned(state.knobs, asked)
        state.change = fakecrew.told_with(state.change, change)
        self._fit()

    def _regroup(self, stall_s: float) -> None:
        """The others go on without those that died, and do the interrupted step again."""
        state = self.state
        change = self._change(stall_s, None)
        change["reason"], change["lost"] = "lost", state.lost
        change["redone_samples"] = state.knobs["global_batch"]
        fakecrew.regroup(state, [number for number in state.crew if number not in state.lost])
        state.change = fakecrew.told_with(state.change, change)
        state.lost = []
        self._fit()

    def _change(self, stall_s: float, asked_id: str | None) -> Change:
        return Change(
            id=asked_id,
            reason="asked",
            step=self.state.step,
            epoch=self.state.epoch,
            samples=self._report.samples(self.state),
            position=self.state.position,
            lost=[],
            stall_s=stall_s,
            step_time_s=self._pace.step_s,
            redone_samples=0,
        )

    # ---- ends of epochs and of the job

    def _tail(self, duration_s: float) -> None:
        state = self.state
        self._report.flush(self.state, self._pace)
        state.epoch += 1
        state.position = 0
        accuracy = 0.99 - 0.5 * math.exp(-0.8 * state.epoch)
        self._report.metric(state, val_accuracy=round(accuracy, 5))
        self._say(
            "epoch",
            epoch=state.epoch - 1,
            step=state.step,
            duration_s=round(state.t - state.epoch_began_t, 6),
            tail_s=duration_s,
        )
        self._report.print(self.state, f"epoch {state.epoch}: val_accuracy {accuracy:.4f}")
        state.epoch_began_t = state.t

    def _checkpoint(self, reason: str, duration_s: float) -> None:
        state, order = self.state, self.order
        self._report.flush(self.state, self._pace)
        state.checkpoint_t, state.written = state.t, state.asked
        progress = {"step": state.step, "epoch": state.epoch, "position": state.position}
        try:
            path, sha256 = fakecheckpoint.write(Path(order.checkpoint_dir), progress)
        except OSError as error:
            self._say("checkpoint_failed", step=state.step, error=str(error))
            return
        self._say(
            "checkpoint",
            path=str(path),
            step=state.step,
            epoch=state.epoch,
            samples=self._report.samples(self.state),
            bytes=self._law.checkpoint_bytes,
            sha256=sha256,
            duration_s=duration_s,
            stall_s=duration_s,
            reason=reason,
        )

    def _finish(self, duration_s: float) -> None:
        self._checkpoint("end", duration_s)
        if self.order.probe_steps is not None:
            self._say("probe_finished", steps=self.state.steps_here)
        done = {
            "step": self.state.step,
            "samples": self._report.samples(self.state),
            "epochs": self.state.epoch,
        }
        self._say("finished", everyone=True, **done)
        self._report.print(self.state, "done")
        self._end(0)

    def _end(self, exit_code: int) -> None:
        fakecrew.end(fakecrew.training(self.state), exit_code, self.state.t)
        self.state.exit_code = exit_code

    # ---- what it hears and says

    def _read_control(self, now_t: float) -> bool:
        """Whether it says something new."""
        if self.order.control is None:
            return False
        try:
            control = json.loads(Path(self.order.control).read_bytes())
        except FileNotFoundError:
            return False
        state = self.state
        if control.get("seq", 0) <= state.seq:
            return False
        state.seq = control["seq"]
        state.asked = max(state.asked, control.get("checkpoint", 0))
        state.interval_s = control.get("checkpoint_interval_s", state.interval_s)
        if control.get("stop") and state.stop_t is None:
            state.stop_t, state.stop_reason = now_t, "control"
        wanted = control.get("adjust")
        if wanted is None or wanted["id"] == state.answered:
            state.wanted = None
        elif wanted != state.wanted:
            state.wanted, state.wanted_t = wanted, now_t
        self._say("control", seq=state.seq)
        return True

    def _say(self, kind: str, *, everyone: bool = False, **data: Any) -> None:
        self._report.say(self.state, kind, everyone=everyone, **data)


@cache
def _jitter_table(seed: int, sigma: float) -> tuple[float, ...]:
    source = random.Random(seed)  # noqa: S311  noise, not secrets
    return tuple(math.exp(source.gauss(0.0, sigma)) for _ in range(_JITTERS))
