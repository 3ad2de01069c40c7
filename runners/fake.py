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
from planner.core.job import Place
from planner.core.types import Offer, PriceQuote, ResourceConfig
from runners import fakecrew
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
from runners.fakelaw import FakeSettings, FaultKind, read_settings
from runners.fakeorder import Order
from runners.fakestate import Member, members_of

_IDLE_CPU_FRACTION = 0.03
_LOOK_S = 0.25
_LAUNCHED: set[str] = set()
"""Attempt folders of this process's launches: simulated workers end with their process."""


class FakeRunner:
    """Simulates workers; see `runners.fakelaw` for what can be set in the place's settings.

    Args:
        clock: What the simulated job goes by.
        grows: Whether its launches can grow and shrink; False stands for a runner that cannot.
    """

    def __init__(self, clock: Clock | None = None, *, grows: bool = True) -> None:
        self._clock = clock or SystemClock()
        self._files = Files()
        self._grows = grows

    def capabilities(self) -> Capabilities:
        """Everything is measured, nothing costs money."""
        return Capabilities(
            name="fake",
            measures_gpu=True,
            signals=frozenset(Signal),
            grows=self._grows,
            shrinks=self._grows,
            network="fake" if self._grows else None,
        )

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
        settings = read_settings(spec.place.settings)
        if not self._found(spec):
            _check(spec, settings, taken=0)
            self._files.create(Order.of(spec, settings, self._now_t()))
            _LAUNCHED.add(spec.attempt_dir)
        return _handle(spec.attempt_dir, spec.idempotency_key, spec.run_id)

    def grow(self, handle: Handle, spec: LaunchSpec) -> Handle:
        """Simulate workers that join: they attach, say that they are ready, and wait.

        Raises:
            ConfigError: The settings do not fit.
            RunnerError: As for `launch`, or this runner was made as one that does not grow.
        """
        self._require_growing()
        settings, (job, _) = read_settings(spec.place.settings), self._look(handle)
        beside = job.order.attempt_dir
        if not self._found(spec):
            here = [m for m in job.state.members if m["pool"] == spec.place.pool]
            faults = _check(spec, settings, taken=len(fakecrew.living(here)))
            order = Order.of(spec, settings, self._now_t(), beside=beside)
            fault = next((f for f in faults if f in ("never_ready", "join_crash")), None)
            if not fakecrew.of_unit(job.state, spec.attempt_dir):
                attach_t = order.launched_t + settings.law.start_s
                job.state.members += members_of(order, attach_t, fault)
                self._files.save(job)
            self._files.create(order)
            _LAUNCHED.add(spec.attempt_dir)
        return _handle(spec.attempt_dir, spec.idempotency_key, spec.run_id, beside)

    def shrink(self, handle: Handle, ranks: Sequence[int]) -> None:
        """Those workers die; when they trained, the others find out and go on.

        Raises:
            RunnerError: There is no such worker, or this runner was made as one that cannot.
        """
        self._require_growing()
        job, unit = self._look(handle)
        if unknown := [rank for rank in ranks if not 0 <= rank < len(unit)]:
            raise RunnerError(f"this launch of {job.order.run_id} has no worker of rank {unknown}")
        fakecrew.kill(job.state, [unit[rank] for rank in ranks], self._now_t())
        self._files.save(job)

    def poll(self, handle: Handle) -> Status:
        """Simulate until now, and say where the workers stand."""
        return Status(workers=tuple(_status(member) for member in self._look(handle)[1]))

    def signal(self, handle: Handle, signal: Signal) -> None:
        """STOP is obeyed at the next step's end, unless the job hangs; KILL at once."""
        job, unit = self._look(handle)
        if not fakecrew.living(unit):
            return
        act = fakecrew.tell_stop if signal is Signal.STOP else fakecrew.kill
        act(job.state, unit, self._now_t())
        self._files.save(job)

    def measure(self, handle: Handle) -> Sequence[Measurement]:
        """What the law says of a busy worker."""
        job, unit = self._look(handle)
        on_gpu, fixed_bytes = bool(job.settings.gpu), job.settings.law.fixed_bytes
        found = []
        for member in fakecrew.living(unit):
            trains = member["number"] in job.state.crew
            busy, memory_bytes = (job.busy_fraction, job.memory_bytes) if trains else (0.0, 0)
            found.append(
                Measurement(
                    rank=member["rank"],
                    cpu_fraction=max(_IDLE_CPU_FRACTION, busy),
                    rss_bytes=fixed_bytes if on_gpu else max(1, memory_bytes),
                    gpu_utilisation=busy if on_gpu else None,
                    gpu_memory_bytes=memory_bytes if on_gpu else None,
                )
            )
        return found

    def release(self, handle: Handle) -> None:
        """STOP, wait on the clock for the grace, KILL. May be repeated."""
        self.signal(handle, Signal.STOP)
        folder = str(handle.data["attempt_dir"])
        until_s = self._clock.monotonic_s() + self._files.order(folder).stop_grace_s
        while self.poll(handle).running and self._clock.monotonic_s() < until_s:
            self._clock.sleep(_LOOK_S)
        self.signal(handle, Signal.KILL)
        _LAUNCHED.discard(folder)

    def leftovers(self) -> tuple[Leftover, ...]:
        """Launches of this process that still run."""
        found = []
        for folder in sorted(_LAUNCHED):
            if not self._files.exists(folder):
                continue
            order = self._files.order(folder)
            if left := fakecrew.living(self._look(_handle_of(order))[1]):
                found.append(
                    Leftover(
                        kind="simulated",
                        id=folder,
                        run_id=order.run_id,
                        text=f"{len(left)} simulated workers of {order.run_id}",
                        since=datetime.fromtimestamp(order.launched_t, UTC),
                        attempt_dir=folder,
                    )
                )
        return tuple(found)

    def remove(self, leftover: Leftover) -> None:
        """Stop simulating it."""
        if self._files.exists(leftover.id):
            self.signal(_handle_of(self._files.order(leftover.id)), Signal.KILL)

    def _require_growing(self) -> None:
        if not self._grows:
            raise RunnerError(
                "this runner neither grows nor shrinks what it launched",
                hint="stop it at a checkpoint and start it again in another shape",
            )

    def _found(self, spec: LaunchSpec) -> bool:
        """Whether it was launched before; the folder must not hold anything else."""
        if not self._files.exists(spec.attempt_dir):
            return False
        key = self._files.order(spec.attempt_dir).key
        if key != spec.idempotency_key:
            raise RunnerError(
                f"{spec.attempt_dir} already holds another launch, {key}",
                hint="every launch needs an attempt folder of its own",
            )
        return True

    def _now_t(self) -> float:
        return self._clock.now().timestamp()

    def _look(self, handle: Handle) -> tuple[Job, list[Member]]:
        """The job that a unit is part of, as it is now, and the unit's workers by rank."""
        folder = str(handle.data["attempt_dir"])
        job = self._files.load(str(handle.data.get("beside", folder)))
        if job.running and job.advance(self._now_t()):
            self._files.save(job)
        return job, fakecrew.of_unit(job.state, folder)


