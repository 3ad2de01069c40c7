"""What the screens share: the job, the goal, the estimate, the probes and the run in view."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from planner.core.clock import Clock, SystemClock
from planner.core.errors import PlannerError
from planner.core.job import Goal, JobSpec
from planner.core.types import EstimateResult
from planner.services.api import Check, ProbePlan, RunSummary, Services
from planner.tui.keymap import Keymap
from planner.tui.probe_board import ProbeBoard


@dataclass(slots=True, kw_only=True)
class Session:
    """One sitting at the app. Only the app's own thread changes it.

    Attributes:
        goal: The goal as it stands in the form; the job's own at first.
        estimate: The newest estimate of the job, scored for `goal`.
        what_if: The same under values tried out on the sliders; None when none are.
        tried_goal: The goal on the sliders, while it is not the real one.
        option_id: The option to put the cursor on; None leaves it where it is.
        run_id: The run that Runs and Decisions show.
        known_runs: The runs as last listed, for the palette.
        clock: What time it is, for deadlines that are typed and for times that are shown.
    """

    services: Services
    job: JobSpec | None
    job_path: Path | None = None
    read_only: bool = False
    demo: bool = False
    confirm_above_usd: float = 10.0
    keymap: Keymap = field(default_factory=Keymap)
    clock: Clock = field(default_factory=SystemClock)
    goal: Goal = field(default_factory=Goal)
    checks: tuple[Check, ...] | PlannerError | None = None
    probe_plan: ProbePlan | PlannerError | None = None
    board: ProbeBoard = field(default_factory=ProbeBoard)
    estimate: EstimateResult | None = None
    estimate_error: PlannerError | None = None
    what_if: EstimateResult | None = None
    tried_goal: Goal | None = None
    option_id: str | None = None
    run_id: str | None = None
    known_runs: tuple[RunSummary, ...] = ()

    def __post_init__(self) -> None:
        if self.job is not None:
            self.goal = self.job.goal

    def now(self) -> datetime:
        """What time it is."""
        return self.clock.now()

    def deadline_left_s(self, goal: Goal) -> float | None:
        """What is left until the deadline; None without one. It counts from when it was stated."""
        if goal.deadline_at is None:
            return goal.deadline_s
        return max((goal.deadline_at - self.now()).total_seconds(), 0.0)

    @property
    def shown(self) -> EstimateResult | None:
        """The estimate to show: what is tried out, or else the real one."""
        return self.what_if or self.estimate

    @property
    def job_name(self) -> str:
        """How to call the job in a title."""
        if self.job_path is not None:
            return self.job_path.name
        return self.job.name if self.job else "no job"
