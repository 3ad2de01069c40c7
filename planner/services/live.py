"""The application on the state directory and real runners; see `planner.services.api.Services`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.core.adjust import Expectation, Wish, planned
from planner.core.clock import Clock, SystemClock
from planner.core.errors import BudgetStopError, NotFoundError, StoreError, TransitionError
from planner.core.events import Event, EventSink
from planner.core.job import Goal, JobSpec
from planner.core.plan import Plan
from planner.core.types import EstimateResult, Option, ResourceConfig, RunState
from planner.services.api import (
    Cancel,
    Check,
    Comparison,
    EstimateRequest,
    LaunchRequest,
    LogPage,
    ProbePlan,
    RunSummary,
    RunView,
)
from planner.services.runs import commands
from planner.services.runs.commands import Action, Command
from planner.services.runs.pricepin import CLEAN_STOP_S
from planner.services.runs.runlock import held
from planner.services.runs.shelf import RunShelf
from planner.store.files import read_json
from planner.store.journal import Journal, read_events
from planner.store.layout import StateDir
from runners.base import Leftover

if TYPE_CHECKING:
    from planner.services.estimating.estimate import Estimator

_GONE = (RunState.DONE, RunState.CANCELLED)


class LiveServices:
    """Everything planner can do, for one state directory.

    Modules that only some calls need are imported in those calls, so that `planner status` does
    not pay for what `planner estimate` loads.

    Args:
        state_dir: Where everything is kept; made when first written to.
        clock: Time.
    """

    def __init__(self, state_dir: Path, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._state = StateDir(state_dir)
        self._shelf = RunShelf(self._state, self._clock)

    # ---- plan

    def plan_probes(self, request: EstimateRequest) -> ProbePlan:
        """What the estimate would try out and what that may cost. Starts nothing."""
        return self._estimator().plan_probes(request)

    def estimate(
        self, request: EstimateRequest, on_event: EventSink, cancel: Cancel | None = None
    ) -> EstimateResult:
        """Probe (or reuse), predict, score. The result is kept under its id."""
        return self._estimator().estimate(request, on_event, cancel)

    def resources(self, job: JobSpec) -> tuple[ResourceConfig, ...]:
        """What the job's places offer now."""
        return self._estimator().resources(job)

    def latest_estimate(self, job: JobSpec | None = None) -> EstimateResult | None:
        """The newest kept estimate, of this job when one is given."""
        return self._estimator().latest_estimate(job)

    def load_estimate(self, estimate_id: str) -> EstimateResult:
        """A kept estimate. Raises `NotFoundError`."""
        return self._estimator().load_estimate(estimate_id)

    def rescore(self, estimate: EstimateResult, goal: Goal) -> EstimateResult:
        """The same options under another goal."""
        return self._estimator().rescore(estimate, goal)

    def _estimator(self) -> Estimator:
        from planner.services.estimating.estimate import Estimator

        return Estimator(self._state.path, self._clock)

    # ---- run

    def launch(self, request: LaunchRequest) -> str:
        """Start a supervisor that owns the run; its id. The same name while alive attaches."""
        from planner.services.runs.launch import launch

        return launch(self._state, request, self._clock)

    def runs(self, limit: int | None = None) -> tuple[RunSummary, ...]:
        """All runs, newest first."""
        return self._shelf.summaries(limit)

    def resolve(self, reference: str) -> str:
        """The run id behind an id, unique prefix, name, `@last` or `@-2`."""
        return self._shelf.resolve(reference)

    def view(self, run_id: str) -> RunView:
        """One run in full."""
        return self._shelf.view(run_id)

    def events(self, run_id: str, since_seq: int = -1) -> tuple[Event, ...]:
        """The run's events after a sequence number."""
        self._shelf.plan(run_id)
        return read_events(self._state.run(run_id).journal, since_seq)

    def logs(self, run_id: str, cursor: Mapping[str, int] | None = None) -> LogPage:
        """Output of the job and of planner, from `cursor` on (None: from the start)."""
        from planner.services.runs.runlog import log_page

        self._shelf.plan(run_id)  # says so when there is no such run
        return log_page(self._state.run(run_id), cursor)

    def pause(self, run_id: str) -> None:
        """Checkpoint, release, keep the plan.

        Raises:
            UsageError: It is not running, or has lost its supervisor.
        """
        self._require_alive(run_id, "paused")
        self._send(run_id, "pause")

    def checkpoint(self, run_id: str) -> None:
        """Ask for a checkpoint at the next step boundary.

        Raises:
            UsageError: It is not running, or has lost its supervisor.
        """
        self._require_alive(run_id, "asked for a checkpoint")
        self._send(run_id, "checkpoint")

    def resume(self, run_id: str, *, dry_run: bool = False) -> None:
        """Continue a paused, failed, capped or orphaned run from its last good checkpoint.

        Whatever an earlier supervisor left running is released first.

        Raises:
            UsageError: It has ended for good, or runs.
            BudgetStopError: Its cap leaves no room to go on.
            StoreError: The state directory cannot be written.
        """
        from planner.services.runs.launch import start_supervisor

        record, run = self._shelf.record(run_id), self._state.run(run_id)
        if record.state in _GONE:
            raise _refused(run_id, f"is {record.state} and cannot be resumed", "start a new run")
        if self._shelf.alive(run_id):
            raise _refused(run_id, "is running already", f"planner attach {run_id}")
        self._require_room(run_id)
        self._state.require_writable()
        if dry_run:
            return
        commands.discard(run.commands, "pause", "cancel", "checkpoint")
        start_supervisor(self._state, run)

    def cancel(self, run_id: str, *, now: bool = False) -> None:
        """Checkpoint (unless `now`), release, verify, end.

        A run without a supervisor gets one, which releases what is left and ends it.

        Raises:
            UsageError: It has ended.
        """
        from planner.services.runs.launch import start_supervisor

        record = self._shelf.record(run_id)
        if record.ended and record.state is not RunState.PAUSED:
            raise _refused(run_id, f"has ended: it is {record.state}", "nothing is left to cancel")
        self._send(run_id, "cancel", now=now)
        if not self._shelf.alive(run_id):
            start_supervisor(self._state, self._state.run(run_id))

    def extend(
        self,
        run_id: str,
        *,
        deadline_s: float | None = None,
        budget_usd: float | None = None,
        dry_run: bool = False,
    ) -> None:
        """Raise the deadline or the cap by so much; recorded as a decision.

        Raises:
            UsageError: The run has no such limit, has ended for good, or a value is not positive.
            StoreError: The state directory cannot be written.
        """
        record = self._shelf.record(run_id)
        if record.state in _GONE:
            raise _refused(run_id, f"is {record.state}", "there is nothing left to extend")
        asked = {"deadline_s": deadline_s, "budget_usd": budget_usd}
        values = {name: value for name, value in asked.items() if value is not None}
        if not values or any(value <= 0 for value in values.values()):
            raise _refused(run_id, "can only be extended by more than nothing", "--budget +5")
        if deadline_s is not None and record.deadline_at is None:
            raise _refused(run_id, "has no deadline", "only a limit that is there can be raised")
        if budget_usd is not None and record.budget_microusd is None:
            raise _refused(run_id, "has no cap", "only a limit that is there can be raised")
        self._state.require_writable()
        if dry_run:
            return
        if self._shelf.alive(run_id):
            self._send(run_id, "extend", **values)
        else:
            self._extend_at_rest(run_id, values)

    def adjust(self, run_id: str, wish: Wish, *, dry_run: bool = False) -> Expectation:
        """Change a running job; what is to be expected of it.

        Raises:
            AdjustRefusedError: It cannot or may not be done, with the reason.
            TransitionError: It is not running, or has lost its supervisor.
        """
        from planner.services.runs.adjusting import send_adjust

        self._require_alive(run_id, "adjusted")
        view, record = self._shelf.view(run_id), self._shelf.record(run_id)
        if record.state is RunState.STOPPING:
            raise _refused(run_id, "is stopping and cannot be adjusted", "planner status")
        options = self._kept_options(view.plan.estimate_id)
        folder = None if dry_run else self._state.run(run_id).commands
        return send_adjust(view, record, wish, options=options, folder=folder, clock=self._clock)

    def _kept_options(self, estimate_id: str) -> tuple[Option, ...]:
        """The options that the run was chosen from; none where its estimate is not kept."""
        try:
            return self.load_estimate(estimate_id).options
        except (NotFoundError, StoreError):
            return ()

    def report(self, run_id: str) -> Mapping[str, Any]:
        """The report: predicted against real, as plain JSON values; so far, before the end."""
        from planner.services.runs.report import build_report

        record, run = self._shelf.record(run_id), self._state.run(run_id)
        if record.ended and record.state is not RunState.PAUSED and run.report.exists():
            kept: dict[str, Any] = read_json(run.report)
            return kept
        return build_report(self._shelf.plan(run_id), record, self._clock.now())

    def compare(self, references: Sequence[str]) -> Comparison:
        """Two or more runs, estimates (`e-...`) or options (`e-.../o3`) side by side."""
        from planner.services.compare import compare

        return compare(references, self._shelf, self.load_estimate)

    # ---- house

    def doctor(self, only: Sequence[str] = ()) -> tuple[Check, ...]:
        """Check the environment."""
        from planner.services.doctor import run_checks

        return run_checks(self._state.path, only)

    def leftovers(self, *, leaked_only: bool, older_than_s: float | None) -> tuple[Leftover, ...]:
        """What planner left behind and may be removed."""
        from planner.services.clean import leftovers

        return leftovers(self._state.path, leaked_only=leaked_only, older_than_s=older_than_s)

    def clean(self, leftovers: Sequence[Leftover]) -> None:
        """Remove them."""
        from planner.services.clean import clean

        clean(self._state.path, leftovers)

    # ---- requests

    def _send(self, run_id: str, action: Action, **values: Any) -> None:
        commands.send(self._state.run(run_id).commands, self._clock, action, **values)

    def _require_alive(self, run_id: str, what: str) -> None:
        record = self._shelf.record(run_id)
        if record.ended:
            raise _refused(run_id, f"is {record.state} and cannot be {what}", "planner status")
        if not self._shelf.alive(run_id):
            raise _refused(
                run_id,
                f"cannot be {what}: its supervisor is gone",
                f"planner resume {run_id}, or planner cancel {run_id}",
            )

    def _require_room(self, run_id: str) -> None:
        record, plan = self._shelf.record(run_id), self._shelf.plan(run_id)
        if record.budget_microusd is None:
            return
        now = record.adjust.in_force or planned(plan)
        reserve = now.price.usd_per_h * 1e6 * CLEAN_STOP_S / 3600
        if record.spent_microusd + reserve >= record.budget_microusd:
            raise BudgetStopError(
                f"run {run_id} has spent ${record.spent_microusd / 1e6:.4f} of its cap of "
                f"${record.budget_microusd / 1e6:.4f}: there is no room to go on",
                hint=f"planner extend {run_id} --budget +...",
            )

    def _extend_at_rest(self, run_id: str, values: Mapping[str, float]) -> None:
        """Without a supervisor this process holds the lock for a moment and writes it down."""
        from planner.services.supervisor.book import RunBook
        from planner.services.supervisor.loop import extend

        run = self._state.run(run_id)
        plan: Plan = self._shelf.plan(run_id)
        with held(run, timeout_s=5.0):
            journal = Journal(run.journal, run_id, self._clock)
            try:
                book = RunBook(run=run, plan=plan, journal=journal, clock=self._clock)
                extend(book, Command(id="", action="extend", values=values))
                journal.require_written()
            finally:
                journal.close()


def _refused(run_id: str, what: str, hint: str) -> TransitionError:
    return TransitionError(f"run {run_id} {what}", hint=hint)
