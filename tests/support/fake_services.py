"""`Services` that say what a test told them to, and remember what they were asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from planner.core.adjust import Adjustment, Band, Expectation, Wish
from planner.core.distribution import Distribution
from planner.core.errors import NotFoundError
from planner.core.events import Event, EventSink
from planner.core.job import Goal, JobSpec
from planner.core.options import rescored
from planner.core.plan import Decision, Plan
from planner.core.types import EstimateResult, ResourceConfig, RunState
from planner.services.api import (
    Cancel,
    Check,
    Comparison,
    ComparisonRow,
    EstimateRequest,
    LaunchRequest,
    LogLine,
    LogPage,
    ProbePlan,
    RunSummary,
    RunView,
)
from planner.store.codec import to_json
from runners.base import Leftover
from support.planning import NOW, WORK, estimate, job

RUN_ID = "r-7f3k"
DEADLINE = (datetime.now(UTC) + timedelta(days=1)).replace(
    hour=10, minute=0, second=0, microsecond=0
)
"""Of the run that has one: still to come, on whatever day the tests are run."""
DAY = f"{DEADLINE:%Y-%m-%d}"
DAY_AFTER = f"{DEADLINE + timedelta(days=1):%Y-%m-%d}"


def plan(result: EstimateResult | None = None) -> Plan:
    """What was agreed to for the fake run."""
    result = result or estimate()
    option = result.options[0]
    return Plan(
        run_id=RUN_ID,
        name="nightly",
        job=job(),
        option=option,
        work=WORK,
        goal=result.goal,
        estimate_id=result.id,
        created_at=NOW,
        max_usd_per_h=option.price.usd_per_h,
        budget_microusd=1_000_000,
    )


def view(state: RunState = RunState.RUNNING, *, progress: float = 0.5, **changes: Any) -> RunView:
    """A run in that state; `changes` go to the view or, by name, to its summary."""
    agreed = plan()
    over = state in (RunState.DONE, RunState.FAILED, RunState.STOPPED_BY_CAP, RunState.CANCELLED)
    summary = RunSummary(
        id=RUN_ID,
        name="nightly",
        state=state,
        created_at=NOW,
        started_at=NOW + timedelta(seconds=2),
        ended_at=NOW + timedelta(seconds=880) if over else None,
        option_text="1 x cpu local",
        progress=1.0 if state is RunState.DONE else progress,
        spent_usd=0.0122,
        budget_usd=1.0,
        total_s=880.0 if over else None,
        predicted_total_s=agreed.option.total_s,
        predicted_cost_usd=agreed.option.cost_usd,
        within_interval=True if state is RunState.DONE else None,
        supervisor_alive=not over and state is not RunState.PAUSED,
    )
    of_summary = {k: v for k, v in changes.items() if k in RunSummary.__dataclass_fields__}
    of_view = {k: v for k, v in changes.items() if k not in of_summary}
    made = RunView(
        summary=replace(summary, **of_summary),
        plan=agreed,
        step=115,
        steps_total=230,
        epoch=5,
        epochs=10,
        samples_per_s=16.2,
        loader_wait_fraction=0.11,
        usd_per_h=0.05,
        elapsed_s=440.0,
        eta_s=None if over else Distribution.lognormal(440, 0.05),
        cost_at_end_usd=Distribution.lognormal(0.0125, 0.05),
        p_deadline=None,
        p_budget=0.99,
        last_checkpoint_at=NOW + timedelta(seconds=400),
        last_checkpoint_bytes=44_000_000,
        attempts=1,
        metrics={"loss": 0.31, "val_accuracy": 0.94, "test_accuracy": 0.956},
        decisions=(
            Decision(id="d1", at=NOW, action="hold", why="all inside plan", mode="guarded"),
        ),
        warnings=("80 % of the cap is spent",),
        last_checkpoint_step=92,
    )
    return replace(made, **of_view)


def limited() -> RunView:
    """A running run with a cap of $1 and a deadline at 10:00."""
    made = view()
    goal = Goal(budget_usd=1.0, deadline_at=DEADLINE)
    return replace(made, plan=replace(made.plan, goal=goal))


def extended(view: RunView, deadline_s: float | None, budget_usd: float | None) -> RunView:
    """The view with its limits raised."""
    goal = view.plan.goal
    if deadline_s is not None and goal.deadline_at is not None:
        goal = replace(goal, deadline_at=goal.deadline_at + timedelta(seconds=deadline_s))
    if budget_usd is not None:
        goal = replace(goal, budget_usd=(goal.budget_usd or 0.0) + budget_usd)
    return replace(view, plan=replace(view.plan, goal=goal))


class FakeServices:
    """Set its attributes; look at `calls`. An exception in `fail[name]` is raised by that call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.fail: dict[str, BaseException] = {}
        self.result: EstimateResult = estimate()
        self.kept: EstimateResult | None = None
        self.estimates: dict[str, EstimateResult] = {}
        self.views: list[RunView] = [view(), view(RunState.DONE)]
        self.summaries: tuple[RunSummary, ...] = (view(RunState.DONE).summary,)
        self.journal: list[Event] = [
            Event(seq=0, ts=NOW, type="run.created", run_id=RUN_ID, data={"name": "nightly"}),
            Event(seq=1, ts=NOW, type="run.started", run_id=RUN_ID),
            Event(seq=2, ts=NOW, type="run.finished", run_id=RUN_ID, data={"state": "done"}),
        ]
        self.lines = (
            LogLine(source="planner", rank=None, text="launched", at=NOW),
            LogLine(source="train", rank=0, text="epoch 1 loss 0.91"),
            LogLine(source="train", rank=1, text="epoch 1 done"),
        )
        self.page_lines = 1000
        self.checks = (
            Check(id="python", state="ok", text="Python 3.11"),
            Check(id="gpu", state="warn", text="no GPU", fix="none needed"),
        )
        self.left: tuple[Leftover, ...] = ()
        self.differences = ("B trains on other data",)
        self.expectation = Expectation(
            what="workers 1 -> 2",
            how="in_flight",
            samples_per_s_before=41.0,
            samples_per_s=Band(lo=60.0, mid=78.0, hi=82.0),
            basis="guess",
            usd_per_h_before=0.05,
            usd_per_h=0.1,
            peak_usd_per_h=0.1,
            left_before_s=440.0,
            left_s=231.0,
            cost_at_end_before_usd=0.0183,
            cost_at_end_usd=0.0186,
            downtime_s=15.0,
            stall_s=0.5,
            dearer=True,
            notes=("BatchNorm sees other batches",),
        )
        self.outcome: tuple[Adjustment, ...] = (
            Adjustment(
                id="d2",
                command="c1",
                what="workers 1 -> 2",
                state="done",
                how="in_flight",
                text="done at step 120: stall 0.08 s",
                step=120,
                workers=2,
                stall_s=0.08,
                downtime_s=3.2,
                lost_samples=0,
                redone_samples=0,
                samples_per_s_before=41.0,
                samples_per_s=77.0,
            ),
        )

    def _called(self, name: str, about: Any = None) -> None:
        self.calls.append((name, about))
        if name in self.fail:
            raise self.fail[name]

    def asked(self, name: str) -> list[Any]:
        """What a call was asked for, every time it was made."""
        return [about for called, about in self.calls if called == name]

    # ---- plan

    def plan_probes(self, request: EstimateRequest) -> ProbePlan:
        self._called("plan_probes", request)
        return ProbePlan(to_run=("1 worker",), reused=(), expected_s=30, max_cost_usd=0.01)

    def estimate(
        self, request: EstimateRequest, on_event: EventSink, cancel: Cancel | None = None
    ) -> EstimateResult:
        on_event("estimate.started", {"job": request.job.name})
        for index, probe in enumerate(self.result.probes, start=1):
            named = {"id": probe.id, "index": index}
            on_event("probe.queued", named)
            on_event("probe.progress", {**named, "phase": "measuring", "steps": 3})
            on_event("probe.finished", {**named, "reused": False, "probe": to_json(probe)})
        self._called("estimate", request)
        result = replace(self.rescore(self.result, request.goal), rescored_at=None)
        on_event("estimate.completed", {"estimate_id": result.id})
        return result

    def resources(self, job: JobSpec) -> tuple[ResourceConfig, ...]:
        self._called("resources", job)
        return ()

    def latest_estimate(self, job: JobSpec | None = None) -> EstimateResult | None:
        self._called("latest_estimate", job)
        return self.kept

    def load_estimate(self, estimate_id: str) -> EstimateResult:
        self._called("load_estimate", estimate_id)
        if estimate_id not in self.estimates:
            raise NotFoundError(f"no estimate {estimate_id}")
        return self.estimates[estimate_id]

    def rescore(self, estimate: EstimateResult, goal: Goal) -> EstimateResult:
        self._called("rescore", goal)
        return rescored(estimate, goal, datetime.now(UTC))

    # ---- run

    def launch(self, request: LaunchRequest) -> str:
        self._called("launch", request)
        return RUN_ID

    def runs(self, limit: int | None = None) -> tuple[RunSummary, ...]:
        self._called("runs", limit)
        return self.summaries[:limit]

    def resolve(self, reference: str) -> str:
        self._called("resolve", reference)
        if reference not in (RUN_ID, "@last", "nightly"):
            raise NotFoundError(f'no run goes by "{reference}"', hint="planner status")
        return RUN_ID

    def view(self, run_id: str) -> RunView:
        self._called("view", run_id)
        return self.views.pop(0) if len(self.views) > 1 else self.views[0]

    def events(self, run_id: str, since_seq: int = -1) -> tuple[Event, ...]:
        self._called("events", since_seq)
        return tuple(event for event in self.journal if event.seq > since_seq)

    def logs(self, run_id: str, cursor: Mapping[str, int] | None = None) -> LogPage:
        self._called("logs", cursor)
        start = cursor["all"] if cursor else 0
        end = min(start + self.page_lines, len(self.lines))
        more = end < len(self.lines)
        return LogPage(lines=self.lines[start:end], cursor={"all": end}, more=more)

    def pause(self, run_id: str) -> None:
        self._called("pause", run_id)
        self.views = [view(RunState.STOPPING), view(RunState.PAUSED)]

    def resume(self, run_id: str, *, dry_run: bool = False) -> None:
        self._called("may resume" if dry_run else "resume", run_id)

    def cancel(self, run_id: str, *, now: bool = False) -> None:
        self._called("cancel", now)
        self.views = [view(RunState.STOPPING), view(RunState.CANCELLED)]

    def checkpoint(self, run_id: str) -> None:
        self._called("checkpoint", run_id)

    def extend(
        self,
        run_id: str,
        *,
        deadline_s: float | None = None,
        budget_usd: float | None = None,
        dry_run: bool = False,
    ) -> None:
        self._called("may extend" if dry_run else "extend", (deadline_s, budget_usd))
        if not dry_run:
            self.views = [extended(self.views[0], deadline_s, budget_usd)]

    def adjust(self, run_id: str, wish: Wish, *, dry_run: bool = False) -> Expectation:
        self._called("may adjust" if dry_run else "adjust", wish)
        if dry_run:
            return self.expectation
        self.views = [replace(view, adjustments=self.outcome) for view in self.views]
        return replace(self.expectation, command="c1")

    def report(self, run_id: str) -> Mapping[str, Any]:
        self._called("report", run_id)
        return {}

    def compare(self, references: Sequence[str]) -> Comparison:
        self._called("compare", tuple(references))
        return Comparison(
            subjects=tuple(references),
            rows=(
                ComparisonRow(name="time", values=(300.0, 330.0), unit="s", change=0.1),
                ComparisonRow(name="cost", values=(2.0, 1.0), unit="usd", change=-0.5),
                ComparisonRow(name="val_accuracy", values=(0.95, None), unit=""),
            ),
            same_work=False,
            differences=self.differences,
        )

    # ---- house

    def doctor(self, only: Sequence[str] = ()) -> tuple[Check, ...]:
        self._called("doctor", tuple(only))
        return self.checks

    def leftovers(self, *, leaked_only: bool, older_than_s: float | None) -> tuple[Leftover, ...]:
        self._called("leftovers", (leaked_only, older_than_s))
        return self.left

    def clean(self, leftovers: Sequence[Leftover]) -> None:
        self._called("clean", tuple(leftovers))
