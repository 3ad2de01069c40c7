"""Runs for tests: plans, a clock that jumps, and a supervisor's loop on the simulated runner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from planner.core.distribution import Distribution
from planner.core.job import Goal, JobSpec, Place
from planner.core.plan import Plan
from planner.core.prediction import Interval
from planner.core.recommendation import Recommendation
from planner.core.types import (
    EstimateResult,
    Knobs,
    ModelCard,
    Option,
    PriceQuote,
    ResourceConfig,
    RunState,
    WorkLoad,
)
from planner.services.runs.commands import Action, send
from planner.services.supervisor.book import LoopSettings
from planner.services.supervisor.loop import RunLoop
from planner.store.codec import datetime_text
from planner.store.files import save
from planner.store.journal import Journal, read_events
from planner.store.layout import RunDir, StateDir
from planner.store.record import RunRecord
from runners.base import Runner
from runners.fake import FakeRunner
from runners.fakelaw import Law

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SETTINGS = LoopSettings(stop_grace_s=20.0, start_s=60.0)


class FakeClock:
    """Time that passes only when somebody sleeps. `at(t, f)` calls `f` once t seconds passed."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self._due: list[tuple[float, Callable[[], None]]] = []

    def now(self) -> datetime:
        return START + timedelta(seconds=self.elapsed_s)

    def monotonic_s(self) -> float:
        return self.elapsed_s

    def sleep(self, duration_s: float) -> None:
        self.elapsed_s += duration_s
        due = [call for at_s, call in self._due if at_s <= self.elapsed_s]
        self._due = [item for item in self._due if item[0] > self.elapsed_s]
        for call in due:
            call()

    def at(self, at_s: float, call: Callable[[], None]) -> None:
        self._due.append((at_s, call))


def option_of(
    resources: ResourceConfig, knobs: Knobs, run_s: float, usd_per_h: float, samples_per_s: float
) -> Option:
    run = Distribution.lognormal(run_s, 0.05, evidence="probe")
    cost = run.scaled(usd_per_h / 3600)
    return Option(
        id="o1",
        resources=resources,
        knobs=knobs,
        price=PriceQuote(
            usd_per_h=usd_per_h, source="contract" if usd_per_h else "free", as_of=START
        ),
        wait_s=Distribution.exactly(0.0),
        run_s=run,
        total_s=run,
        cost_usd=cost,
        memory_bytes=Distribution.lognormal(1e9, 0.05, evidence="probe"),
        throughput_samples_per_s=Distribution.lognormal(samples_per_s, 0.05, evidence="probe"),
        total_interval=Interval(level=0.9, lo=run.p05, hi=run.p95),
        cost_interval=Interval(level=0.9, lo=cost.p05, hi=cost.p95),
        p_oom=0.0,
        p_deadline=None,
        p_budget=None,
        bottleneck="gpu",
        expected_interruptions=0.0,
        evidence="probe",
        rank=1,
        on_front=True,
        dominated_by=None,
        feasible=True,
    )


def estimate_of(job: JobSpec, option: Option, goal: Goal, *, work: WorkLoad) -> EstimateResult:
    return EstimateResult(
        id="e-0000001",
        created_at=START,
        seed=0,
        job=job,
        work=work,
        goal=goal,
        recommendation=Recommendation(option_id=option.id, rule="test", text="the only one"),
        options=(option,),
        probes=(),
        probe_cost_usd=0.0,
        model=ModelCard(id="m-test", n_train=1),
    )


