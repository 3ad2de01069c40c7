"""The application on a recording: the same calls, no GPU, no cloud, no processes, a minute.

Probing replays the results of the recorded probes. A launch replays the recorded run's journal
with its times moved to now; what the screens show of it is folded from the journal by the same
code as in a live session. Only pause, stop and extend are made up, as nobody pressed them then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from planner.core.clock import Clock, SystemClock
from planner.core.errors import NotFoundError, TransitionError, UsageError
from planner.core.events import Event, EventSink
from planner.core.types import (
    Decision,
    EstimateResult,
    Goal,
    JobSpec,
    ProbeResult,
    ResourceConfig,
    RunState,
)
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
from runners.base import Leftover

PROBES_TAKE_S = 14.0
"""Real time in which all probes are replayed."""
RUN_TAKES_S = 32.0
"""Real time in which the run is replayed."""
_TICK_S = 0.25


@dataclass(slots=True)
class _Play:
    """A recorded run being played: how far, and what was asked of it meanwhile.

    Attributes:
        run_id: Its id in this session.
        began_at: When it was launched, in this session.
        speed: Recorded seconds per real second.
        held_s: Recorded seconds played before the last pause.
        since_s: Monotonic time at which it last went on; None while it rests.
    """

    run_id: str
    recorded: RecordedRun
    began_at: datetime
    speed: float
    held_s: float = 0.0
    since_s: float | None = None
    state: RunState | None = None
    goal: Goal = field(default_factory=Goal)
    decisions: list[Decision] = field(default_factory=list)
    checkpoint_at_s: float | None = None

    def played_s(self, now_s: float) -> float:
        """How far into the recorded run it is."""
        running_s = 0.0 if self.since_s is None else (now_s - self.since_s) * self.speed
        return min(self.held_s + running_s, self.recorded.duration_s)

    def hold(self, now_s: float) -> None:
        """Stand still from now on."""
        self.held_s, self.since_s = self.played_s(now_s), None

    @property
    def shift(self) -> timedelta:
        """From recorded times to times of this session."""
        return self.began_at - self.recorded.plan.created_at


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
        self._plays: dict[str, _Play] = {}
        self._estimate: EstimateResult | None = None
        self._past = [self._as_past(run, n) for n, run in enumerate(self.recording.runs[1:], 1)]

    @property
    def job(self) -> JobSpec:
        """The recorded job, for the form."""
        return self.recording.job

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
        from planner.store.codec import to_json

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
            on_event("probe.progress", {**named, **_probe_progress(probe, elapsed_s, total)})
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
            raise NotFoundError(f"the demo has no estimate {estimate_id}")
        return self._estimate or self.recording.estimate

    def rescore(self, estimate: EstimateResult, goal: Goal) -> EstimateResult:
        """The real thing: the same scoring as in a live session."""
        from planner.core.options import rescore_options

        options, pick = rescore_options(estimate.options, goal, self._clock.now())
        return replace(estimate, goal=goal, options=options, recommendation=pick)

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
            if self._state_of(play) in (RunState.RUNNING, RunState.PAUSED):
                return play.run_id
        run_id = f"r-demo{len(self._plays) + 1}"
        self._plays[run_id] = _Play(
            run_id=run_id,
            recorded=recorded,
            began_at=self._clock.now(),
            speed=max(recorded.duration_s / self._run_takes_s, 1e-6),
            since_s=self._clock.monotonic_s(),
            goal=request.estimate.goal,
        )
        return run_id

    def _as_past(self, run: RecordedRun, days: int) -> _Play:
        began = self._clock.now() - timedelta(days=days, hours=2 * days)
        return _Play(
            run_id=run.plan.run_id,
            recorded=run,
            began_at=began,
            speed=1.0,
            held_s=run.duration_s,
            goal=run.plan.goal,
        )

    def _play(self, run_id: str) -> _Play:
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

    def _events(self, play: _Play) -> tuple[Event, ...]:
        limit = play.recorded.plan.created_at + timedelta(
            seconds=play.played_s(self._clock.monotonic_s())
        )
        return tuple(
            replace(e, ts=e.ts + play.shift, run_id=play.run_id)
            for e in play.recorded.events
            if e.ts <= limit
        )

    def view(self, run_id: str) -> RunView:
        """The run as its journal tells it up to now."""
        from planner.services.demoview import view_of

        play = self._play(run_id)
        played_s = play.played_s(self._clock.monotonic_s())
        plan = replace(
            play.recorded.plan,
            run_id=run_id,
            goal=_moved(play.goal, play.began_at),
            created_at=play.began_at,
            budget_microusd=_microusd(play.goal.budget_usd),
        )
        now = play.began_at + timedelta(seconds=played_s)
        view = view_of(plan, self._events(play), now)
        if play.checkpoint_at_s is not None:
            at = play.began_at + timedelta(seconds=play.checkpoint_at_s)
            view = replace(view, last_checkpoint_at=max(view.last_checkpoint_at or at, at))
        if play.decisions:
            view = replace(view, decisions=(*view.decisions, *play.decisions))
        if play.state is not None and not view.summary.ended_at:
            ended = now if play.state is RunState.CANCELLED else None
            view = replace(view, summary=replace(view.summary, state=play.state, ended_at=ended))
        return view

    def _state_of(self, play: _Play) -> RunState:
        return self.view(play.run_id).summary.state

    def events(self, run_id: str, since_seq: int = -1) -> tuple[Event, ...]:
        """The recorded events up to now."""
        return tuple(e for e in self._events(self._play(run_id)) if e.seq > since_seq)

    def logs(self, run_id: str, cursor: Mapping[str, int] | None = None) -> LogPage:
        """The recorded output up to now."""
        play = self._play(run_id)
        played_s = play.played_s(self._clock.monotonic_s())
        start = (cursor or {}).get("line", 0)
        shown = [line for line in play.recorded.log if line.at_s <= played_s]
        found = tuple(
            LogLine(
                source="train" if line.source == "train" else "planner",
                rank=line.rank,
                text=line.text,
                at=play.began_at + timedelta(seconds=line.at_s),
            )
            for line in shown[start:]
        )
        return LogPage(lines=found, cursor={"line": max(len(shown), start)})

    def pause(self, run_id: str) -> None:
        """Stand still."""
        play = self._working(run_id, "paused")
        play.hold(self._clock.monotonic_s())
        play.state = RunState.PAUSED

    def resume(self, run_id: str) -> None:
        """Play on."""
        play = self._play(run_id)
        if play.state is not RunState.PAUSED:
            raise TransitionError(f"run {run_id} is not paused", hint="only a paused run goes on")
        play.state, play.since_s = None, self._clock.monotonic_s()

    def cancel(self, run_id: str, *, now: bool = False) -> None:
        """Stand still for good."""
        play = self._working(run_id, "stopped")
        play.hold(self._clock.monotonic_s())
        play.state = RunState.CANCELLED

    def checkpoint(self, run_id: str) -> None:
        """Make as if one were written now."""
        play = self._working(run_id, "checkpointed")
        play.checkpoint_at_s = play.played_s(self._clock.monotonic_s())

    def extend(
        self, run_id: str, *, deadline_s: float | None = None, budget_usd: float | None = None
    ) -> None:
        """Raise the goal, and note it as a decision."""
        from planner.core.units import format_duration, format_money

        play = self._working(run_id, "extended")
        goal, words = play.goal, []
        if deadline_s is not None:
            goal = replace(goal, deadline_s=(goal.deadline_s or 0.0) + deadline_s)
            words.append(f"deadline +{format_duration(deadline_s)}")
        if budget_usd is not None:
            goal = replace(goal, budget_usd=(goal.budget_usd or 0.0) + budget_usd)
            words.append(f"cap +{format_money(budget_usd)}")
        play.goal = goal
        play.decisions.append(
            Decision(
                id=f"d-you{len(play.decisions) + 1}",
                at=play.began_at + timedelta(seconds=play.played_s(self._clock.monotonic_s())),
                action="extend " + ", ".join(words),
                why="asked for by you",
                mode="you",
            )
        )

    def _working(self, run_id: str, word: str) -> _Play:
        play = self._play(run_id)
        state = self._state_of(play)
        if state not in (RunState.RUNNING, RunState.PROVISIONING, RunState.PAUSED):
            raise TransitionError(
                f"run {run_id} is {state} and cannot be {word}", hint="launch it anew"
            )
        return play

    def report(self, run_id: str) -> Mapping[str, Any]:
        """The recorded report."""
        return self._play(run_id).recorded.report

    def compare(self, references: Sequence[str]) -> Comparison:
        """Runs or options side by side."""
        from planner.services.demoview import compare_options, compare_views

        estimate = self._estimate or self.recording.estimate
        options = [estimate.option(r.rpartition("/")[2]) for r in references if "/" in r]
        if options:
            return compare_options([option for option in options if option is not None])
        return compare_views([self.view(self.resolve(reference)) for reference in references])

    # ---- house -----------------------------------------------------------------------------

    def doctor(self, only: Sequence[str] = ()) -> tuple[Check, ...]:
        """What the recorded machine's checks said."""
        return tuple(c for c in self.recording.checks if not only or c.id in only)

    def leftovers(self, *, leaked_only: bool, older_than_s: float | None) -> tuple[Leftover, ...]:
        """A recording leaves nothing behind."""
        return ()

    def clean(self, leftovers: Sequence[Leftover]) -> None:
        """There is nothing to remove."""


