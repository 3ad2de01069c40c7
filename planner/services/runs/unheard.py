"""What the workers of a run did since its supervisor was gone. Only looks: nothing is changed."""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime
from typing import Any

from planner.core.errors import PlannerError
from planner.core.plan import Plan
from planner.services.runs.runlock import supervised_here
from planner.services.supervisor.heard import Heard
from planner.services.supervisor.progress import Progress
from planner.store.files import load
from planner.store.layout import RunDir
from planner.store.record import Checkpoint, RunRecord
from runners.base import Handle, WorkerState
from runners.registry import get_runner


class Unheard:
    """Follows one attempt that nobody looks after.

    Args:
        run: The run's folder.
        plan: What was agreed to.
        attempt: The launch that was not released, counted from 1.
    """

    def __init__(self, run: RunDir, plan: Plan, attempt: int) -> None:
        self.attempt = attempt
        self._run = run
        self._folder = run.attempt(attempt)
        self._progress = Progress(plan)
        self._heard = Heard(self._folder)
        self._expects = plan.option.knobs.global_batch
        self._checkpoint: Checkpoint | None = None
        self._left = False

    def amended(self, record: RunRecord) -> RunRecord:
        """A copy of the record that tells what was not heard, as far as it can be found out."""
        now = record.adjust.in_force
        if now is not None and now.knobs.global_batch != self._expects:
            self._expects = now.knobs.global_batch
            self._progress.expect(now)
        self._look()
        found, progress, kept = copy(record), self._progress, self._checkpoint
        if progress.steps_seen or progress.finished:
            found.step, found.epoch, found.samples = progress.step, progress.epoch, progress.samples
            found.steps_total, found.epochs = progress.steps_total, progress.epochs
            found.progress = progress.fraction
        if kept is not None and kept.step > (record.checkpoint.step if record.checkpoint else -1):
            found.checkpoint = kept
        if self._left:
            found.holding = False
            found.samples_per_s = found.loader_wait = None
        return found

    def _look(self) -> None:
        try:
            while batch := self._heard.new():
                for _, event, leads in batch:
                    if leads:
                        self._take(event)
            self._left = self._left or self._workers_left()
        except PlannerError:
            return  # what cannot be found out stays as the journal has it

    def _take(self, event: dict[str, Any]) -> None:
        self._progress.take(event)
        at_t, step, size = event.get("t"), event.get("step"), event.get("bytes")
        if event.get("type") == "checkpoint" and isinstance(step, int):
            at = at_t if isinstance(at_t, int | float) else self._folder.path.stat().st_mtime
            self._checkpoint = Checkpoint(
                at=datetime.fromtimestamp(at, UTC),
                step=step,
                path=event.get("path"),
                bytes=size if isinstance(size, int) else None,
            )

    def _workers_left(self) -> bool:
        """Whether it is known of each worker that it has ended."""
        handles = [unit.handle for unit in self._folder.units().values()]
        if not self._folder.handle.exists():
            return False
        found = [load(Handle, path) for path in handles if path.exists()]
        workers = [w for handle in found for w in get_runner(handle.runner).poll(handle).workers]
        ended = {WorkerState.EXITED}
        if supervised_here(self._run):
            ended.add(WorkerState.LOST)  # seen from another machine it may run all the same
        return all(worker.state in ended for worker in workers)