def fake_estimate(
    workdir: Path,
    *,
    goal: Goal | None = None,
    usd_per_h: float = 3.6,
    workers: int = 1,
    slots: int | None = None,
    levers: tuple[str, ...] | None = None,
    faults: tuple[str, ...] = (),
    planned_run_s: float | None = None,
    job_changes: dict[str, Any] | None = None,
    checkpoint_interval_s: float = 20.0,
    **law: float,
) -> EstimateResult:
    """An estimate whose one option runs on the simulated runner. 3.6 $/h is 0.001 $ a second."""
    truth = Law(**{**{"samples": 1000, "epochs": 2, "global_batch": 10, "sample_s": 0.05}, **law})
    micro = -(-truth.global_batch // workers)
    settings = {**truth_settings(truth), "usd_per_slot_h": usd_per_h / workers}
    settings |= {"slots": slots or workers, "gpu": "", "faults": faults}
    settings |= {} if levers is None else {"levers": levers}
    job = JobSpec(
        name="digits",
        command=("train",),
        workdir=str(workdir),
        samples=truth.samples,
        epochs=truth.epochs,
        global_batch=truth.global_batch,
        tier=1,
        hang_timeout_s=30.0,
        places=(Place(runner="fake", pool="cpu", settings=settings),),
    )
    job = replace(job, **(job_changes or {}))
    shape = {"workers": workers, "micro_batch": micro, "accumulation": 1}
    run_s = truth.run_s(**shape) if planned_run_s is None else planned_run_s
    option = option_of(
        ResourceConfig(
            runner="fake",
            pool="cpu",
            market="local",
            workers_per_node=workers,
            vcpus_per_node=workers,
        ),
        Knobs(
            micro_batch=micro,
            accumulation=1,
            global_batch=truth.global_batch,
            checkpoint_interval_s=checkpoint_interval_s,
        ),
        run_s,
        usd_per_h,
        truth.global_batch / truth.step_s(**shape),
    )
    work = WorkLoad(samples=truth.samples, epochs=truth.epochs, fingerprint="sha256:abc")
    return estimate_of(job, option, goal or Goal(), work=work)


def truth_settings(law: Law) -> dict[str, Any]:
    return {name: getattr(law, name) for name in Law.__dataclass_fields__}


@dataclass
class Case:
    """One run on the simulated runner, ready to be looked after."""

    run: RunDir
    plan: Plan
    clock: FakeClock
    runner: Runner
    settings: LoopSettings = SETTINGS

    def loop(self) -> RunLoop:
        """A supervisor's loop, as a new process would have it."""
        return RunLoop(
            run=self.run,
            plan=self.plan,
            runner=self.runner,
            journal=Journal(self.run.journal, self.run.run_id, self.clock),
            clock=self.clock,
            stage=lambda folder: folder.mkdir(exist_ok=True),
            settings=self.settings,
        )

    def go(self) -> RunState:
        """Look after the run until it rests."""
        loop = self.loop()
        try:
            return loop.run()
        finally:
            loop.book.journal.close()

    def left_running(self) -> list[str]:
        """What the runner still runs of this run; other tests in the process have their own."""
        found = self.runner.leftovers()
        return [left.id for left in found if left.id.startswith(str(self.run.path))]

    def send(self, action: Action, **values: Any) -> None:
        send(self.run.commands, self.clock, action, **values)

    @property
    def events(self) -> list[Any]:
        return list(read_events(self.run.journal))

    @property
    def record(self) -> RunRecord:
        return RunRecord.replay(self.events)

    def kinds(self) -> list[str]:
        """Event types in order, without what only tells progress."""
        dull = ("run.progress", "run.metric", "run.checkpoint")
        return [e.type for e in self.events if e.type not in dull]

    def states(self) -> list[str]:
        """States in order."""
        found: list[str] = []
        for event in self.events:
            state = event.data.get("state")
            if state and found[-1:] != [state]:
                found.append(state)
        return found

    def warnings(self) -> list[str]:
        return [e.data["code"] for e in self.events if e.type == "guard.warning"]


def plan_of(estimate: EstimateResult, run_id: str, **changes: Any) -> Plan:
    option, goal = estimate.options[0], estimate.goal
    plan = Plan(
        run_id=run_id,
        name=estimate.job.name,
        job=estimate.job,
        option=option,
        work=estimate.work,
        goal=goal,
        estimate_id=estimate.id,
        created_at=START,
        max_usd_per_h=option.price.usd_per_h,
        budget_microusd=None if goal.budget_usd is None else round(goal.budget_usd * 1e6),
        retries=estimate.job.retries,
    )
    return replace(plan, **changes)


def create_run(state: StateDir, plan: Plan, clock: Any) -> RunDir:
    """The run's folder as a launch leaves it."""
    run = state.run(plan.run_id)
    run.create()
    save(run.plan, plan)
    journal = Journal(run.journal, run.run_id, clock)
    deadline_at = plan.goal.deadline_at
    journal.append(
        "run.created",
        {
            "state": "planned",
            "name": plan.name,
            "budget_microusd": plan.budget_microusd,
            "deadline_at": None if deadline_at is None else datetime_text(deadline_at),
        },
    )
    journal.close()
    return run


def make_case(tmp_path: Path, *, settings: LoopSettings = SETTINGS, **arguments: Any) -> Case:
    """A run on the simulated runner; `arguments` as for `fake_estimate`, or fields of the plan."""
    changes = {k: arguments.pop(k) for k in ("retries", "max_usd_per_h") if k in arguments}
    clock = FakeClock()
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    plan = plan_of(fake_estimate(work, **arguments), "r-0001", **changes)
    run = create_run(StateDir(tmp_path / "state"), plan, clock)
    return Case(run, plan, clock, FakeRunner(clock), settings)
