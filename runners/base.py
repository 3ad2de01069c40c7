"""The runner protocol: start worker processes somewhere, watch them, stop them, leave nothing.

A runner knows nothing of training. It is given a command, a shape and an environment, starts one
process per worker, and answers what became of them. What the workers say about themselves comes
through the files of the training-script contract (docs/training-script.md), which the runner only
brings near: `LaunchSpec.attempt_dir` is where they appear for the caller.

Every handle survives its maker: it is plain data, written down by the caller before anything else
happens, and any later process can poll, stop and release what it names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from planner.core.job import Place
from planner.core.types import Offer, ResourceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a runner can do; callers ask instead of testing for its name.

    Attributes:
        grows: Whether `grow` can start workers beside those that run.
        shrinks: Whether `shrink` can end some workers of a launch and leave the others alone.
        network: Name of the network that launches of this runner can reach each other in, across
            places too: a worker may take over from another only within it. None where they cannot.
    """

    name: str
    multi_node: bool = False
    spends_money: bool = False
    survives_caller: bool = True
    measures_gpu: bool = False
    signals: frozenset[Signal] = frozenset()
    grows: bool = False
    shrinks: bool = False
    network: str | None = None


class Signal(StrEnum):
    """What can be said to running workers from outside, weakest first."""

    STOP = "stop"  # SIGTERM to every worker: checkpoint at the next step boundary, exit 75
    KILL = "kill"  # SIGKILL to every worker and all its children


class WorkerState(StrEnum):
    """Where one worker stands."""

    PENDING = "pending"
    RUNNING = "running"
    EXITED = "exited"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """What to start. Starting the same `idempotency_key` twice gives the same handle.

    Attributes:
        run_id: Run or probe this belongs to; every process carries it as `PLANNER_RUN_ID`.
        attempt: Counts the launches of one run, from 1.
        argv: The command, placeholders filled in. Not given to a shell.
        workdir: Absolute folder it runs in.
        env: Environment of the workers, complete but for what the runner adds (rank, devices,
            event file; see docs/training-script.md). Nothing else is inherited.
        resources: The shape; `resources.workers` processes are started.
        place: The `[[where]]` entry it came from, for the runner's own settings.
        attempt_dir: Absolute folder, made by the caller, for logs and event files:
            `worker-<number>.out`, `worker-<number>.err`, `events-<number>.ndjson`.
        stage_dir: Absolute folder with the staged SDK, put first on the workers' PYTHONPATH.
        stop_grace_s: Between a request to stop and force.
        first_worker: Number of the first worker. Worker numbers are unique within an attempt; that
            of a worker is this plus its rank in the launch, and names its files.
        crew_dir: Absolute folder that all launches of an attempt share, through which their
            workers find each other; None where workers are not to be joined.
    """

    run_id: str
    attempt: int
    idempotency_key: str
    argv: tuple[str, ...]
    workdir: str
    env: Mapping[str, str]
    resources: ResourceConfig
    place: Place
    attempt_dir: str
    stage_dir: str
    stop_grace_s: float = 30.0
    first_worker: int = 0
    crew_dir: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """Names what was started. Plain data: `data` holds JSON values only."""

    runner: str
    key: str
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One worker. `exit_code` is negative for a signal, None while it runs or when unknown.

    `ended_t` is when it ended, in Unix seconds; None while it runs or when nobody knows.
    """

    rank: int
    state: WorkerState
    exit_code: int | None = None
    reason: str | None = None
    ended_t: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All workers of one launch."""

    workers: tuple[WorkerStatus, ...]

    @property
    def running(self) -> bool:
        """Whether any worker still runs or is about to."""
        alive = (WorkerState.PENDING, WorkerState.RUNNING)
        return any(w.state in alive for w in self.workers)

    @property
    def exit_codes(self) -> tuple[int | None, ...]:
        """Exit codes by rank."""
        return tuple(w.exit_code for w in self.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one worker uses now, seen from outside. None where it cannot be told."""

    rank: int
    cpu_fraction: float | None = None
    rss_bytes: int | None = None
    gpu_utilisation: float | None = None
    gpu_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something of ours that still exists: shown by `planner clean`, removed only after consent.

    Attributes:
        attempt_dir: Folder of the launch it belongs to; None when that is not known. Runs of
            different state directories on one machine can have the same id, never the same folder.
    """

    kind: str
    id: str
    run_id: str | None
    text: str
    since: datetime | None = None
    usd_per_h: float = 0.0
    attempt_dir: str | None = None


@runtime_checkable
class Runner(Protocol):
    """A place to run. Found by name in the entry-point group `planner.runners`.

    Every method may raise `RunnerError`. None of them changes the caller's files but under
    `attempt_dir`. `tests/contract/runner_contract.py` holds what each implementation must pass.
    """

    def capabilities(self) -> Capabilities:
        """What this runner can do."""

    def offers(self, place: Place) -> tuple[Offer, ...]:
        """Shapes that could be started at this place now, each with its price and wait.

        Raises:
            ConfigError: The place's settings do not fit this runner.
        """

    def launch(self, spec: LaunchSpec) -> Handle:
        """Start all workers, or none.

        Raises:
            RunnerError: Nothing was started: no such command, no such folder, no free slot.
        """

    def grow(self, handle: Handle, spec: LaunchSpec) -> Handle:
        """Start workers that join those of `handle`, which are not disturbed.

        A launch of its own, with a folder and a key of its own and `spec.first_worker` above every
        number used before. What differs is told to its workers: docs/adjust.md, "Environment".

        Raises:
            RunnerError: Nothing was started, or this runner does not grow.
        """

    def shrink(self, handle: Handle, ranks: Sequence[int]) -> None:
        """End these workers of the launch and free what they held; the others go on.

        For workers that have left, or must. Not an error when they are gone already.

        Raises:
            RunnerError: This runner does not shrink.
            CleanupError: They could not be ended; the text names them.
        """

    def poll(self, handle: Handle) -> Status:
        """Where the workers stand now. Never waits."""

    def signal(self, handle: Handle, signal: Signal) -> None:
        """Tell every worker that still runs. Not an error when none does."""

    def measure(self, handle: Handle) -> Sequence[Measurement]:
        """What the running workers use now; empty when none runs."""

    def release(self, handle: Handle) -> None:
        """End whatever is left of it and make sure that it is gone. May be repeated.

        Raises:
            CleanupError: Something could not be ended; the text names it.
        """

    def leftovers(self) -> tuple[Leftover, ...]:
        """Everything here that carries planner's mark and still exists."""

    def remove(self, leftover: Leftover) -> None:
        """Remove one leftover. Not an error when it is gone already.

        Raises:
            CleanupError: It is still there.
        """
