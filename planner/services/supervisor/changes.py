"""Changing a running attempt: one change at a time, from the wish to what was measured.

The supervisor says what is wanted, through the control file; the job makes it so and says what is.
Nothing here is lost with this process: what was asked for is in the journal, and what was not done
when the attempt ends is part of the next launch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from planner.core.adjust import Adjustment, InForce
from planner.core.adjustrules import Verdict, offer_like
from planner.core.errors import PlannerError, StoreError
from planner.services.supervisor.attempt import Attempt
from planner.services.supervisor.book import LoopSettings, RunBook
from planner.services.supervisor.controlfile import ControlFile
from planner.services.supervisor.crew import TOO_LATE, Change, Joiners, Leavers, let_go
from planner.services.supervisor.heard import Said
from planner.services.supervisor.intervals import AutoInterval
from planner.services.supervisor.launcher import Launcher
from planner.services.supervisor.made import Made, downtime_s, made_of, told_at, unmet
from planner.services.supervisor.progress import Progress
from planner.services.supervisor.rates import Rates
from planner.services.supervisor.wishes import Wishes
from runners.base import Status, WorkerState


class Changes:
    """Makes the changes of one attempt.

    Args:
        now: What the attempt was started with.
        trials: Changes that its launch makes; done with its first step.

    Attributes:
        restart: Whether the attempt is to be ended in good order, for a change that needs it.
    """

    def __init__(
        self,
        *,
        book: RunBook,
        attempt: Attempt,
        launcher: Launcher,
        control: ControlFile,
        progress: Progress,
        settings: LoopSettings,
        wishes: Wishes,
        now: InForce,
        trials: Sequence[Adjustment],
    ) -> None:
        self._book = book
        self._attempt = attempt
        self._launcher = launcher
        self._control = control
        self._progress = progress
        self._settings = settings
        self._wishes = wishes
        self._clock = book.clock
        self.now = replace(now, crew=attempt.workers)
        self.trials = list(trials)
        self.restart = False
        self._levers: tuple[str, ...] | None = None
        self._told_levers = False
        self._change: Change | None = None
        self._rates = Rates(book, progress, settings, wishes)
        self._leavers = Leavers()
        self._interval = AutoInterval(book, control, progress)
        self._redone_steps = 0
        self._missing: tuple[int, ...] = ()
        self._looked_s = 0.0

    # ---- what the job says

    def take(self, said: Said) -> None:
        """Take in an event of any worker. Raises `StoreError`."""
        worker, event, leads = said
        kind = event.get("type")
        if kind == "attached" and worker == 0:
            levers = event.get("levers")
            self._levers = tuple(levers) if isinstance(levers, list) else ()
        elif kind == "ready" and self._change is not None and self._change.joiners is not None:
            self._change.joiners.ready.add(worker)
        elif kind == "left":
            self._leave([worker])
        elif kind == "adjusted":
            self._adjusted(event)
        elif kind == "adjust_refused" and leads:
            self._refused(event)
        elif kind == "steps" and leads and self.trials:
            self._confirm()

    def resumed(self, redone_steps: int) -> None:
        """The attempt goes on from its checkpoint, with so many steps to be done again."""
        self._redone_steps = redone_steps

    def levers_data(self) -> dict[str, Any]:
        """What the journal is told once: what the job can change, and who trains."""
        if self._told_levers or self._levers is None:
            return {}
        self._told_levers = True
        return {"levers": list(self._levers), "crew": list(self.now.crew)}

    def _confirm(self) -> None:
        """The first step of an attempt whose launch makes changes: they are done."""
        trials, self.trials = self.trials, []
        at, text = told_at(self._progress.first_step_t, self._clock.now()), ""
        redone = self._redone_steps * self._progress.global_batch
        for trial in trials:
            made = Made(
                reason="asked",
                how="relaunch",
                step=max(0, self._progress.step - self._progress.steps_seen),
                workers=self.now.workers,
                in_force=self.now,
                usd_per_h=self._book.meter.usd_per_h,
                downtime_s=downtime_s(self._book, trial, at),
                stall_s=self._progress.stall_s,
                redone_samples=redone,
                lost_samples=0,
            )
            text = made.text
            self._wishes.made(trial.id, made)
            if trial is not trials[-1] and trial.id is not None:
                self._wishes.measured(trial.id, text, {})
        self._rates.begin(trials[-1].id, text, self._progress.rate_before)

    # ---- one look

    def look(self, status: Status, now_s: float) -> None:
        """Carry on what is being changed, or begin with what waits. Raises `StoreError`."""
        let_go(self._book, self._attempt, self._leavers.due(status, now_s))
        self._rates.look(now_s)
        self.now = self._interval.look(self.now)
        if self._change is not None:
            self._carry_on(self._change, status, now_s)
        elif self._levers is not None and self._progress.steps_seen and not self.restart:
            tried = {trial.id for trial in self.trials}
            waiting = [c for c in self._wishes.pending if c.id is None or c.id not in tried]
            if self._missing:
                self._replace(now_s)
            elif waiting:
                self._begin(waiting[0], now_s)
        self._looked_s = now_s

    def may_recover(self, failed: Sequence[int]) -> bool:
        """Whether the others may go on without workers that ended."""
        alive = len(self._attempt.workers) - len(failed)
        return alive >= 1 and "workers" in (self._levers or ())

    def end(self) -> None:
        """The attempt is over: what was made is written down with what is known of it."""
        self._rates.close(None)

    # ---- beginning

    def _begin(self, request: Adjustment, now_s: float) -> None:
        """Take up what waits: refuse it, begin it, or ask for a relaunch."""
        if request.wish is None:
            return
        try:
            verdict = self._wishes.decide(request.wish, self.now, self._levers)
            self._require_price(verdict)
        except StoreError:
            raise
        except PlannerError as error:
            self._wishes.refuse(request, error)
            return
        if verdict.how == "nothing":
            self._wishes.settle(request, "done", verdict.what)
            return
        decision_id = self._wishes.apply(request, verdict)
        request = self._book.record.adjust.find(decision_id) or request
        if verdict.how == "relaunch":
            self.restart = True
        else:
            self._begin_in_flight(request, decision_id, verdict, now_s)

    def _require_price(self, verdict: Verdict) -> None:
        """Raise unless what will be held was agreed to and can be paid. Raises `PlannerError`."""
        if verdict.how == "nothing":
            return
        usd_per_h = verdict.target.price.usd_per_h
        if verdict.how == "in_flight" and verdict.moves:
            usd_per_h += self._attempt.usd_per_h  # both are held until the new ones have taken over
        self._wishes.require_room(usd_per_h, verdict.target.max_usd_per_h)

    def _begin_in_flight(
        self, request: Adjustment, decision_id: str, verdict: Verdict, now_s: float
    ) -> None:
        target, crew = verdict.target, self._crew
        more = target.workers if verdict.moves else target.workers - len(crew)
        kept = () if verdict.moves else crew[: target.workers]
        rate = self._progress.samples_per_s
        change = Change(
            id=decision_id, request=request, target=target, crew=None, joiners=None, rate=rate
        )
        if more > 0:
            self._grow(change, kept, more, now_s)
        else:
            change.crew = kept if len(kept) < len(crew) else None
            self._change = change
            self._want(change, now_s)

    def _grow(self, change: Change, kept: Sequence[int], more: int, now_s: float) -> None:
        """Start the workers that are to join; the change ends here when that cannot be done."""
        target = change.target
        try:
            offer = offer_like(self._wishes.facts(target, self._levers), more, target.resources)
            unit = self._launcher.grow(self._attempt, self.now, offer, len(kept) + more)
        except PlannerError as error:
            self._not_done(change, error.text)
            return
        change.joiners = Joiners(unit, now_s + self._settings.join_s)
        change.crew = (*kept, *unit.workers)
        self._change = change

    def _want(self, change: Change, now_s: float) -> None:
        """Say it to the job; what only planner has to know is done with that."""
        target = change.target
        change.wanted_s = now_s
        try:
            if target.knobs.checkpoint_interval_s != self.now.knobs.checkpoint_interval_s:
                self._control.set_interval(target.knobs.checkpoint_interval_s)
            wanted = change.wanted()
            if len(wanted) > 1:
                self._control.want(wanted)
        except StoreError as error:
            self._withdraw(change, f"the control file cannot be written: {error.text}")
            return
        if len(wanted) == 1:
            told = {"step": self._progress.step, "stall_s": 0.0}
            self._done(change, made_of(told, target, self._attempt, self._book, change.request))

    # ---- carrying on

    def _carry_on(self, change: Change, status: Status, now_s: float) -> None:
        joiners = change.joiners
        problem = joiners.problem(self._attempt, status, now_s) if joiners else None
        if problem is not None:
            self._withdraw(change, TOO_LATE if self._progress.complete else problem)
        elif change.wanted_s is None:
            if joiners is None or joiners.all_ready:
                self._want(change, now_s)
        elif self._progress.in_tail:
            change.wanted_s += now_s - self._looked_s  # nothing interrupts an evaluation
        elif now_s - change.wanted_s > self._settings.adjust_s:
            self._withdraw(change, "the job did not take it up in time")

    def _withdraw(self, change: Change, why: str) -> None:
        """Want nothing more, let go who was to join, and say why."""
        self._drop(change)
        self._not_done(change, why)

    def _drop(self, change: Change) -> None:
        self._change = None
        self._want_nothing()
        if change.joiners is not None:
            let_go(self._book, self._attempt, change.joiners.workers)

    def _not_done(self, change: Change, why: str) -> None:
        if change.request is not None:
            self._wishes.give_up([change.request], why)
            return
        self._book.measured(change.id, f"not done: {why}; the others go on without it")
        # It counts as one more that was lost, so that replacing it comes to an end.
        self._tell_lost(self._attempt.next_worker - 1, why)
        self._missing = (self._attempt.next_worker - 1,)

    def _refused(self, event: Mapping[str, Any]) -> None:
        change = self._change
        if change is not None and event.get("id") == change.id:
            self._withdraw(change, f"the job refused: {event.get('reason')}")

    # ---- what came of it

    def _adjusted(self, event: Mapping[str, Any]) -> None:
        change = self._change
        if event.get("reason") == "lost":
            self._lost(event)
        elif change is not None and event.get("id") == change.id:
            made = made_of(event, change.target, self._attempt, self._book, change.request)
            if unmet(change.wanted(), made.in_force, made.lost):
                self._told(event)
            else:
                self._done(change, made)
        else:
            self._told(event)

    def _told(self, event: Mapping[str, Any]) -> None:
        """What is in force, of a job that says so again or did only part of what is wanted."""
        self._take_in(None, made_of(event, self.now, self._attempt, self._book, None))

    def _done(self, change: Change, made: Made) -> None:
        self._change = None
        if change.request is not None:
            self._take_in(change.id, made)
        else:
            self._take_in(None, replace(made, reason="replaced"))
        if len(change.wanted()) > 1:
            self._want_nothing()
        self._rates.begin(change.id, made.text, change.rate)

    def _take_in(self, decision_id: str | None, made: Made) -> None:
        """Write down what is in force from now on, and who is no longer there."""
        for worker in made.lost:
            self._tell_lost(worker, self._why_ended(worker))
        before, self.now = self._crew, made.in_force
        self._wishes.made(decision_id, made)
        self._missing = made.lost or self._missing
        self._leave(set(before) - set(self._attempt.workers))
        self._progress.expect(self.now)

    def _want_nothing(self) -> None:
        try:
            self._control.want(None)
        except StoreError as error:
            self._book.warn("control.failed", f"the control file cannot be written: {error.text}")

    @property
    def _crew(self) -> tuple[int, ...]:
        return self.now.crew or self._attempt.workers

    def _leave(self, workers: Sequence[int] | set[int]) -> None:
        self._leavers.add(workers, self._clock.monotonic_s() + self._settings.leave_s)

    # ---- without a worker that was lost

    def _lost(self, event: Mapping[str, Any]) -> None:
        """The others went on by themselves: let go of what is left of it, and replace it."""
        if self._change is not None:
            self._drop(self._change)  # it waits until the crew is whole again
        made = made_of(event, self.now, self._attempt, self._book, None)
        self._take_in(None, made)
        let_go(self._book, self._attempt, made.lost)

    def _why_ended(self, worker: int) -> str:
        try:
            status = self._attempt.poll()
        except PlannerError as error:
            return error.text
        ended = tuple(w for w in status.workers if w.rank == worker)
        if not ended or ended[0].state not in (WorkerState.EXITED, WorkerState.LOST):
            return "the others lost it"
        return self._attempt.explain(Status(workers=ended), [worker])[0]

    def _tell_lost(self, worker: int, reason: str) -> None:
        data = {"attempt": self._attempt.folder.number, "worker": worker, "reason": reason}
        self._book.emit("run.worker_lost", data)

    def _replace(self, now_s: float) -> None:
        """Start workers in the place of those that were lost, or give that up and say so."""
        lost, self._missing = self._missing, ()
        more = self.now.workers - len(self._crew)
        if more <= 0:
            return
        limit, count = self._book.plan.retries, self._book.record.adjust.lost
        named = ", ".join(str(worker) for worker in lost)
        if count > limit:
            text = f"{count} workers lost since the last checkpoint, {limit} retries"
            self._go_on_with_less(f"worker {named} is not replaced: {text}")
            return
        decision = self._book.decide(
            f"replace worker {named}",
            "it was lost; the others went on",
            expected=f"{self.now.workers} workers again",
            observation={"lost_since_checkpoint": float(count), "retries": float(limit)},
            alternatives=(("go on without it", None, "slower"),),
        )
        change = Change(
            id=decision,
            request=None,
            target=self.now,
            crew=None,
            joiners=None,
            rate=self._progress.samples_per_s,
        )
        self._grow(change, self._crew, more, now_s)

    def _go_on_with_less(self, text: str) -> None:
        """The workers that are left are what is wanted from now on."""
        self._book.warn("worker.not_replaced", text)
        try:
            facts = self._wishes.facts(self.now, self._levers)
            offer = offer_like(facts, len(self._crew), self.now.resources)
        except PlannerError:
            return  # the next attempt tries with all of them
        self.now = replace(self.now, resources=offer.resources, price=offer.price)
        made = Made(
            reason="lost",
            how="in_flight",
            step=self._progress.step,
            workers=len(self._crew),
            in_force=self.now,
            usd_per_h=self._book.meter.usd_per_h,
        )
        self._wishes.made(None, made)
