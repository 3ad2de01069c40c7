"""The application on a recording: the same calls, no GPU, no cloud, no processes, a minute.

Probing replays the results of the recorded probes. A launch replays the recorded run's journal
with its times moved to now; what the screens show of it is folded from the journal by the same
code as in a live session. Only pause, stop, extend and changes are made up, as nobody asked then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from planner.core.adjust import Expectation, Wish
from planner.core.clock import Clock, SystemClock
from planner.core.errors import NotFoundError, TransitionError, UsageError
from planner.core.events import Event, EventSink, EventType
from planner.core.job import Goal, JobSpec
from planner.core.plan import Decision
from planner.core.types import (
    TERMINAL_STATES,
    EstimateResult,
    ProbeResult,
    ResourceConfig,
    RunState,
)
from planner.core.units import format_duration, format_money
from planner.demo.play import Play, microusd, probe_progress, recorded_text
from planner.demo.recording import RecordedRun, Recording, read_recording
from planner.services.api import (
    Cancel,
    Check,
    Comparison,
    EstimateRequest,
    LaunchRequest,
    LogLine,
    LogPage,
    ProbePlan,
    RunSummary,
    RunView,
)
from planner.services.demoshelf import ShelfOf
from planner.store.codec import datetime_text, to_json
from planner.store.record import RunRecord
from runners.base import Leftover

PROBES_TAKE_S = 14.0
"""Real time in which all probes are replayed."""
RUN_TAKES_S = 32.0
"""Real time in which the run is replayed."""
_TICK_S = 0.25
_RESTING = frozenset({*TERMINAL_STATES, RunState.PAUSED})


class DemoServices:
    """`Services` on a recording. Nothing is ever started, bought or written."""

    def __init__(
        self,
        recording: Recording | None = None,
        clock: Clock | None = None,
        *,
        probes_take_s: float = PROBES_TAKE_S,
        run_takes_s: float = RUN_TAKES_S,
    ) -> None:
        self.recording = recording or read_recording()
        self._clock = clock or SystemClock()
        self._probes_take_s, self._run_takes_s = probes_take_s, run_takes_s
        self._plays: dict[str, Play] = {}
        self._estimate: EstimateResult | None = None
        self._past = [self._as_past(run, n) for n, run in enumerate(self.recording.runs[1:], 1)]

    @property
    def job(self) -> JobSpec:
        """The recorded job, for the form; its deadline counts from now on."""
        job = self.recording.job
        return replace(job, goal=replace(job.goal, deadline_at=None))

    # ---- plan ------------------------------------------------------------------------------

    def plan_probes(self, request: EstimateRequest) -> ProbePlan:
        """The recorded probes; all of them reused once they were played."""
        probes = self._measured()
        if self._estimate is not None and not request.fresh:
            return ProbePlan(to_run=(), reused=probes, expected_s=0.0, max_cost_usd=0.0)
        return ProbePlan(
            to_run=tuple(probe.id for probe in probes),
            reused=(),
            expected_s=sum(probe.wall_s for probe in probes),
            max_cost_usd=request.max_probe_cost_usd or request.job.probe.max_cost_usd,
        )

    def estimate(
        self, request: EstimateRequest, on_event: EventSink, cancel: Cancel | None = None
    ) -> EstimateResult:
        """Replay the probes, unless they were before; then the recorded estimate."""
        plan = self.plan_probes(request)
        if request.probe and plan.to_run:
            self._replay_probes(on_event, cancel)
        self._estimate = self.rescore(
            replace(self.recording.estimate, created_at=self._clock.now()), request.goal
        )
        return self._estimate

    def _measured(self) -> tuple[ProbeResult, ...]:
        return self.recording.estimate.probes

    def _replay_probes(self, on_event: EventSink, cancel: Cancel | None) -> None:
        probes = self._measured()
        speed = max(sum(p.wall_s for p in probes) / self._probes_take_s, 1e-6)
        for index, probe in enumerate(probes, 1):
            named = {"id": probe.id, "index": index}
            shape = {"resources": to_json(probe.resources), "knobs": to_json(probe.knobs)}
            on_event("probe.queued", {**named, **shape})
        for index, probe in enumerate(probes, 1):
            named = {"id": probe.id, "index": index}
            if self._replay_probe(probe, named, speed, on_event, cancel):
                result = probe
            else:
                result = replace(probe, state="skipped", error="stopped by you", step_time_s=())
            on_event("probe.finished", {**named, "probe": to_json(result)})

    def _replay_probe(
        self,
        probe: ProbeResult,
        named: Mapping[str, Any],
        speed: float,
        on_event: EventSink,
        cancel: Cancel | None,
    ) -> bool:
        total = probe.steps + probe.warmup_steps
        if cancel is not None and cancel.is_set():
            return False
        on_event("probe.started", {**named, "steps_total": total})
        elapsed_s = 0.0
        while elapsed_s < probe.wall_s:
            if cancel is not None and cancel.is_set():
                return False
            on_event("probe.progress", {**named, **probe_progress(probe, elapsed_s, total)})
            self._clock.sleep(_TICK_S)
            elapsed_s += _TICK_S * speed
        return True

    def resources(self, job: JobSpec) -> tuple[ResourceConfig, ...]:
        """What the recorded machine offered."""
        return tuple(dict.fromkeys(o.resources for o in self.recording.estimate.options))

    def latest_estimate(self, job: JobSpec | None = None) -> EstimateResult | None:
        """The estimate of this session; None before the probes were played."""
        return self._estimate

    def load_estimate(self, estimate_id: str) -> EstimateResult:
        """The recorded estimate, under its own id."""
        if estimate_id != self.recording.estimate.id:
            raise NotFoundError(
                f"the demo has no estimate {estimate_id}",
                hint=f"it has {self.recording.estimate.id}",
            )
        return self._estimate or self.recording.estimate

    def rescore(self, estimate: EstimateResult, goal: Goal) -> EstimateResult:
        """The real thing: the same scoring as in a live session."""
        from planner.core.options import rescored

        return rescored(estimate, goal, self._clock.now())

    # ---- run -------------------------------------------------------------------------------

    def launch(self, request: LaunchRequest) -> str:
        """Play the recorded run. Only the option that was run then can be launched."""
        recorded = self.recording.runs[0]
        wanted = recorded.plan.option.id
        if request.option_id != wanted:
            option = request.estimate.option(wanted)
            place = f"option {option.rank} of the table" if option else f"option {wanted}"
            raise UsageError(
                "the demo has no recording of a run with that option",
                hint=f"launch {place}, which was recorded",
            )
        for play in self._plays.values():
            if self._state_of(play) not in _RESTING:
                return play.run_id
        run_id = f"r-demo{len(self._plays) + 1}"
        self._plays[run_id] = Play(
            run_id=run_id,
            recorded=recorded,
            began_at=self._clock.now(),
            speed=max(recorded.duration_s / self._run_takes_s, 1e-6),
            since_s=self._clock.monotonic_s(),
            goal=request.estimate.goal,
        )
        return run_id

    def _as_past(self, run: RecordedRun, days: int) -> Play:
        began = self._clock.now() - timedelta(days=days, hours=2 * days)
        return Play(
            run_id=run.plan.run_id,
            recorded=run,
            began_at=began,
            speed=1.0,
            goal=run.plan.goal,
            held_s=run.duration_s,
        )

    def _play(self, run_id: str) -> Play:
        found = self._plays.get(run_id) or next(
            (past for past in self._past if past.run_id == run_id), None
        )
        if found is None:
            raise NotFoundError(f"the demo has no run {run_id}", hint="planner status lists runs")
        return found

    def runs(self, limit: int | None = None) -> tuple[RunSummary, ...]:
        """Launched ones first, then the recorded past."""
        plays = [*reversed(self._plays.values()), *self._past]
        return tuple(self.view(play.run_id).summary for play in plays)[:limit]

    def resolve(self, reference: str) -> str:
        """An id, a prefix, a name, `@last` or `@-2`."""
        ids = [summary.id for summary in self.runs()]
        if reference in ("@last", "@-1") and ids:
            return ids[0]
        if reference.startswith("@-") and reference[2:].isdigit():
            index = int(reference[2:]) - 1
            if index < len(ids):
                return ids[index]
        matching = [run_id for run_id in ids if run_id.startswith(reference)]
        if len(matching) == 1 or reference in matching:
            return reference if reference in matching else matching[0]
        raise NotFoundError(f"no run goes by {reference}", hint=f"there are: {', '.join(ids)}")

    def _played_s(self, play: Play) -> float:
        return play.played_s(self._clock.monotonic_s())

    def view(self, run_id: str) -> RunView:
        """The run as its journal tells it up to now, folded as in a live session."""
        from planner.services.runs.runview import run_view

        play = self._play(run_id)
        played_s = self._played_s(play)
        now = play.began_at + timedelta(seconds=played_s)
        plan = replace(play.recorded.plan, run_id=run_id, goal=play.goal, created_at=play.began_at)
        record = RunRecord.replay(play.events(played_s))
        view = run_view(plan, record, now, supervisor_alive=not record.ended)
        if view.eta_s is None:
            return view
        # The chances were told for the goal of that day; here another one may have been asked for.
        p_deadline = p_budget = None
        if record.deadline_at is not None:
            p_deadline = view.eta_s.prob_below((record.deadline_at - now).total_seconds())
        if view.plan.goal.budget_usd is not None and view.cost_at_end_usd is not None:
            p_budget = view.cost_at_end_usd.prob_below(view.plan.goal.budget_usd)
        return replace(view, p_deadline=p_deadline, p_budget=p_budget)

    def _state_of(self, play: Play) -> RunState:
        return self.view(play.run_id).summary.state

    def events(self, run_id: str, since_seq: int = -1) -> tuple[Event, ...]:
        """The recorded events up to now."""
        play = self._play(run_id)
        return tuple(e for e in play.events(self._played_s(play)) if e.seq > since_seq)

    def logs(self, run_id: str, cursor: Mapping[str, int] | None = None) -> LogPage:
        """The recorded output up to now."""
        play = self._play(run_id)
        played_s = self._played_s(play)
        start = (cursor or {}).get("line", 0)
        shown = [line for line in play.recorded.log if line.at_s <= played_s]
        found = tuple(
            LogLine(
                source="train" if line.source == "train" else "planner",
                rank=line.rank,
                text=line.text if line.source == "train" else recorded_text(line.text),
                at=play.began_at + timedelta(seconds=line.at_s),
            )
            for line in shown[start:]
        )
        return LogPage(lines=found, cursor={"line": max(len(shown), start)})

    def _ask(self, play: Play, kind: EventType, data: dict[str, Any]) -> None:
        play.asked.append((self._played_s(play), kind, data))

    def pause(self, run_id: str) -> None:
        """Stand still."""
        play = self._working(run_id, "paused")
        play.hold(self._clock.monotonic_s())
        self._ask(play, "run.paused", {"state": "paused", "reason": "paused by you"})

    def resume(self, run_id: str, *, dry_run: bool = False) -> None:
        """Play on."""
        play = self._play(run_id)
        if self._state_of(play) is not RunState.PAUSED:
            raise TransitionError(f"run {run_id} is not paused", hint="only a paused run goes on")
        if dry_run:
            return
        view = self.view(run_id)
        self._ask(play, "run.resumed", {"state": "running", "step": view.step})
        play.since_s = self._clock.monotonic_s()

    def cancel(self, run_id: str, *, now: bool = False) -> None:
        """Stand still for good."""
        play = self._working(run_id, "stopped")
        play.hold(self._clock.monotonic_s())
        self._ask(play, "run.finished", {"state": "cancelled", "reason": "stopped by you"})

    def checkpoint(self, run_id: str) -> None:
        """Make as if one were written now."""
        play = self._working(run_id, "checkpointed")
        view = self.view(run_id)
        size = view.last_checkpoint_bytes
        self._ask(play, "run.checkpoint", {"step": view.step, "bytes": size, "reason": "asked for"})

    def extend(
        self,
        run_id: str,
        *,
        deadline_s: float | None = None,
        budget_usd: float | None = None,
        dry_run: bool = False,
    ) -> None:
        """Raise the deadline or the cap, also of a paused run, and note it as a decision."""
        play = self._working(run_id, "extended", TERMINAL_STATES)
        if dry_run:
            return
        view = self.view(run_id)
        goal = view.plan.goal
        words: list[str] = []
        effects: dict[str, Any] = {}
        if deadline_s is not None:
            at = goal.deadline_at or play.began_at
            effects["deadline_at"] = datetime_text(at + timedelta(seconds=deadline_s))
            words.append(f"deadline +{format_duration(deadline_s)}")
        if budget_usd is not None:
            effects["budget_microusd"] = microusd((goal.budget_usd or 0.0) + budget_usd)
            words.append(f"cap +{format_money(budget_usd)}")
        decision = Decision(
            id=f"d-you{len(play.asked) + 1}",
            at=play.began_at + timedelta(seconds=self._played_s(play)),
            action="extend " + ", ".join(words),
            why="asked for by you",
            mode="you",
        )
        self._ask(play, "decision.applied", {**to_json(decision), **effects})

    def adjust(self, run_id: str, wish: Wish, *, dry_run: bool = False) -> Expectation:
        """Tell what is expected as in a live session; then make it up, and say so."""
        from planner.services.demoadjust import expectation, play_change

        play = self._working(run_id, "adjusted")
        at_s, options = self._played_s(play), self.recording.estimate.options
        found, target = expectation(play, at_s, self.view(run_id), wish, options)
        if dry_run or found.how == "nothing":
            return found
        return play_change(play, at_s, wish, found, target)

    def _working(self, run_id: str, word: str, resting: Collection[RunState] = _RESTING) -> Play:
        play = self._play(run_id)
        state = self._state_of(play)
        if state in resting:
            raise TransitionError(
                f"run {run_id} is {state} and cannot be {word}", hint="launch it anew"
            )
        return play

    def report(self, run_id: str) -> Mapping[str, Any]:
        """The recorded report."""
        return self._play(run_id).recorded.report

    def compare(self, references: Sequence[str]) -> Comparison:
        """Runs or options side by side."""
        from planner.services.compare import compare

        return compare(references, ShelfOf(self), self.load_estimate)

    # ---- house -----------------------------------------------------------------------------

    def doctor(self, only: Sequence[str] = ()) -> tuple[Check, ...]:
        """What the recorded machine's checks said."""
        return tuple(c for c in self.recording.checks if not only or c.id in only)

    def leftovers(self, *, leaked_only: bool, older_than_s: float | None) -> tuple[Leftover, ...]:
        """A recording leaves nothing behind."""
        return ()

    def clean(self, leftovers: Sequence[Leftover]) -> None:
        """There is nothing to remove."""
