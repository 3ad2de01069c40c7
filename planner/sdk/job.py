"""The job as the script sees it: epochs, batches, log. Everything planner does hangs on these."""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Iterator
from typing import Any

from planner.sdk.accumulate import Accumulation, is_ddp
from planner.sdk.announce import announce
from planner.sdk.boundary import Boundary, CrewBoundary, Requests, ScriptBoundary
from planner.sdk.changes import Changes
from planner.sdk.courier import Control, Courier
from planner.sdk.crew.crew import Crew
from planner.sdk.crew.warmup import warm_up
from planner.sdk.distributed import Workers, script_joins
from planner.sdk.environment import WorkerEnv
from planner.sdk.errors import SdkError
from planner.sdk.fixed import FixedChanges
from planner.sdk.gear import Gear
from planner.sdk.keeper import Keeper
from planner.sdk.loop import Loop
from planner.sdk.planned import make_feed
from planner.sdk.plannedfeed import PlannedFeed
from planner.sdk.screening import Screening
from planner.sdk.signals import StopFlag
from planner.sdk.state import Parts
from planner.sdk.stopwatch import Stopwatch


class Job:
    """A training job without planner: plain loops, nothing said, nothing saved."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    @property
    def probing(self) -> bool:
        """Whether this is a short trial, whose results nobody will keep."""
        return False

    @property
    def step(self) -> int:
        """Optimiser steps done so far; 0 without planner."""
        return 0

    @property
    def leads(self) -> bool:
        """Whether this worker prints, evaluates and writes for all: exactly one does."""
        return True

    @property
    def workers(self) -> int:
        """How many workers train together now."""
        return 1

    def epochs(self, loader: Iterable[Any]) -> Iterator[tuple[int, Iterable[Any]]]:
        """Each epoch that is left to do, with its batches."""
        for epoch in range(self._epochs):
            yield epoch, loader

    def log(self, **values: Any) -> None:
        """Show and keep these numbers; tensors of one element are read out later, off the loop."""

    def gradients_ready(self) -> bool:
        """Whether this micro-batch completes a step; if so, gradients are the whole step's.

        For what reads or changes gradients between backward and the optimiser's step. Torch's own
        functions for clipping need it only where planner cannot find them: docs/training-script.md.
        """
        return True


class TrainingJob(Job):
    """A training job that planner started."""

    def __init__(self, env: WorkerEnv, parts: Parts, epochs: int) -> None:
        super().__init__(epochs)
        self._gear = gear = _assemble(env, parts, epochs)
        self._loop: Loop | None = None
        atexit.register(lambda: gear.stopwatch.say(gear.keeper.at))

    @property
    def probing(self) -> bool:
        """Whether this is a short trial, whose results nobody will keep."""
        return self._gear.probing

    @property
    def step(self) -> int:
        """Optimiser steps done so far, those before a resume included."""
        return self._gear.keeper.at.step

    @property
    def leads(self) -> bool:
        """Whether this worker prints, evaluates and writes for all: exactly one does."""
        return self._gear.workers.leads

    @property
    def workers(self) -> int:
        """How many workers train together now."""
        return self._gear.workers.count

    def log(self, **values: Any) -> None:
        """Show and keep these numbers; tensors of one element are read out later, off the loop."""
        if self._gear.workers.leads:
            at = self._gear.keeper.at
            for name, value in values.items():
                values[name] = _kept(name, value)
            often = self._loop is not None and self._loop.in_batches
            self._gear.stopwatch.note(values, step=at.step, epoch=at.epoch, often=often)

    def gradients_ready(self) -> bool:
        """Whether this micro-batch completes a step; if so, gradients are the whole step's."""
        return self._gear.accumulation.gradients_ready()

    def epochs(self, loader: Iterable[Any]) -> Iterator[tuple[int, Iterable[Any]]]:
        """Each epoch that is left to do, with its batches: resumes, times, saves, stops.

        Raises:
            SdkError: The loader does not fit what planner asked for.
            SystemExit: 75 after a checkpoint on request, 0 at the end of a probe and of a worker
                that is not wanted any more.
        """
        if self._loop is not None:
            raise SdkError("job.epochs() can be looped over once only")
        gear = self._gear
        feed = make_feed(
            loader,
            gear.env,
            gear.parts,
            gear.workers,
            gear.keeper.at.seed,
            crew=gear.crew is not None,
        )
        gear.keeper.begin(planned=feed.planned, dataset_samples=feed.samples)
        changes: Changes | FixedChanges
        planner: Screening | FixedChanges
        if isinstance(feed, PlannedFeed):
            changes = Changes(gear, feed)
            planner = Screening(gear, feed, changes)
        else:
            changes = planner = FixedChanges(gear)
        announce(gear, feed)
        self._loop = Loop(gear, feed, changes, _boundary(gear, planner))
        if isinstance(changes, Changes) and gear.env.joins:
            _get_ready(gear, loader, changes)
        yield from self._loop.run()


