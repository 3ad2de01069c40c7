"""What the command line and the terminal app may ask for: one protocol, two implementations.

`planner.services.live.LiveServices` works on the state directory and real runners;
`planner.services.demo.DemoServices` plays a bundled recording through the same calls.
Both the CLI and the app see nothing else of the services.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from planner.core.adjust import Adjustment, Expectation, InForce, Wish
from planner.core.consent import Rest, rest
from planner.core.distribution import Distribution
from planner.core.events import Event, EventSink
from planner.core.job import Goal, JobSpec
from planner.core.plan import ControllerMode, Decision, Plan
from planner.core.types import EstimateResult, ProbeResult, ResourceConfig, RunState
from runners.base import Leftover

CheckState = Literal["ok", "warn", "fail", "skip"]
LogSource = Literal["train", "planner"]


class Cancel(Protocol):
    """Tells a long call to end early (threading.Event fits)."""

    def is_set(self) -> bool:
        """Whether the caller wants the call to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateRequest:
    """One call of `planner estimate`.

    `probe` False uses kept results only; `fresh` ignores kept results.
    """

    job: JobSpec
    goal: Goal
    probe: bool = True
    fresh: bool = False
    max_probe_cost_usd: float | None = None
    max_probe_time_s: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePlan:
    """What an estimate would have to try out: shown before anything is started."""

    to_run: tuple[str, ...]
    reused: tuple[ProbeResult, ...]
    expected_s: float
    max_cost_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """One call of `planner run`, after the user agreed."""

    estimate: EstimateResult
    option_id: str
    name: str | None = None
    max_usd_per_h: float | None = None
    controller: ControllerMode = "guarded"
    retries: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A line of `planner status` and of History.

    `predicted_total_s` and `predicted_cost_usd` are the chosen option's, as agreed at launch.
    `within_interval` says whether the real total time fell into its 90 % interval; it is None of a
    run that was `adjusted`, as the prediction was about another one. `held_s` is how long resources
    were held, which is what was paid for, and `agreed_usd_per_h` the price of it.
    """

    id: str
    name: str
    state: RunState
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    option_text: str
    progress: float
    spent_usd: float
    budget_usd: float | None
    total_s: float | None
    predicted_total_s: Distribution
    predicted_cost_usd: Distribution
    late: bool = False
    within_interval: bool | None = None
    supervisor_alive: bool = False
    reason: str | None = None
    adjusted: bool = False
    held_s: float = 0.0
    agreed_usd_per_h: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A measured series for a sparkline: seconds since the run's start, and values."""

    at_s: tuple[float, ...] = ()
    values: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """Everything the live screen and `planner status RUN` show of one run.

    Attributes:
        series: By name: `samples_per_s`, `cpu` and `gpu` (fractions), `memory_bytes`,
            `loader_wait` (fraction of a step), `loss`, and whatever the job logs.
        metrics: The last value of everything the job logged.
        eta_s: Distribution of the remaining wall time, None before the first step.
        cost_at_end_usd: Distribution of the final cost, None before the first step.
        last_checkpoint_step: Optimiser steps that the last checkpoint holds.
        in_force: What it works with now; None where that is not told.
        crew: Numbers of the workers that train, by rank; empty where that is not known.
        adjustments: What was changed, or is to be, oldest first.
    """

    summary: RunSummary
    plan: Plan
    step: int
    steps_total: int | None
    epoch: int
    epochs: float
    samples_per_s: float | None
    loader_wait_fraction: float | None
    usd_per_h: float
    elapsed_s: float
    eta_s: Distribution | None
    cost_at_end_usd: Distribution | None
    p_deadline: float | None
    p_budget: float | None
    last_checkpoint_at: datetime | None
    last_checkpoint_bytes: int | None
    attempts: int
    series: Mapping[str, Series] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()
    warnings: tuple[str, ...] = ()
    last_checkpoint_step: int | None = None
    in_force: InForce | None = None
    crew: tuple[int, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()

    @property
    def saved_progress(self) -> float:
        """Fraction of the work that is in the last checkpoint, where a resumed run goes on."""
        if not self.last_checkpoint_step or not self.steps_total:
            return 0.0
        return min(self.last_checkpoint_step / self.steps_total, 1.0)

    @property
    def keeps_progress(self) -> bool:
        """Whether a stop leaves a checkpoint: a script without the SDK writes none."""
        return self.plan.job.tier > 0 or self.last_checkpoint_at is not None

    @property
    def rest(self) -> Rest:
        """What the run may still spend once it is resumed."""
        return rest(
            self.plan.option,
            budget_usd=self.summary.budget_usd,
            spent_usd=self.summary.spent_usd,
            saved=self.saved_progress,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a run's output. `at` is None where the source carries no time."""

    source: LogSource
    rank: int | None
    text: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of `planner doctor`, with a fix when it is not ok."""

    id: str
    state: CheckState
    text: str
    fix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """One quantity of a comparison, one value per subject; None where it is unknown."""

    name: str
    values: tuple[float | str | None, ...]
    unit: str
    change: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs, estimates or options side by side; `differences` says where the work differs."""

    subjects: tuple[str, ...]
    rows: tuple[ComparisonRow, ...]
    same_work: bool
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """New log lines since a cursor, the cursor for the next call, and whether it has `more` now."""

    lines: tuple[LogLine, ...]
    cursor: Mapping[str, int]
    more: bool = False


class Services(Protocol):
    """The application. Calls may block; the app calls them from worker threads.

    Every call may raise a `PlannerError`, and raises nothing else on purpose.
    """

    # ---- plan
    def plan_probes(self, request: EstimateRequest) -> ProbePlan:
        """What the estimate would try out and what that may cost. Starts nothing."""

    def estimate(
        self, request: EstimateRequest, on_event: EventSink, cancel: Cancel | None = None
    ) -> EstimateResult:
        """Probe (or reuse), predict, score. The result is kept under its id."""

    def resources(self, job: JobSpec) -> tuple[ResourceConfig, ...]:
        """What the job's places offer now."""

    def latest_estimate(self, job: JobSpec | None = None) -> EstimateResult | None:
        """The newest kept estimate, of this job when one is given."""

    def load_estimate(self, estimate_id: str) -> EstimateResult:
        """A kept estimate. Raises `NotFoundError`."""

    def rescore(self, estimate: EstimateResult, goal: Goal) -> EstimateResult:
        """The same options under another goal: what-if, without new probes. Under 50 ms."""

    # ---- run
    def launch(self, request: LaunchRequest) -> str:
        """Start a supervisor that owns the run; its id. The same name while alive attaches.

        Raises:
            PriceMovedError: Dearer than accepted.
        """

    def runs(self, limit: int | None = None) -> tuple[RunSummary, ...]:
        """All runs, newest first."""

    def resolve(self, reference: str) -> str:
        """The run id behind an id, unique prefix, name, `@last` or `@-2`."""

    def view(self, run_id: str) -> RunView:
        """One run in full."""

    def events(self, run_id: str, since_seq: int = -1) -> tuple[Event, ...]:
        """The run's events after a sequence number."""

    def logs(self, run_id: str, cursor: Mapping[str, int] | None = None) -> LogPage:
        """Output of the job and of planner, from `cursor` on (None: from the start)."""

    def pause(self, run_id: str) -> None:
        """Checkpoint, release, keep the plan."""

    def resume(self, run_id: str, *, dry_run: bool = False) -> None:
        """Continue a paused, failed, capped or orphaned run from its last good checkpoint.

        `dry_run` only checks that it can be done.
        """

    def cancel(self, run_id: str, *, now: bool = False) -> None:
        """Checkpoint (unless `now`), release, verify, end."""

    def checkpoint(self, run_id: str) -> None:
        """Ask for a checkpoint at the next step boundary."""

    def extend(
        self,
        run_id: str,
        *,
        deadline_s: float | None = None,
        budget_usd: float | None = None,
        dry_run: bool = False,
    ) -> None:
        """Raise the deadline or the cap by so much; recorded as a decision.

        `dry_run` only checks that it can be done.
        """

    def adjust(self, run_id: str, wish: Wish, *, dry_run: bool = False) -> Expectation:
        """Change a running job; what is to be expected of it. See docs/adjust.md.

        What comes of it stands in `RunView.adjustments`, under the expectation's `command`. Nothing
        dearer than `wish.max_usd_per_h` is started: without it, than what was agreed to before.

        Args:
            run_id: The run.
            wish: What is asked for.
            dry_run: Only check and tell.

        Raises:
            AdjustRefusedError: It cannot or may not be done, with the reason.
            TransitionError: The run is not running.
        """

    def report(self, run_id: str) -> Mapping[str, Any]:
        """The final report: predicted against real, as plain JSON values."""

    def compare(self, references: Sequence[str]) -> Comparison:
        """Two or more runs, estimates (`e-...`) or options (`e-.../o3`) side by side."""

    # ---- house
    def doctor(self, only: Sequence[str] = ()) -> tuple[Check, ...]:
        """Check the environment."""

    def leftovers(self, *, leaked_only: bool, older_than_s: float | None) -> tuple[Leftover, ...]:
        """What planner left behind and may be removed."""

    def clean(self, leftovers: Sequence[Leftover]) -> None:
        """Remove them."""