def _probe_progress(probe: ProbeResult, elapsed_s: float, total: int) -> dict[str, Any]:
    """What a progress event said, or would have said, `elapsed_s` into the probe."""
    start_s = min(probe.start_s or 0.0, probe.wall_s)
    part = (elapsed_s - start_s) / max(probe.wall_s - start_s, 1e-6)
    step = min(max(int(part * (total + 2)), 0), total)
    seen = probe.step_time_s[: max(step - probe.warmup_steps, 0)]
    step_s = median(seen) if seen else None
    phase = "starting" if step == 0 else "warm-up" if step < probe.warmup_steps else "measuring"
    share = probe.loader_wait_s / step_s if probe.loader_wait_s is not None and step_s else None
    return {
        "phase": phase if step < total else "ending",
        "step": step,
        "steps_total": total,
        "step_time_s": step_s,
        "samples_per_s": probe.knobs.global_batch / step_s if step_s else None,
        "loader_wait_fraction": share,
        "memory_bytes": probe.peak_outside_bytes if step else None,
        "elapsed_s": elapsed_s,
        "cost_usd": probe.cost_usd * elapsed_s / probe.wall_s if probe.wall_s else 0.0,
    }


def _moved(goal: Goal, began_at: datetime) -> Goal:
    if goal.deadline_s is None:
        return goal
    return replace(goal, deadline_at=began_at + timedelta(seconds=goal.deadline_s))


def _microusd(usd: float | None) -> int | None:
    return None if usd is None else round(usd * 1_000_000)
