"""Runner `local`: worker processes on this machine's GPUs, or on CPU slots.

Workers are children of a keeper (runners/keeper.py), one small process per launch. It records how
each worker ends, so that any later process can learn it, and it tells the workers to checkpoint
and leave when the process that launched them is gone. See docs/decisions/002.
"""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import psutil

from planner.core.clock import Clock, SystemClock
from planner.core.errors import CleanupError, RunnerError
from planner.core.job import Place
from planner.core.redact import redact
from planner.core.types import Offer
from runners import localplace
from runners.base import (
    Capabilities,
    Handle,
    LaunchSpec,
    Leftover,
    Measurement,
    Signal,
    Status,
)
from runners.localstart import reap_keeper, start_or_find
from runners.localstate import Launch, require_rebooted, status
from runners.metrics import Nvml, TreeMeter
from runners.processes import (
    Marked,
    ProcessId,
    command_line,
    launch_processes,
    marked_processes,
)

_KILL_TIMEOUT_S = 10.0
_KEEPER_TIMEOUT_S = 2.0
_LEFTOVER_GRACE_S = 5.0
_COMMAND_WIDTH = 120


class LocalRunner:
    """Runs workers on this machine; see `planner.runners` and docs/training-script.md.

    Args:
        clock: For the time of prices, and for waiting in `release` and `remove`.
        nvml: For tests; by default the machine's own.
    """

    def __init__(self, clock: Clock | None = None, nvml: Nvml | None = None) -> None:
        self._clock = clock or SystemClock()
        self._nvml = nvml or Nvml()
        self._meters: dict[tuple[str, int], TreeMeter] = {}

    def capabilities(self) -> Capabilities:
        """One machine, no money of its own, workers end with whoever launched them."""
        return Capabilities(
            name="local",
            survives_caller=False,
            measures_gpu=bool(self._nvml.gpus()),
            signals=frozenset(Signal),
            grows=True,
            shrinks=True,
            network=f"host:{os.uname().nodename}",
        )

    def offers(self, place: Place) -> tuple[Offer, ...]:
        """One for each number of workers, from one to all GPUs or slots.

        Raises:
            ConfigError: The place's settings do not fit.
            RunnerError: GPUs are asked for and there is none.
        """
        return localplace.offers(place, self._nvml, self._clock.now())

    def launch(self, spec: LaunchSpec) -> Handle:
        """Start all workers, or none; what was started under the same key before is found again.

        Raises:
            ConfigError: The place's settings do not fit.
            RunnerError: Nothing was started.
        """
        record = start_or_find(spec, localplace.read_settings(spec.place), self._nvml)
        return Handle(runner="local", key=spec.idempotency_key, data=record)

    def grow(self, handle: Handle, spec: LaunchSpec) -> Handle:
        """Start workers beside those of a launch of this boot of this machine, with own keeper.

        Raises:
            ConfigError: The place's settings do not fit.
            RunnerError: Nothing was started.
        """
        beside, settings = Launch.of(handle.data), localplace.read_settings(spec.place)
        if not beside.here or beside.host != os.uname().nodename:
            raise RunnerError(
                f"run {beside.run_id} runs on {beside.host}, before a restart or on another "
                "machine: workers that are started here cannot join it",
                hint="start it again from its last checkpoint",
            )
        record = start_or_find(spec, settings, self._nvml, beside)
        return Handle(runner="local", key=spec.idempotency_key, data=record)

    def shrink(self, handle: Handle, ranks: Sequence[int]) -> None:
        """SIGKILL to these workers and their children, those in other sessions included.

        Raises:
            RunnerError: The launch has no such worker.
            CleanupError: Processes could not be ended, or are on another machine.
        """
        launch = Launch.of(handle.data)
        unknown = [rank for rank in ranks if not 0 <= rank < len(launch.workers)]
        if unknown:
            raise RunnerError(f"this launch of {launch.run_id} has no worker of rank {unknown}")
        if not launch.here:
            require_rebooted(launch, os.uname().nodename)
            return
        _require_ended(launch, self._kill(launch, ranks))
        for rank in ranks:
            self._meters.pop((launch.attempt_dir, rank), None)

    def poll(self, handle: Handle) -> Status:
        """Where the workers stand now. Never waits."""
        reap_keeper(str(handle.data["attempt_dir"]))
        return status(Launch.of(handle.data))

    def signal(self, handle: Handle, signal: Signal) -> None:
        """STOP reaches the workers themselves only, as loaders must live to the step's end.

        KILL reaches their children too, those in other sessions or groups included.
        """
        launch = Launch.of(handle.data)
        if not launch.here:
            return
        if signal is Signal.STOP:
            for worker in launch.workers:
                worker.send(signals.SIGTERM)
        else:
            self._kill(launch)

    def measure(self, handle: Handle) -> Sequence[Measurement]:
        """What the running workers use now. A worker's first CPU value is None."""
        launch = Launch.of(handle.data)
        now_s = self._clock.monotonic_s()
        return [
            self._measure_one(launch, rank, now_s)
            for rank, worker in enumerate(launch.workers)
            if launch.here and worker.alive()
        ]

    def release(self, handle: Handle) -> None:
        """STOP, wait for the launch's grace, KILL, and see that nothing is left.

        Raises:
            CleanupError: Processes could not be ended; the text names them.
        """
        launch = Launch.of(handle.data)
        if not launch.here:
            require_rebooted(launch, os.uname().nodename)
            return
        self.signal(handle, Signal.STOP)
        self._wait(lambda: not any(w.alive() for w in launch.workers), launch.stop_grace_s)
        _require_ended(launch, self._kill(launch))
        if not self._wait(lambda: not launch.keeper.alive(), _KEEPER_TIMEOUT_S):
            launch.keeper.send(signals.SIGKILL)
        reap_keeper(launch.attempt_dir)
        for rank in range(len(launch.workers)):
            self._meters.pop((launch.attempt_dir, rank), None)

    def leftovers(self) -> tuple[Leftover, ...]:
        """Every process of this user here that carries a run's mark, running runs included."""
        return tuple(_leftover(process) for process in marked_processes())

    def remove(self, leftover: Leftover) -> None:
        """SIGTERM, five seconds, SIGKILL.

        Raises:
            CleanupError: The process is still there.
        """
        process = _process_of(leftover)
        process.send(signals.SIGTERM)
        if self._wait(lambda: not process.alive(), _LEFTOVER_GRACE_S):
            return
        process.send(signals.SIGKILL)
        if not self._wait(lambda: not process.alive(), _KILL_TIMEOUT_S):
            raise CleanupError(
                f"process {process.pid} of run {leftover.run_id} could not be ended",
                hint=f"end it yourself: kill -9 {process.pid}",
            )

    def _measure_one(self, launch: Launch, rank: int, now_s: float) -> Measurement:
        key = (launch.attempt_dir, rank)
        if key not in self._meters:
            self._meters[key] = TreeMeter(launch.workers[rank], launch.cores)
        cpu_fraction, rss_bytes = self._meters[key].sample(now_s)
        gpu = launch.gpus[rank]
        utilisation, gpu_memory_bytes = self._nvml.sample(gpu) if gpu else (None, None)
        return Measurement(
            rank=rank,
            cpu_fraction=cpu_fraction,
            rss_bytes=rss_bytes,
            gpu_utilisation=utilisation,
            gpu_memory_bytes=gpu_memory_bytes,
        )

    def _kill(self, launch: Launch, ranks: Sequence[int] | None = None) -> frozenset[ProcessId]:
        """End every process of these workers, found anew until none is; those that are left.

        Without ranks: of the whole launch, those included that name no worker.
        """
        until_s = self._clock.monotonic_s() + _KILL_TIMEOUT_S
        workers, numbers = launch.workers, None
        if ranks is not None:
            workers = tuple(launch.workers[rank] for rank in ranks)
            numbers = frozenset(launch.first_worker + rank for rank in ranks)
        while left := launch_processes(launch.attempt_dir, workers, numbers):
            for process in left:
                process.send(signals.SIGKILL)
            if self._clock.monotonic_s() > until_s:
                return left
            self._clock.sleep(0.02)
        return frozenset()

    def _wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Look until it is done, ever more slowly; whether it was in time."""
        until_s, pause_s = self._clock.monotonic_s() + timeout_s, 0.005
        while not done():
            left_s = until_s - self._clock.monotonic_s()
            if left_s <= 0:
                return False
            self._clock.sleep(min(pause_s, left_s))
            pause_s = min(0.25, pause_s * 1.5)
        return True


def _require_ended(launch: Launch, left: frozenset[ProcessId]) -> None:
    if left:
        raise CleanupError(
            f"processes of run {launch.run_id} could not be ended: {_named(left)}",
            hint=f"end them yourself: kill -9 {' '.join(str(p.pid) for p in left)}",
        )


def _leftover(marked: Marked) -> Leftover:
    process = marked.process
    what = "keeper" if marked.keeper else "process" if marked.worker is None else "worker"
    command = redact(command_line(process))
    if len(command) > _COMMAND_WIDTH:
        command = command[: _COMMAND_WIDTH - 1] + "…"
    return Leftover(
        kind="process",
        id=f"{process.pid}:{process.start_ticks}",
        run_id=marked.run_id,
        text=f"{what} {process.pid} of {marked.run_id}: {command}",
        since=_started_at(process),
        attempt_dir=marked.attempt_dir or None,
    )


def _started_at(process: ProcessId) -> datetime | None:
    try:
        return datetime.fromtimestamp(psutil.Process(process.pid).create_time(), UTC)
    except psutil.NoSuchProcess:
        return None


def _process_of(leftover: Leftover) -> ProcessId:
    pid, _, ticks = leftover.id.partition(":")
    return ProcessId(int(pid), int(ticks))


def _named(processes: Iterable[ProcessId]) -> str:
    return ", ".join(f"{p.pid} ({command_line(p) or 'ended'})" for p in processes)
