"""The simulated training job: what it does between two looks, said through the contract's files.

A job is an order (what was launched) and a state (how far it is), both plain data. `Job.advance`
performs everything that fits between the state's time and now: attach, steps, checkpoints, the end
of an epoch, and what goes wrong. Its outcome depends on the order, on when it is told something,
and on nothing else.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from runners import fakecheckpoint
from runners.fakelaw import read_settings
from runners.fakeorder import Order
from runners.fakevoice import Voice

Action = Literal["attach", "stop", "checkpoint", "step", "tail", "finish"]
_FLUSH_S = 1.0
_MEMORY_S = 10.0
_JITTERS = 997
EXIT_STOPPED, EXIT_TERM, EXIT_KILL = 75, -15, -9


@dataclass(slots=True, kw_only=True)
class State:
    """How far it is. Times are Unix times in seconds."""

    t: float
    attached: bool = False
    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    epoch_began_t: float = 0.0
    steps_here: int = 0
    checkpoint_t: float = 0.0
    interval_s: float = 600.0
    flushed_t: float = 0.0
    memory_t: float = 0.0
    step_times: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    seq: int = 0
    asked: int = 0
    written: int = 0
    hung: bool = False
    stop_t: float | None = None
    stop_reason: str = "signal"
    exit_code: int | None = None


class Job:
    """One simulated job at one moment."""

    def __init__(self, order: Order, state: State | None = None) -> None:
        self.order = order
        self.state = state or State(t=order.launched_t, interval_s=order.checkpoint_interval_s)
        self.settings = read_settings(order.settings)
        self._law = self.settings.law
        self._faults = self.settings.faults_of(order.attempt)
        self._steps_per_epoch = math.ceil(self._law.samples / order.global_batch)
        shape = {
            "workers": order.workers,
            "micro_batch": order.micro_batch,
            "accumulation": order.accumulation,
            "loaders": order.loaders,
        }
        self._step_s = self._law.step_s(**shape)
        self._wait_s = self._law.wait_s(**shape)
        self._voice = Voice(order.attempt_dir, order.workers)

    def advance(self, now_t: float) -> bool:
        """Do what fits until now; whether anything happened."""
        state = self.state
        if state.exit_code is None and state.attached:
            self._read_control(now_t)
        happened = False
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
        self._voice.write()
        return happened or state.exit_code is not None

    def tell_stop(self, now_t: float) -> None:
        """SIGTERM: obeyed at the next step boundary."""
        if self.state.stop_t is None:
            self.state.stop_t = now_t

    def kill(self) -> None:
        """SIGKILL."""
        if self.state.exit_code is None:
            self.state.exit_code = EXIT_KILL

    @property
    def busy_fraction(self) -> float:
        """Share of a step in which the device computes."""
        return 0.0 if self.state.hung else 1.0 - self._wait_s / self._step_s

    @property
    def memory_bytes(self) -> int:
        """Of one worker's device."""
        return self._law.memory_bytes(self.order.micro_batch) if self.state.attached else 0

    # ---- what comes next

    def _next(self) -> tuple[Action, float]:
        state, law = self.state, self._law
        if not state.attached:
            return "attach", max(0.0, self.order.launched_t + law.start_s - state.t)
        if state.stop_t is not None and state.stop_t <= state.t:
            return "stop", law.checkpoint_s
        if self._finished():
            return "finish", law.checkpoint_s
        if state.asked > state.written or state.t - state.checkpoint_t >= state.interval_s:
            return "checkpoint", law.checkpoint_s
        if self._epoch_over():
            return "tail", law.tail_s
        return "step", self._step_time_s()

    def _epoch_over(self) -> bool:
        if self.order.probe_steps is not None:
            return self.state.steps_here >= self.order.probe_steps
        return self.state.epoch_step >= self._steps_per_epoch

    def _finished(self) -> bool:
        return self.state.epoch >= (self.order.epochs if self.order.probe_steps is None else 1)

    def _step_time_s(self) -> float:
        jitters = _jitter_table(self.settings.seed, self._law.jitter)
        step_s = self._step_s * jitters[self.state.step % _JITTERS]
        if self.state.steps_here == 0:
            step_s *= self._law.warmup_factor
        for fault in self._faults:
            if fault.kind == "slow" and self.state.step + 1 >= fault.step:
                step_s *= fault.value or 2.0
        return step_s

    def _do(self, action: Action, duration_s: float) -> None:
        match action:
            case "attach":
                self._attach()
            case "step":
                self._step(duration_s)
            case "tail":
                self._tail(duration_s)
            case "checkpoint":
                asked = self.state.asked > self.state.written
                self._checkpoint("request" if asked else "interval", duration_s)
            case "stop":
                self._flush()
                self._say(
                    "stopping", everyone=True, reason=self.state.stop_reason, step=self.state.step
                )
                self._checkpoint("stop", duration_s)
                self._end(EXIT_STOPPED)
            case "finish":
                self._finish(duration_s)

    # ---- what it does

    def _attach(self) -> None:
        state, order, law = self.state, self.order, self._law
        found = None
        if order.probe_steps is None:
            found = fakecheckpoint.newest(Path(order.checkpoint_dir))
        resumed = None
        if found is not None:
            path, progress = found
            state.step, state.epoch = progress["step"], progress["epoch"]
            state.epoch_step = progress["position"] // order.global_batch
            resumed = {**progress, "path": str(path)}
        state.attached = True
        state.epoch_began_t = state.checkpoint_t = state.flushed_t = state.t
        self._say(
            "attached",
            everyone=True,
            tier=1,
            world_size=order.workers,
            pid=None,
            device=self.settings.gpu or "cpu",
            device_memory_bytes=law.capacity_bytes,
            samples=law.samples,
            epochs=order.epochs,
            global_batch=order.global_batch,
            micro_batch=order.micro_batch,
            accumulation=order.accumulation,
            loader_workers=order.loaders,
            steps_per_epoch=self._steps_per_epoch,
            resumed=resumed,
        )

    def _step(self, step_s: float) -> None:
        state, number = self.state, self.state.step + 1
        for fault in self._faults:
            if (
                fault.step == number
                and fault.kind != "slow"
                and self._fail(fault.kind, fault.value)
            ):
                return
        if self._law.memory_bytes(self.order.micro_batch) > self._law.capacity_bytes:
            self._fail("oom", None)
            return
        state.step, state.steps_here = number, state.steps_here + 1
        state.epoch_step += 1
        state.step_times.append(round(step_s, 6))
        state.waits.append(round(self._wait_s, 6))
        if state.t - state.flushed_t >= _FLUSH_S:
            self._flush()

    def _fail(self, kind: str, value: float | None) -> bool:
        self._flush()
        if kind == "hang":
            self.state.hung = True
        elif kind == "crash":
            self._voice.complain(f"RuntimeError: simulated crash at step {self.state.step + 1}")
            self._end(int(value or 1))
        elif kind == "oom" and self.settings.gpu:
            self._voice.complain("torch.OutOfMemoryError: CUDA out of memory. (simulated)")
            self._end(1)
        elif kind == "oom":
            self._end(EXIT_KILL)
        return kind != "no_start"

    def _tail(self, duration_s: float) -> None:
        state = self.state
        self._flush()
        state.epoch += 1
        state.epoch_step = 0
        accuracy = 0.99 - 0.5 * math.exp(-0.8 * state.epoch)
        self._metric(val_accuracy=round(accuracy, 5))
        self._say(
            "epoch",
            epoch=state.epoch - 1,
            step=state.step,
            duration_s=round(state.t - state.epoch_began_t, 6),
            tail_s=duration_s,
        )
        self._voice.print(f"epoch {state.epoch}: val_accuracy {accuracy:.4f}")
        state.epoch_began_t = state.t

    def _checkpoint(self, reason: str, duration_s: float) -> None:
        state, order = self.state, self.order
        self._flush()
        state.checkpoint_t, state.written = state.t, state.asked
        position = state.epoch_step * order.global_batch
        progress = {"step": state.step, "epoch": state.epoch, "position": position}
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
            samples=self._samples(),
            bytes=self._law.checkpoint_bytes,
            sha256=sha256,
            duration_s=duration_s,
            reason=reason,
        )

    def _finish(self, duration_s: float) -> None:
        self._checkpoint("end", duration_s)
        if self.order.probe_steps is not None:
            self._say("probe_finished", steps=self.state.steps_here)
        done = {"step": self.state.step, "samples": self._samples(), "epochs": self.state.epoch}
        self._say("finished", everyone=True, **done)
        self._voice.print("done")
        self._end(0)

    def _end(self, exit_code: int) -> None:
        self.state.exit_code = exit_code

    # ---- what it hears and says

    def _read_control(self, now_t: float) -> None:
        if self.order.control is None:
            return
        try:
            control = json.loads(Path(self.order.control).read_bytes())
        except FileNotFoundError:
            return
        state = self.state
        if control.get("seq", 0) <= state.seq:
            return
        state.seq = control["seq"]
        state.asked = max(state.asked, control.get("checkpoint", 0))
        state.interval_s = control.get("checkpoint_interval_s", state.interval_s)
        if control.get("stop") and state.stop_t is None:
            state.stop_t, state.stop_reason = now_t, "control"
        self._say("control", seq=state.seq)

    def _samples(self) -> int:
        state, law = self.state, self._law
        here = min(law.samples, state.epoch_step * self.order.global_batch)
        return state.epoch * law.samples + here

    def _flush(self) -> None:
        """Say which steps were done since the last time, and at times how much memory is used."""
        state = self.state
        if state.t - state.memory_t >= _MEMORY_S:
            state.memory_t = state.t
            used = self.memory_bytes
            self._say(
                "memory",
                everyone=True,
                peak_device_bytes=used,
                reserved_device_bytes=used if self.settings.gpu else None,
                rss_bytes=self._law.fixed_bytes if self.settings.gpu else used,
                peak_rss_bytes=self._law.fixed_bytes if self.settings.gpu else used,
            )
        if not state.step_times:
            return
        state.flushed_t = state.t
        self._say(
            "steps",
            epoch=state.epoch,
            step=state.step,
            samples=self._samples(),
            step_time_s=state.step_times,
            wait_s=state.waits,
        )
        passes = state.step / self._steps_per_epoch
        self._metric(loss=round(0.05 + 2.25 * math.exp(-0.6 * passes), 5))
        state.step_times, state.waits = [], []

    def _metric(self, **values: float) -> None:
        self._say("metric", step=self.state.step, epoch=self.state.epoch, values=values)

    def _say(self, kind: str, *, everyone: bool = False, **data: Any) -> None:
        self._voice.say(self.state.t, kind, everyone=everyone, **data)


@cache
def _jitter_table(seed: int, sigma: float) -> tuple[float, ...]:
    source = random.Random(seed)  # noqa: S311  noise, not secrets
    return tuple(math.exp(source.gauss(0.0, sigma)) for _ in range(_JITTERS))
