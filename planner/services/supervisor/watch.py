"""Watching one attempt from its launch until its last worker has left."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from planner.core.errors import CleanupError, RunnerError, StoreError
from planner.core.redact import redact
from planner.services.supervisor.attempt import Attempt, failed_workers, left_to_run_again
from planner.services.supervisor.book import LoopSettings, RunBook
from planner.services.supervisor.changes import Changes
from planner.services.supervisor.controlfile import ControlFile
from planner.services.supervisor.guards import Guards
from planner.services.supervisor.outcome import Outcome, Stop, StopReason, judge
from planner.services.supervisor.progress import Progress
from planner.services.supervisor.rules import HangGuard
from planner.services.supervisor.sayings import checkpoint_data, mean_of, rounded
from runners.base import Measurement, Signal, Status

_NO_LIFE = ("memory", "control")
"""Events that a thread of the SDK sends also while the training loop stands still."""
_BUSY_CPU = _BUSY_GPU = 0.05
_BUSY_LAST_S = 30.0
"""So long after it was last seen computing, a worker counts as computing still."""
_PATIENCE = 6
"""So many times the timeout of a hang may an evaluation be silent while its workers compute."""
_SLOW_AFTER_S = 600.0
_MEASURE_SHARE = 0.004
"""Part of the supervisor's time that measuring may take."""


