"""Runner `fake`: no processes, a simulated job that keeps the training-script contract.

For tests of services on a clock that stands still until told (a six-hour run replays in a second),
for predictors (the truth is known: `runners.fakelaw.Law`), and for the demo. It lives in files
like a real launch: any later instance goes on with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from planner.core.clock import Clock, SystemClock
from planner.core.distribution import Distribution
from planner.core.errors import RunnerError
from planner.core.types import Offer, Place, PriceQuote, ResourceConfig
from runners.base import (
    Capabilities,
    Handle,
    LaunchSpec,
    Leftover,
    Measurement,
    Signal,
    Status,
    WorkerState,
    WorkerStatus,
)
from runners.fakefiles import Files
from runners.fakejob import Job
from runners.fakelaw import read_settings
from runners.fakeorder import Order

_IDLE_CPU_FRACTION = 0.03
_LOOK_S = 0.25
_LAUNCHED: set[str] = set()
"""Attempt folders of this process's launches: simulated workers end with their process."""


class FakeRunner:
    """Simulates workers; see `runners.fakelaw` for what can be set in the place's settings.

    Args:
        clock: What the simulated job goes by.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._files = Files()

    def capabilities(self) -> Capabilities:
        """Everything is measured, nothing costs money."""
        return Capabilities(name="fake", measures_gpu=True, signals=frozenset(Signal))

    def offers(self, place: Place) -> tuple[Offer, ...]:
        """One for each number of workers up to `slots`.

        Raises:
            ConfigError: The settings do not fit.
        """
        settings, now = read_settings(place.settings), self._clock.now()
        gpu, capacity = settings.gpu or None, settings.law.capacity_bytes
        offers = []
        for workers in range(1, settings.slots + 1):
            usd_per_h = settings.usd_per_slot_h * workers
            resources = ResourceConfig(
                runner="fake",
                pool="gpu" if gpu else "cpu",
                market="local",
                workers_per_node=workers,
                gpus_per_node=workers if gpu else 0,
                gpu=gpu,
                gpu_memory_bytes=capacity if gpu else None,
                vcpus_per_node=workers,
                memory_bytes_per_node=capacity * workers,
            )
            price = PriceQuote(
                usd_per_h=usd_per_h, source="contract" if usd_per_h > 0 else "free", as_of=now
            )
            offers.append(Offer(resources=resources, price=price, wait_s=Distribution.exactly(0.0)))
        return tuple(offers)

    def launch(self, spec: LaunchSpec) -> Handle:
        """Start to simulate; what was launched under the same key before goes on.

        Raises:
            ConfigError: The settings do not fit.
            RunnerError: The folder holds another launch, or the fault `no_start` is set.
        """
        settings, folder = read_settings(spec.place.settings), Path(spec.attempt_dir)
        if self._files.exists(spec.attempt_dir):
            key = self._files.load(spec.attempt_dir).order.key
            if key != spec.idempotency_key:
                raise RunnerError(
                    f"{spec.attempt_dir} already holds another launch, {key}",
                    hint="every launch needs an attempt folder of its own",
                )
            return self._handle(spec)
        if any(fault.kind == "no_start" for fault in settings.faults_of(spec.attempt)):
            raise RunnerError("the simulated workers could not be started", hint="it was asked for")
        if spec.resources.workers > settings.slots:
            raise RunnerError(
                f"{spec.resources.workers} workers do not fit {settings.slots} simulated slots",
                hint="raise slots in [[where]]",
                code="environment.no_slot",
            )
        if not folder.is_dir():
            raise RunnerError(
                f"the attempt folder {folder} does not exist", hint="the caller has to make it"
            )
        for rank in range(spec.resources.workers):
            for stream in ("out", "err"):
                (folder / f"worker-{rank}.{stream}").touch()
        self._files.create(Order.of(spec, settings, self._now_t()))
        _LAUNCHED.add(spec.attempt_dir)
        return self._handle(spec)

    def poll(self, handle: Handle) -> Status:
        """Simulate until now, and say where the workers stand."""
        job = self._advance(handle)
        code = job.state.exit_code
        state = WorkerState.RUNNING if code is None else WorkerState.EXITED
        ended_t = None if code is None else job.state.t
        ranks = range(job.order.workers)
        return Status(
            workers=tuple(
                WorkerStatus(rank=r, state=state, exit_code=code, ended_t=ended_t) for r in ranks
            )
        )

    def signal(self, handle: Handle, signal: Signal) -> None:
        """STOP is obeyed at the next step's end, unless the job hangs; KILL at once."""
        job = self._advance(handle)
        if job.state.exit_code is not None:
            return
        if signal is Signal.STOP:
            job.tell_stop(self._now_t())
        else:
            job.kill()
        self._files.save(job)

    def measure(self, handle: Handle) -> Sequence[Measurement]:
        """What the law says of a busy worker."""
        job = self._advance(handle)
        if job.state.exit_code is not None:
            return []
        busy, memory_bytes = job.busy_fraction, job.memory_bytes
        on_gpu = bool(job.settings.gpu)
        host_bytes = job.settings.law.fixed_bytes if on_gpu else max(1, memory_bytes)
        return [
            Measurement(
                rank=rank,
                cpu_fraction=max(_IDLE_CPU_FRACTION, busy),
                rss_bytes=host_bytes,
                gpu_utilisation=busy if on_gpu else None,
                gpu_memory_bytes=memory_bytes if on_gpu else None,
            )
            for rank in range(job.order.workers)
        ]

    def release(self, handle: Handle) -> None:
        """STOP, wait on the clock for the grace, KILL. May be repeated."""
        self.signal(handle, Signal.STOP)
        until_s = self._clock.monotonic_s() + self._advance(handle).order.stop_grace_s
        while self.poll(handle).running and self._clock.monotonic_s() < until_s:
            self._clock.sleep(_LOOK_S)
        self.signal(handle, Signal.KILL)
        _LAUNCHED.discard(str(handle.data["attempt_dir"]))

    def leftovers(self) -> tuple[Leftover, ...]:
        """Launches of this process that still run."""
        found = []
        for folder in sorted(_LAUNCHED):
            if not self._files.exists(folder):
                continue
            job = self._advance(_handle_of(folder))
            if job.state.exit_code is None:
                order = job.order
                found.append(
                    Leftover(
                        kind="simulated",
                        id=folder,
                        run_id=order.run_id,
                        text=f"{order.workers} simulated workers of {order.run_id}",
                        since=datetime.fromtimestamp(order.launched_t, UTC),
                        attempt_dir=folder,
                    )
                )
        return tuple(found)

    def remove(self, leftover: Leftover) -> None:
        """Stop simulating it."""
        if self._files.exists(leftover.id):
            self.signal(_handle_of(leftover.id), Signal.KILL)

    def _handle(self, spec: LaunchSpec) -> Handle:
        data = {"attempt_dir": spec.attempt_dir, "run_id": spec.run_id}
        return Handle(runner="fake", key=spec.idempotency_key, data=data)

    def _now_t(self) -> float:
        return self._clock.now().timestamp()

    def _advance(self, handle: Handle) -> Job:
        job = self._files.load(str(handle.data["attempt_dir"]))
        if job.state.exit_code is None and job.advance(self._now_t()):
            self._files.save(job)
        return job


def _handle_of(folder: str) -> Handle:
    return Handle(runner="fake", key="", data={"attempt_dir": folder})