def _boundary(gear: Gear, planner: Screening | FixedChanges) -> Boundary:
    if gear.crew is not None:
        return CrewBoundary(gear.requests, gear.crew, gear.keeper, planner)
    return ScriptBoundary(gear.requests, gear.workers, planner)


def _assemble(env: WorkerEnv, parts: Parts, epochs: int) -> Gear:
    """Meet the other workers, and load the newest checkpoint."""
    device = _device_of(parts.model)
    crew = _crew_of(env, parts, device)
    if crew is not None and not env.joins:
        crew.begin(env.world_size)
    workers = Workers(env.rank, env.world_size, crew)
    stop = StopFlag()
    speaks = workers.leads and not env.joins
    control = Control(env.control, env.checkpoint_interval_s)
    courier = Courier(env.events, control=control, device=device, speaks=speaks)
    may_write = crew.may_write if crew is not None else lambda: True
    keeper = Keeper(env, parts, workers, courier, may_write=may_write)
    courier.speaks = speaks = workers.leads and not env.joins  # a leader may be lost meanwhile
    return Gear(
        env=env,
        epochs=epochs,
        parts=parts,
        device=device,
        crew=crew,
        workers=workers,
        stop=stop,
        courier=courier,
        keeper=keeper,
        requests=Requests(stop, courier, keeper, probing=env.probe_steps is not None),
        accumulation=Accumulation(
            model=parts.model,
            optimizer=parts.optimizer,
            scheduler=parts.scheduler,
            scaler=parts.scaler,
        ),
        stopwatch=Stopwatch(courier if speaks else None),
    )


def _get_ready(gear: Gear, loader: Any, changes: Changes) -> None:
    """Warm up beside those who train, then take a place among them."""
    env, knobs = gear.env, changes.in_force.knobs
    share = min(knobs.micro_batch, -(-knobs.global_batch // max(1, env.world_size)))
    warm_up(gear.parts.model, loader, share, gear.device)
    gear.courier.say("ready", at_once=True, worker=env.worker)
    changes.join(lambda: gear.stop.raised)


def _kept(name: str, value: Any) -> Any:
    """`value` as it is now, without waiting for the device."""
    on_cpu = getattr(value, "is_cpu", None)
    if on_cpu is None:
        return value
    if not on_cpu and value.numel() == 1:
        return value.detach().clone()
    number = value.tolist()  # of a tensor on the CPU, the quickest way to its number
    while isinstance(number, list) and len(number) == 1:
        number = number[0]
    if isinstance(number, list):
        raise SdkError(f"job.log({name}=...) takes a number, not {value.numel()} of them")
    return number


def _crew_of(env: WorkerEnv, parts: Parts, device: Any) -> Crew | None:
    """The crew of workers that planner joins; None where the script joins them, or nobody can."""
    possible = (
        parts.model is not None
        and parts.optimizer is not None
        and hasattr(parts.model, "parameters")
        and not is_ddp(parts.model)
        and not script_joins()
    )
    many = env.world_size > 1 or env.joins
    if many and not (possible and env.crew_dir is not None):
        if env.joins:
            raise SdkError(
                "a worker can join others only when planner joins them all: give attach() the "
                "model and the optimizer, without DistributedDataParallel and "
                "init_process_group()"
            )
        return None
    return Crew(
        worker=env.worker,
        host=env.host,
        folder=env.crew_dir if possible else None,
        device=device,
        parts=parts,
        silence_s=env.silence_s,
    )


def _device_of(model: Any) -> Any:
    """The device of the model's first parameter; None without one."""
    if model is None or not hasattr(model, "parameters"):
        return None
    parameter = next(iter(model.parameters()), None)
    return None if parameter is None else parameter.device