def _check(spec: LaunchSpec, settings: FakeSettings, *, taken: int) -> tuple[FaultKind, ...]:
    """What goes wrong with this launch later, once nothing forbids it; makes its files."""
    faults = settings.launch_faults(spec.attempt, spec.first_worker)
    if "no_start" in faults:
        raise RunnerError("the simulated workers could not be started", hint="it was asked for")
    workers, folder = spec.resources.workers, Path(spec.attempt_dir)
    if workers + taken > settings.slots:
        raise RunnerError(
            f"{workers} workers do not fit {settings.slots} simulated slots"
            + (f", of which {taken} are taken" if taken else ""),
            hint="raise slots in [[where]]",
            code="environment.no_slot",
        )
    if not folder.is_dir():
        raise RunnerError(
            f"the attempt folder {folder} does not exist", hint="the caller has to make it"
        )
    for number in range(spec.first_worker, spec.first_worker + workers):
        for stream in ("out", "err"):
            (folder / f"worker-{number}.{stream}").touch()
    return faults


def _status(member: Member) -> WorkerStatus:
    code = member["exit_code"]
    state = WorkerState.RUNNING if code is None else WorkerState.EXITED
    return WorkerStatus(rank=member["rank"], state=state, exit_code=code, ended_t=member["ended_t"])


def _handle(folder: str, key: str, run_id: str, beside: str | None = None) -> Handle:
    data = {"attempt_dir": folder, "run_id": run_id}
    return Handle(
        runner="fake", key=key, data=data if beside is None else {**data, "beside": beside}
    )


def _handle_of(order: Order) -> Handle:
    return _handle(order.attempt_dir, order.key, order.run_id, order.beside)
