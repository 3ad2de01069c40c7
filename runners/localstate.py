"""What became of a launch on this machine, read from its record and its file of exit codes."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from planner.core.errors import CleanupError
from runners.base import Status, WorkerState, WorkerStatus
from runners.keeper import EXIT_WIDTH, EXITS_NAME
from runners.processes import ProcessId, boot_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A handle's data, read.

    Attributes:
        group: Attempt folder of the first unit, that of the launch itself unless it was grown.
        pool: The place's; its slots are shared by all units of the group there.
        first_worker: Number of the worker of rank 0.
        here: Whether it was started in this boot of this machine.
        cores: Cores of one worker's slot.
        gpus: UUID of each worker's GPU; None on a CPU slot.
    """

    run_id: str
    attempt_dir: str
    group: str
    pool: str
    first_worker: int
    host: str
    here: bool
    stop_grace_s: float
    cores: int
    gpus: tuple[str | None, ...]
    keeper: ProcessId
    workers: tuple[ProcessId, ...]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """From `Handle.data`, or what an older version wrote down of a launch that still runs."""
        return cls(
            run_id=data["run_id"],
            attempt_dir=data["attempt_dir"],
            group=data.get("group", data["attempt_dir"]),
            pool=data.get("pool", ""),
            first_worker=data.get("first_worker", 0),
            host=data["host"],
            here=data["boot_id"] == boot_id(),
            stop_grace_s=data["stop_grace_s"],
            cores=data["cores"],
            gpus=tuple(data["gpus"]),
            keeper=ProcessId(*data["keeper"]),
            workers=tuple(ProcessId(*worker) for worker in data["workers"]),
        )


def status(launch: Launch) -> Status:
    """Where each worker stands now."""
    # In this order: a worker that ends in between is then seen as running, not as lost.
    running = [launch.here and worker.alive() for worker in launch.workers]
    kept = launch.here and launch.keeper.alive()
    exits = _exits(launch)
    workers = (
        _worker_status(launch, rank, end=end, running=alive or kept)
        for rank, (end, alive) in enumerate(zip(exits, running, strict=True))
    )
    return Status(workers=tuple(workers))


def require_rebooted(launch: Launch, host: str) -> None:
    """Nothing of a launch outlives its machine's boot; on another machine it may still run.

    Raises:
        CleanupError: It was started on another machine, which cannot be reached from here.
    """
    if launch.host != host:
        raise CleanupError(
            f"run {launch.run_id} was started on {launch.host}, which is not this machine",
            hint=f"run planner clean on {launch.host}",
        )


def _worker_status(
    launch: Launch, rank: int, *, end: tuple[int, float] | None, running: bool
) -> WorkerStatus:
    if end is not None:
        code, ended_t = end
        reason = _signal_text(-code) if code < 0 else None
        return WorkerStatus(
            rank=rank, state=WorkerState.EXITED, exit_code=code, reason=reason, ended_t=ended_t
        )
    if running:
        return WorkerStatus(rank=rank, state=WorkerState.RUNNING)
    if launch.here:
        reason = "it ended unseen: its keeper was killed"
    else:
        reason = f"it was on {launch.host}, before a restart or on another machine"
    return WorkerStatus(rank=rank, state=WorkerState.LOST, reason=reason)


def _exits(launch: Launch) -> list[tuple[int, float] | None]:
    """Exit code and Unix time of each worker's end, as its keeper wrote them down."""
    try:
        text = (Path(launch.attempt_dir) / EXITS_NAME).read_text()
    except FileNotFoundError:
        text = ""  # the attempt folder was removed: nothing is known of the ends
    records = (text[i * EXIT_WIDTH : (i + 1) * EXIT_WIDTH] for i in range(len(launch.workers)))
    return [_exit_of(record.split()) for record in records]


def _exit_of(words: list[str]) -> tuple[int, float] | None:
    return (int(words[0]), float(words[1])) if words else None


def _signal_text(number: int) -> str:
    try:
        return f"ended by {signal.Signals(number).name}"
    except ValueError:
        return f"ended by signal {number}"
