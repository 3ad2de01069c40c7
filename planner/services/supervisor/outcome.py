"""How an attempt ended, judged from its workers' exit codes and from what was asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from planner.core.types import RunState
from planner.services.supervisor.attempt import (
    EXIT_AGAIN,
    Attempt,
    left_to_run_again,
)
from planner.services.supervisor.progress import Progress
from planner.store.record import Checkpoint
from runners.base import Status

StopReason = Literal["pause", "cancel", "budget", "supervisor", "adjust"]
"""Why an attempt is stopped; `adjust` is nobody's request to rest: the next attempt follows."""
TARGETS: Mapping[str, RunState] = {
    "pause": RunState.PAUSED,
    "supervisor": RunState.PAUSED,
    "cancel": RunState.CANCELLED,
    "budget": RunState.STOPPED_BY_CAP,
}
"""Where a run comes to rest, by why it was stopped."""


@dataclass(slots=True)
class Stop:
    """A stop that was asked for."""

    reason: StopReason
    now: bool = False
    since_s: float | None = None
    forced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        kind: `finished`; `stopped` on request; `adjusting` when it was ended in good order for a
            change that the next attempt makes; `yielded` when it left with exit code 75 unasked;
            `crashed`, `hung` or `lost`; `refused` when it could not even be started.
        progressed: Whether it did a step or finished its training.
    """

    kind: Literal[
        "finished", "stopped", "adjusting", "yielded", "crashed", "hung", "lost", "refused"
    ]
    reason: str
    log: tuple[str, ...] = ()
    exit_codes: tuple[int | None, ...] = ()
    progressed: bool = False


def judge(
    attempt: Attempt,
    status: Status,
    progress: Progress,
    *,
    stop: Stop | None,
    hung_after_s: float | None,
    first_failed: Sequence[int],
    checkpoint: Checkpoint | None,
) -> Outcome:
    """What became of an attempt none of whose workers runs any more.

    Args:
        attempt: Its files are read for the reason of a failure.
        status: How its workers ended.
        progress: What it did.
        stop: The stop that was asked for, if any.
        hung_after_s: Silence after which it was ended; None when it was not.
        first_failed: Numbers of workers that failed by themselves, not because another one did.
        checkpoint: The last one, for messages.
    """
    codes = status.exit_codes
    progressed = progress.steps_seen > 0 or progress.finished
    # Some scripts leave with 0 when they are told to: that alone does not make a stopped run done.
    if codes and all(code == 0 for code in codes) and (stop is None or progress.complete):
        return Outcome(kind="finished", reason="finished", exit_codes=codes, progressed=True)
    if stop is not None:
        text = _stop_text(stop, codes, checkpoint)
        return Outcome(kind="stopped", reason=text, exit_codes=codes)
    if left_to_run_again(status) and not first_failed and hung_after_s is None:
        text = "the job left with exit code 75: run me again"
        return Outcome(kind="yielded", reason=text, exit_codes=codes, progressed=progressed)
    reason, log = attempt.explain(status, first_failed)
    if hung_after_s is None:
        return Outcome(
            kind="crashed", reason=reason, log=log, exit_codes=codes, progressed=progressed
        )
    reason = f"no step for {hung_after_s:.0f} s: the run was hanging"
    return Outcome(kind="hung", reason=reason, log=log, exit_codes=codes, progressed=progressed)


def _stop_text(stop: Stop, codes: tuple[int | None, ...], checkpoint: Checkpoint | None) -> str:
    kept = f"checkpoint of step {checkpoint.step} kept" if checkpoint else "no checkpoint"
    if stop.now:
        return kept
    if stop.forced:
        return f"ended by force, as it did not leave in time; {kept}"
    if any(code not in (0, EXIT_AGAIN) for code in codes):
        return f"ended without a checkpoint of its own; {kept}"
    return kept
