"""Whether the runs of a state directory ask for more of this machine's cores than there are."""

from __future__ import annotations

from planner.core.adjust import planned
from planner.core.errors import PlannerError
from planner.core.plan import Plan
from planner.core.types import ResourceConfig
from planner.services.runs.runlock import supervisor_pid
from planner.store.files import load
from planner.store.journal import read_events
from planner.store.layout import RunDir, StateDir
from planner.store.record import RunRecord
from runners.machine import usable_cores


def crowding(state: StateDir, plan: Plan) -> str | None:
    """What to tell the user before this run is started beside the others; None when all fit.

    Predictions come from probes that had the machine to themselves. Only slots on this machine's
    cores are counted: a GPU is held by one run at a time.

    Raises:
        StoreError: The runs cannot be listed.
    """
    own = _cores(_shape(state.run(plan.run_id), plan))
    if not own:
        return None
    others = {run_id: _held_cores(state, run_id) for run_id in state.run_ids()}
    others = {run_id: n for run_id, n in sorted(others.items()) if n and run_id != plan.run_id}
    cores = usable_cores()
    if not others or own + sum(others.values()) <= cores:
        return None
    return (
        f"{', '.join(others)} and this run use {own + sum(others.values())} of {cores} cores: all "
        "of them will be slower than predicted"
    )


def _held_cores(state: StateDir, run_id: str) -> int:
    """Cores that another run holds now; 0 when it cannot be read, which is not this run's fault."""
    run = state.run(run_id)
    if supervisor_pid(run) is None:
        return 0
    try:
        return _cores(_shape(run, load(Plan, run.plan)))
    except PlannerError:
        return 0


def _shape(run: RunDir, plan: Plan) -> ResourceConfig | None:
    """What a run works with, or starts with next; None once it rests. Raises `StoreError`."""
    record = RunRecord.replay(read_events(run.journal))
    if record.ended:
        return None
    return (record.adjust.in_force or planned(plan)).resources


def _cores(shape: ResourceConfig | None) -> int:
    if shape is None:
        return 0
    on_cores = shape.runner == "local" and not shape.gpus_per_node
    return (shape.vcpus_per_node or shape.workers_per_node) if on_cores else 0
