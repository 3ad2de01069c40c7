"""Which moves a run may make from one state to the next."""

from __future__ import annotations

from planner.core.errors import TransitionError
from planner.core.types import RunState

_S = RunState
MOVES: dict[RunState, frozenset[RunState]] = {
    _S.PLANNED: frozenset({_S.PROVISIONING, _S.FAILED, _S.CANCELLED}),
    _S.PROVISIONING: frozenset({_S.RUNNING, _S.INTERRUPTED, _S.STOPPING, _S.FAILED, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.INTERRUPTED, _S.STOPPING, _S.DONE, _S.FAILED}),
    _S.INTERRUPTED: frozenset(
        {_S.PROVISIONING, _S.STOPPING, _S.PAUSED, _S.FAILED, _S.CANCELLED, _S.STOPPED_BY_CAP}
    ),
    _S.STOPPING: frozenset({_S.PAUSED, _S.CANCELLED, _S.STOPPED_BY_CAP, _S.DONE, _S.FAILED}),
    _S.PAUSED: frozenset({_S.PROVISIONING, _S.CANCELLED, _S.FAILED}),
    _S.DONE: frozenset(),
    _S.FAILED: frozenset({_S.PROVISIONING}),
    _S.STOPPED_BY_CAP: frozenset({_S.PROVISIONING}),
    _S.CANCELLED: frozenset(),
}
"""Allowed moves. `resume` takes a paused, failed or capped run back to provisioning."""


def check_move(run_id: str, now: RunState, to: RunState) -> None:
    """Raise `TransitionError` unless the run may go from `now` to `to`."""
    if to not in MOVES[now]:
        raise TransitionError(
            f"run {run_id} cannot go from {now} to {to}",
            hint=f"from {now} it can go to: {', '.join(sorted(MOVES[now])) or 'nothing, it ended'}",
        )