class Watch:
    """Looks at one attempt again and again. The run's loop owns it, and tells it to stop.

    Args:
        obey: Carries out waiting requests; called at every look.
        stop: The stop asked for, if any; looked at after `obey`.
    """

    def __init__(
        self,
        *,
        book: RunBook,
        attempt: Attempt,
        progress: Progress,
        guards: Guards,
        control: ControlFile,
        settings: LoopSettings,
        changes: Changes,
        obey: Callable[[], None],
        stop: Callable[[], Stop | None],
        ask_stop: Callable[[StopReason], None],
        relaunch_decision: str | None,
    ) -> None:
        self._book = book
        self._attempt = attempt
        self._changes = changes
        self._restart: Stop | None = None
        self._progress = progress
        self._guards = guards
        self._control = control
        self._settings = settings
        self._obey = obey
        self._stop = stop
        self._ask_stop = ask_stop
        self._relaunch_decision = relaunch_decision
        self._clock = book.clock
        self._hang = HangGuard(timeout_s=book.plan.job.hang_timeout_s, start_s=settings.start_s)
        now_s = self._clock.monotonic_s()
        self._hang.started(now_s)
        self._progress_due_s = now_s + settings.progress_s
        self._measure_due_s = self._guard_due_s = now_s
        self._failed_s: float | None = None
        self._first_failed: list[int] = []
        self._killed_rest = False
        self._silent_runner_s: float | None = None
        self._first_step_s: float | None = None
        self._hung_after_s: float | None = None
        self._leave_from_s: float | None = None
        self._busy_s = now_s
        shape = changes.now.resources
        # One thread is enough to be busy, however many cores its worker was given.
        self._busy_cpu = min(_BUSY_CPU, 0.25 * shape.workers_per_node / (shape.vcpus_per_node or 1))
        self._output_bytes = 0
        self._told_odd = False
        self._measured: list[Measurement] = []
        self._metrics: dict[tuple[str, ...], dict[str, Any]] = {}

    def run(self) -> Outcome:
        """Look until no worker is left. Raises `StoreError`."""
        status = Status(workers=())
        while True:
            self._read()
            try:
                status = self._attempt.poll()
                self._silent_runner_s = None
                if not self._attempt.own(status).running:
                    # A worker that leaves says so first: those that take over go on without it.
                    self._read()
                    if not self._attempt.own(status).running:
                        break
                self._tick(status)
            except (RunnerError, CleanupError) as error:
                if self._unreachable():
                    return self._lost(error.text)
            self._clock.sleep(self._settings.poll_s)
        self._read(last=True)
        self._journal_progress()
        self._changes.end()
        own = self._attempt.own(status)
        failed = [] if self._killed_rest else failed_workers(own)
        outcome = judge(
            self._attempt,
            own,
            self._progress,
            stop=self._stop() or self._restart,
            hung_after_s=self._hung_after_s,
            first_failed=self._first_failed or failed,
            checkpoint=self._book.record.checkpoint,
        )
        restarted = outcome.kind == "stopped" and self._stop() is None
        return replace(outcome, kind="adjusting") if restarted else outcome

    def _lost(self, text: str) -> Outcome:
        return Outcome(
            kind="lost",
            reason=f"the runner does not answer: {text}",
            progressed=self._progress.steps_seen > 0,
        )

    def times_s(self) -> dict[str, float]:
        """Where the attempt's time went, by name; the names add up to its whole time."""
        now_s = self._clock.monotonic_s()
        whole_s = now_s - self._attempt.launched_s
        times = dict(self._progress.times_s)
        times["start"] = (self._first_step_s or now_s) - self._attempt.launched_s
        stop = self._stop() or self._restart
        if stop is not None and stop.since_s is not None:
            times["stopping"] = now_s - stop.since_s
        times["other"] = max(0.0, whole_s - sum(times.values()))
        return {name: round(seconds, 3) for name, seconds in times.items()}

    # ---- one look

    def _tick(self, status: Status) -> None:
        now_s = self._clock.monotonic_s()
        self._obey()
        if now_s >= self._measure_due_s:
            self._measure(now_s)
        self._watch_failures(status, now_s)
        if self._stop() is None and self._guards.stop_now():
            self._ask_stop("budget")
        if now_s >= self._guard_due_s:
            self._guard_due_s = now_s + self._settings.guard_s
            self._guards.look()
        stop = self._stop()
        if stop is None:
            self._changes.look(status, now_s)
            if self._changes.restart and self._restart is None:
                self._restart = Stop(reason="adjust")
        stop = stop or self._restart
        if stop is not None:
            self._carry_out(stop, now_s)
        elif (
            self._hung_after_s is None
            and self._hang.hangs(now_s, self._progress.longest_tail_s)
            and not self._evaluates(now_s)
        ):
            self._kill_hung(now_s)
        if now_s >= self._progress_due_s:
            self._journal_progress()

    def _unreachable(self) -> bool:
        """Whether the runner has been silent for too long to go on waiting for it."""
        now_s = self._clock.monotonic_s()
        if self._silent_runner_s is None:
            self._silent_runner_s = now_s
        return now_s - self._silent_runner_s > self._settings.unreachable_s

    def _measure(self, now_s: float) -> None:
        self._measured = self._attempt.measure()
        took_s = self._clock.monotonic_s() - now_s
        self._measure_due_s = now_s + max(self._settings.measure_s, took_s / _MEASURE_SHARE)
        busy = any(
            (m.cpu_fraction or 0.0) > self._busy_cpu or (m.gpu_utilisation or 0.0) > _BUSY_GPU
            for m in self._measured
        )
        if busy:
            self._busy_s = now_s
        if self._progress.attached:
            return
        # Nothing is heard of the job yet: printing and computing are signs of life.
        size = self._attempt.output_bytes()
        if size > self._output_bytes or busy:
            self._output_bytes = size
            self._hang.alive(now_s, stepped=False)

    def _evaluates(self, now_s: float) -> bool:
        """Whether the silence may well be that of an epoch's evaluation, which says nothing.

        How long the first one takes nobody knows: as long as the workers compute they are given
        a generous time, and one that idles only what any silence gets.
        """
        silent_s = self._hang.silent_s(now_s)
        if not self._progress.in_tail:
            return False
        if silent_s <= 2 * self._progress.longest_tail_s:
            return True
        timeout_s = self._hang.timeout_s
        busy = now_s - self._busy_s <= min(timeout_s, _BUSY_LAST_S)
        return silent_s <= timeout_s or (busy and silent_s <= _PATIENCE * timeout_s)

    def _watch_failures(self, status: Status, now_s: float) -> None:
        """A worker that died or left takes the others along, unless they go on without it."""
        status = self._attempt.own(status)
        failed = failed_workers(status)
        if not failed and not left_to_run_again(status):
            self._failed_s = None
            self._first_failed = []
            return
        if self._failed_s is None:
            self._failed_s = now_s
            self._first_failed = failed
        grace_s = self._settings.crash_grace_s if failed else self._settings.stop_grace_s
        if failed and self._changes.may_recover(failed):
            grace_s = max(grace_s, self._settings.recover_s)
        if now_s - self._failed_s >= grace_s and not self._killed_rest:
            self._killed_rest = True
            self._attempt.signal(Signal.KILL)

    def _kill_hung(self, now_s: float) -> None:
        silent_s = self._hung_after_s = self._hang.silent_s(now_s)
        text = f"no step for {silent_s:.0f} s"
        self._book.decide(
            "kill a run that hangs",
            text,
            expected="goes on from the last checkpoint",
            observation={"silent_s": silent_s, "hang_timeout_s": self._hang.timeout_s},
            alternatives=(("wait longer", None, "longer than any pause seen so far"),),
        )
        self._attempt.signal(Signal.KILL)

    # ---- stopping

    def _carry_out(self, stop: Stop, now_s: float) -> None:
        if stop.since_s is None:
            stop.since_s = now_s
            if not stop.now:
                self._write_stop()
                self._attempt.signal(Signal.STOP)
        if self._leave_from_s is None or self._evaluates(now_s):
            self._leave_from_s = now_s  # nobody can leave in the middle of an evaluation
        grace_s = self._settings.stop_grace_s + 3 * self._progress.stop_s(0.0)
        if stop.now or now_s - self._leave_from_s > grace_s or self._guards.out_of_money():
            stop.forced = True
            self._attempt.signal(Signal.KILL)

    def _write_stop(self) -> None:
        try:
            self._control.ask_stop()
        except StoreError as error:
            # The signal says the same; a full disk must not keep a run from being stopped.
            self._book.warn("control.failed", f"the control file cannot be written: {error.text}")

    # ---- what it looks like

    def _journal_progress(self) -> None:
        now_s = self._clock.monotonic_s()
        slow = now_s - self._attempt.launched_s > _SLOW_AFTER_S
        pause_s = self._settings.slow_progress_s if slow else self._settings.progress_s
        self._progress_due_s = now_s + pause_s
        for values in self._metrics.values():
            self._book.emit("run.metric", values)
        self._metrics.clear()
        self._book.emit("run.progress", self._progress_data())

    def _progress_data(self) -> dict[str, Any]:
        progress, remaining = self._progress, self._progress.remaining()
        quantiles = remaining.run_s.quantiles if remaining else None
        return {
            "attempt": self._attempt.folder.number,
            "step": progress.step,
            "steps_total": progress.steps_total,
            "epoch": progress.epoch,
            "epochs": progress.epochs,
            "samples": progress.samples,
            "progress": round(progress.fraction, 5),
            "samples_per_s": rounded(progress.samples_per_s),
            "loader_wait": rounded(progress.loader_wait),
            "spent_microusd": self._book.spent_microusd(),
            "usd_per_h": self._book.meter.usd_per_h,
            "eta_s": [round(q, 2) for q in quantiles] if quantiles else None,
            "p_deadline": rounded(self._guards.p_deadline),
            "p_budget": rounded(self._guards.p_budget),
            "peak_memory_bytes": progress.peak_memory_bytes,
            **self._measured_data(),
            **self._changes.levers_data(),
        }

    def _measured_data(self) -> dict[str, Any]:
        memory = [m.gpu_memory_bytes or m.rss_bytes or 0 for m in self._measured]
        return {
            "cpu": mean_of([m.cpu_fraction for m in self._measured]),
            "gpu": mean_of([m.gpu_utilisation for m in self._measured]),
            "memory_bytes": max(memory, default=0) or None,
        }

    # ---- what the job says

    def _read(self, *, last: bool = False) -> None:
        # First, so that what was printed before an event stands before it in the log.
        self._attempt.note_output(self._clock.now(), last=last)
        garbage = self._attempt.garbage
        for said in self._attempt.said():
            worker, event, leads = said
            kind = event.get("type")
            if kind == "memory":
                self._progress.take_memory(event)
            self._attempt.hear(said)
            if kind not in _NO_LIFE and worker in self._attempt.workers:
                stepped = kind in ("steps", "epoch", "checkpoint")
                self._hang.alive(self._clock.monotonic_s(), stepped=stepped)
            if leads:
                self._take(str(kind), event)
            self._changes.take(said)
        if self._attempt.garbage > garbage == 0:
            self._book.warn("events.garbage", "the job's event file holds lines that are no events")

    def _take(self, kind: str, event: Mapping[str, Any]) -> None:
        self._progress.take(event)
        if kind == "attached":
            self._attached(event)
        elif kind == "steps" and self._first_step_s is None:
            self._first_step_s = self._began_s(event)
            self._progress.start_s = self._first_step_s - self._attempt.launched_s
        elif kind == "metric" and isinstance(event.get("values"), Mapping):
            values = self._finite(event["values"])
            line = {"step": event.get("step"), "epoch": event.get("epoch"), "values": values}
            self._metrics[tuple(sorted(values))] = line
        elif kind == "checkpoint":
            self._book.emit("run.checkpoint", checkpoint_data(event, self._attempt.folder.number))
        elif kind == "checkpoint_failed":
            error = redact(str(event.get("error")))
            text = f"a checkpoint at step {event.get('step')} could not be written: {error}"
            self._book.warn("checkpoint.failed", f"{text}; the one before is kept")

    def _began_s(self, event: Mapping[str, Any]) -> float:
        """When the first step of a `steps` event began, on this process's clock."""
        attempt, now_s = self._attempt, self._clock.monotonic_s()
        said, times = event.get("t"), event.get("step_time_s")
        spent_s = sum(t for t in times if isinstance(t, float)) if isinstance(times, list) else 0.0
        at_s = now_s
        if isinstance(said, int | float):
            at_s = attempt.launched_s + float(said) - attempt.launched_at.timestamp()
        # The workers' clock may be another machine's: it is believed within what can be.
        return max(attempt.launched_s, min(at_s, now_s) - spent_s)

    def _finite(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Numbers that are numbers; the first one that is not is told of: training may diverge.

        JSON has no word for those: the SDK writes null.
        """
        numbers = {
            key: math.nan if value is None else float(value)
            for key, value in values.items()
            if value is None or isinstance(value, int | float)
        }
        odd = sorted(key for key, value in numbers.items() if not math.isfinite(value))
        if odd and not self._told_odd:
            self._told_odd = True
            text = f"{', '.join(odd)} is not a finite number at step {self._progress.step}"
            self._book.warn("metric.not_finite", text)
        return {key: value for key, value in numbers.items() if math.isfinite(value)}

    def _attached(self, event: Mapping[str, Any]) -> None:
        if self._attempt.folder.number == 1:
            return
        resumed = event.get("resumed")
        path = resumed.get("path") if isinstance(resumed, Mapping) else None
        before = self._book.record.reached_step
        self._changes.resumed(max(0, before - self._progress.step))
        self._book.emit(
            "run.resumed",
            {
                "attempt": self._attempt.folder.number,
                "step": self._progress.step,
                "epoch": self._progress.epoch,
                "path": path,
            },
        )
        if self._relaunch_decision is not None:
            redone = max(0, before - self._progress.step)
            took_s = self._clock.monotonic_s() - self._attempt.launched_s
            text = f"back at step {self._progress.step} in {took_s:.0f} s, {redone} steps again"
            self._book.measured(self._relaunch_decision, text)
            self._relaunch_decision = None
