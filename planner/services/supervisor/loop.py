"""The life of a run: attempts, requests, stops, and the end. Clock and runner are passed in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from planner.core.adjust import Adjustment, InForce
from planner.core.clock import Clock
from planner.core.errors import PlannerError, StoreError
from planner.core.events import EventType
from planner.core.lifecycle import MOVES
from planner.core.plan import Plan
from planner.core.types import RunState
from planner.core.units import format_duration, format_money
from planner.services.runs import commands
from planner.services.runs.commands import Command
from planner.services.runs.report import build_report
from planner.services.supervisor.adopt import adopt
from planner.services.supervisor.attempt import Attempt
from planner.services.supervisor.book import LoopSettings, RunBook
from planner.services.supervisor.changes import Changes
from planner.services.supervisor.controlfile import ControlFile
from planner.services.supervisor.guards import Guards
from planner.services.supervisor.launcher import Launcher, Stage
from planner.services.supervisor.outcome import TARGETS, Outcome, Stop, StopReason
from planner.services.supervisor.progress import Progress
from planner.services.supervisor.units import release
from planner.services.supervisor.watch import Watch
from planner.services.supervisor.wishes import Wishes
from planner.store.codec import datetime_text
from planner.store.files import json_line, write_atomic
from planner.store.journal import Journal
from planner.store.layout import RunDir
from runners.base import Runner
from runners.registry import get_runner

_MOST_IDLE_ATTEMPTS = 2
"""So many attempts in a row without a single step, and the run has failed."""


class RunLoop:
    """Carries one run to its end, or until it is paused. The only writer of its journal.

    Args:
        run: The run's folder, whose lock the caller holds.
        plan: What was agreed to.
        runner: Where it runs.
        journal: The run's journal.
        clock: Time; a fake one replays hours in a moment.
        stage: Puts the SDK into the run's folder.
        crowding: Says what is to be told of other runs on the same cores, if anything.
    """

    def __init__(
        self,
        *,
        run: RunDir,
        plan: Plan,
        runner: Runner,
        journal: Journal,
        clock: Clock,
        stage: Stage,
        settings: LoopSettings | None = None,
        crowding: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._settings = settings or LoopSettings()
        self._runner = runner
        self._runners = {plan.option.resources.runner: runner}
        self._clock = clock
        self._crowding = crowding
        self.book = RunBook(run=run, plan=plan, journal=journal, clock=clock)
        self._control = ControlFile(run.control, plan.option.knobs.checkpoint_interval_s)
        self._launcher = Launcher(self.book, self._runner_of, self._control, self._settings, stage)
        self._progress = Progress(plan)
        self._guards = Guards(self.book, self._progress, self._settings)
        self._wishes = Wishes(self.book, self._runner_of, self._launcher, self._guards)
        self._trials: list[Adjustment] = []
        self._attempt: Attempt | None = None
        self._stop: Stop | None = None
        self._signalled = False
        self._failures = 0
        self._idle_attempts = 0
        self._kept_step = 0
        self._relaunch_decision: str | None = None
        self._worked = False

    def ask_to_stop(self) -> None:
        """Stop with a checkpoint and release: what SIGTERM to the supervisor means."""
        self._signalled = True

    def run(self) -> RunState:
        """Work on the run until it rests; the state it rests in.

        Raises:
            StoreError: The journal cannot be written; everything was released all the same.
        """
        try:
            adopt(self.book, self._runner_of, self._control, self._settings)
            self._wishes.catch_up()
            self._obey()
            while not self._over():
                if self._stop is not None:
                    self._rest_without_workers(self._stop)
                else:
                    self._conclude(self._one_attempt())
        except BaseException as error:
            self._abort(error)
            raise
        self._write_report()
        return self.book.state

    def _over(self) -> bool:
        """Whether the run rests; one that is to be continued does so only after its attempts."""
        state = self.book.state
        if state in (RunState.DONE, RunState.CANCELLED):
            return True
        return self.book.record.ended and self._worked

    # ---- attempts

    def _one_attempt(self) -> Outcome:
        book = self.book
        number = book.record.attempt + 1
        book.move(RunState.PROVISIONING, "run.provisioning", attempt=number)
        book.journal.require_written()
        self._worked = True
        crowded = self._crowding()
        if crowded is not None:
            book.warn("machine.crowded", crowded)
        kept = book.record.checkpoint
        self._kept_step = kept.step if kept else 0
        now, self._trials = self._wishes.merged(book.in_force)
        record = book.record
        self._progress.new_attempt(step=record.step, samples=record.samples, epoch=record.epoch)
        self._progress.expect(now)
        try:
            price = self._launcher.price(now)
            if not self._guards.affords(price.usd_per_h):
                self._ask_stop("budget")
                return Outcome(kind="stopped", reason="the cap leaves no room for a clean stop")
            attempt = self._attempt = self._launcher.launch(
                number, now, price, self._progress.expected_tail_s
            )
        except PlannerError as error:
            hint = f" ({error.hint})" if error.hint else ""
            return Outcome(kind="refused", reason=f"{error.text}{hint}")
        book.move(RunState.RUNNING, "run.started", attempt=number, workers=now.workers)
        return self._watched(attempt, now)

    def _watched(self, attempt: Attempt, now: InForce) -> Outcome:
        """Watch the attempt until no worker is left, and release everything."""
        changes = Changes(
            book=self.book,
            attempt=attempt,
            launcher=self._launcher,
            control=self._control,
            progress=self._progress,
            settings=self._settings,
            wishes=self._wishes,
            now=now,
            trials=self._trials,
        )
        decision, self._relaunch_decision = self._relaunch_decision, None
        watch = Watch(
            book=self.book,
            attempt=attempt,
            progress=self._progress,
            guards=self._guards,
            control=self._control,
            settings=self._settings,
            changes=changes,
            obey=self._obey,
            stop=lambda: self._stop,
            ask_stop=self._ask_stop,
            relaunch_decision=decision,
        )
        outcome = watch.run()
        self._trials = changes.trials
        self._release(watch.times_s)
        return outcome

    def _runner_of(self, name: str) -> Runner:
        """A runner by its name: that of the plan is the one that was passed in."""
        if name not in self._runners:
            self._runners[name] = get_runner(name)
        return self._runners[name]

    def _release(self, times_s: Callable[[], dict[str, float]]) -> None:
        attempt = self._attempt
        if attempt is None:
            return
        self._attempt = None
        for unit in attempt.units:
            release(self.book, unit)
        times = times_s()
        held_s = self.book.meter.release(self._clock.monotonic_s())
        self.book.emit(
            "resource.released",
            {
                "attempt": attempt.folder.number,
                "held_s": round(held_s, 3),
                "spent_microusd": self.book.spent_microusd(),
                "times_s": times,
            },
        )

    # ---- what becomes of it

    def _conclude(self, outcome: Outcome) -> None:
        if outcome.kind == "finished":
            self._end(RunState.DONE, outcome)
        elif self._stop is not None:
            self._end(TARGETS[self._stop.reason], outcome)
        elif outcome.kind == "adjusting":
            self._start_anew("adjusted", outcome)
        elif self._trials:
            # What was changed kept it from its first step: it starts again as it was.
            self._wishes.give_up(self._trials, outcome.reason)
            self._trials = []
            self._start_anew("adjusted", outcome)
        elif outcome.kind == "refused":
            self._end(RunState.FAILED, outcome)
        else:
            self._after_failure(outcome)

    def _start_anew(self, cause: str, outcome: Outcome) -> None:
        """Between two attempts. Nothing was wrong with the first where it made way for a change."""
        self.book.move(
            RunState.INTERRUPTED,
            "run.interrupted",
            attempt=self.book.record.attempt,
            reason=outcome.reason,
            cause=cause,
            exit_codes=list(outcome.exit_codes),
            log=list(outcome.log),
        )

    def _after_failure(self, outcome: Outcome) -> None:
        """Start again from the last checkpoint, or give up."""
        self._idle_attempts = 0 if outcome.progressed else self._idle_attempts + 1
        checkpoint = self.book.record.checkpoint
        step = checkpoint.step if checkpoint else 0
        # Leaving to be run again is free only for what was kept meanwhile: else it never ends.
        self._failures += outcome.kind != "yielded" or step <= self._kept_step
        retries = self.book.plan.retries
        given_up = ""
        if self._failures > retries:
            given_up = f"{retries} retries are used up"
        elif self._idle_attempts >= _MOST_IDLE_ATTEMPTS:
            given_up = "not one step in two attempts"
        observation: dict[str, float | str | None] = {
            "cause": outcome.kind,
            "failures": float(self._failures),
            "retries": float(retries),
            "checkpoint_step": float(step),
        }
        if given_up:
            self.book.decide(
                "give up",
                f"{outcome.reason}; {given_up}",
                observation=observation,
                alternatives=(("start again", None, given_up),),
            )
            self._end(RunState.FAILED, outcome)
            return
        self._start_anew(outcome.kind, outcome)
        self._relaunch_decision = self.book.decide(
            f"start again from step {step}",
            outcome.reason,
            expected=f"{max(0, self.book.record.step - step)} steps again",
            observation=observation,
            alternatives=(("give up", None, f"{retries - self._failures} retries left"),),
        )
        self._clock.sleep(self._settings.relaunch_s)
        self._obey()

    def _rest_without_workers(self, stop: Stop) -> None:
        """A stop while nothing is held: there is nobody to tell."""
        target, book = TARGETS[stop.reason], self.book
        if target not in MOVES[book.state]:
            if book.state is not RunState.PROVISIONING:
                book.move(RunState.PROVISIONING, "run.provisioning", attempt=book.record.attempt)
            book.move(RunState.STOPPING, "run.stopping", reason=stop.reason, now=stop.now)
        self._end(target, Outcome(kind="stopped", reason="nothing was running"))

    def _end(self, state: RunState, outcome: Outcome) -> None:
        book = self.book
        self._worked = True
        kind: EventType = "run.paused" if state is RunState.PAUSED else "run.finished"
        now = self._clock.now()
        data: dict[str, Any] = {
            "reason": None if state is RunState.DONE else outcome.reason,
            "exit_codes": list(outcome.exit_codes),
            "log": list(outcome.log) if state is RunState.FAILED else [],
            "spent_microusd": book.spent_microusd(),
            "step": book.record.step,
            "progress": 1.0 if state is RunState.DONE else book.record.progress,
            "total_s": book.record.total_s(now),
        }
        if state in (RunState.DONE, RunState.CANCELLED):
            self._wishes.end()
        book.move(state, kind, **data)

    def _abort(self, error: BaseException) -> None:
        """Something that should not happen did: leave nothing running, and say what it was."""
        try:
            self._release(dict)
        except Exception as second:
            self.book.emit("resource.leaked", {"text": f"could not be released: {second!r}"})
        if self.book.record.ended:
            return
        reason = error.text if isinstance(error, PlannerError) else f"planner failed: {error!r}"
        self._end(RunState.FAILED, Outcome(kind="crashed", reason=reason))

    def _write_report(self) -> None:
        report = build_report(self.book.plan, self.book.record, self._clock.now())
        try:
            write_atomic(self.book.run.report, json_line(report))
        except StoreError as error:
            self.book.warn("report.failed", f"the report could not be written: {error.text}")

    # ---- requests

    def _ask_stop(self, reason: StopReason, *, now: bool = False) -> None:
        """Begin to stop, or make a stop that has begun stricter."""
        before = self._stop
        if before is None:
            self._stop = Stop(reason=reason, now=now)
        else:
            before.now = before.now or now
            before.reason = reason if reason in ("cancel", "budget") else before.reason
        if self.book.state in (RunState.RUNNING, RunState.PROVISIONING):
            self.book.move(RunState.STOPPING, "run.stopping", reason=reason, now=now)

    def _obey(self) -> None:
        """Carry out whatever was asked of this run since the last look."""
        if self._signalled and self._stop is None:
            self._ask_stop("supervisor")
        for path, command in commands.pending(self.book.run.commands):
            if command is None:
                self.book.warn("command.damaged", f"a request could not be read: {path.name}")
            elif command.id not in self.book.record.command_ids:
                self._carry_out(command)
            path.unlink(missing_ok=True)

    def _carry_out(self, command: Command) -> None:
        received = {"id": command.id, "action": command.action, **command.values}
        self.book.emit("command.received", received)
        if command.action == "pause":
            self._ask_stop("pause")
        elif command.action == "cancel":
            self._ask_stop("cancel", now=bool(command.values.get("now")))
        elif command.action == "checkpoint":
            self._ask_checkpoint()
        elif command.action == "extend":
            extend(self.book, command)
            self._guards.extended()

    def _ask_checkpoint(self) -> None:
        try:
            self._control.ask_checkpoint()
        except StoreError as error:
            self.book.warn("control.failed", f"a checkpoint cannot be asked for: {error.text}")


def extend(book: RunBook, command: Command) -> None:
    """Raise the cap or the deadline: written down as a decision, with what it changed."""
    effects: dict[str, Any] = {}
    parts: list[str] = []
    record, values = book.record, command.values
    more_s, more_usd = values.get("deadline_s"), values.get("budget_usd")
    if isinstance(more_usd, int | float) and record.budget_microusd is not None:
        effects["budget_microusd"] = record.budget_microusd + round(more_usd * 1e6)
        parts.append(f"cap +{format_money(more_usd)}")
    if isinstance(more_s, int | float) and record.deadline_at is not None:
        at: datetime = record.deadline_at + timedelta(seconds=more_s)
        effects["deadline_at"] = datetime_text(at)
        parts.append(f"deadline +{format_duration(more_s)}")
    action = f"extend: {', '.join(parts)}" if parts else "extend: nothing to extend"
    book.decide(action, "asked for", mode="manual", **effects)
