"""The job as the script sees it: epochs, batches, log. Everything planner does hangs on these."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from planner.sdk import randomness
from planner.sdk.accumulate import Accumulation
from planner.sdk.boundary import Boundary, Orders
from planner.sdk.courier import Control, Courier
from planner.sdk.distributed import Workers
from planner.sdk.environment import WorkerEnv
from planner.sdk.errors import EXIT_FINISHED, SdkError, tell
from planner.sdk.feed import Feed, batch_samples
from planner.sdk.keeper import Keeper
from planner.sdk.memory import device_description
from planner.sdk.planned import make_feed
from planner.sdk.signals import StopFlag
from planner.sdk.state import Parts
from planner.sdk.stopwatch import Stopwatch

_NOTHING = object()


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
        self._env = env
        self._parts = parts
        self._workers = Workers(env.rank, env.world_size)
        self._device = _device_of(parts.model)
        self._stop = StopFlag()
        control = Control(env.control, env.checkpoint_interval_s) if self._leads else None
        self._courier = Courier(
            env.events, control=control, device=self._device, speaks=self._leads
        )
        self._keeper = Keeper(env, parts, self._workers, self._courier)
        self._boundary = Boundary(
            self._workers, self._stop, self._courier, self._keeper, probing=self.probing
        )
        self._accumulation = Accumulation(
            model=parts.model, optimizer=parts.optimizer, scheduler=parts.scheduler
        )
        self._stopwatch = Stopwatch(self._courier if self._leads else None)
        self._in_batches = False
        self._started = False
        atexit.register(lambda: self._stopwatch.say(self._keeper.at))

    @property
    def probing(self) -> bool:
        """Whether this is a short trial, whose results nobody will keep."""
        return self._env.probe_steps is not None

    @property
    def step(self) -> int:
        """Optimiser steps done so far, those before a resume included."""
        return self._keeper.at.step

    @property
    def _leads(self) -> bool:
        return self._env.rank == 0

    def log(self, **values: Any) -> None:
        """Show and keep these numbers; tensors of one element are read out later, off the loop."""
        if self._leads:
            at = self._keeper.at
            kept = {name: _kept(name, value) for name, value in values.items()}
            self._stopwatch.note(kept, step=at.step, epoch=at.epoch, often=self._in_batches)

    def gradients_ready(self) -> bool:
        """Whether this micro-batch completes a step; if so, gradients are the whole step's."""
        return self._accumulation.gradients_ready()

    def epochs(self, loader: Iterable[Any]) -> Iterator[tuple[int, Iterable[Any]]]:
        """Each epoch that is left to do, with its batches: resumes, times, saves, stops.

        Raises:
            SdkError: The loader does not fit what planner asked for.
            SystemExit: 75 after a checkpoint on request, 0 at the end of a probe.
        """
        if self._started:
            raise SdkError("job.epochs() can be looped over once only")
        self._started = True
        feed = make_feed(loader, self._env, self._parts, self._keeper.at.seed)
        self._keeper.begin(planned=feed.planned, dataset_samples=feed.samples)
        self._announce(feed)
        try:
            yield from self._run_epochs(feed)
        except GeneratorExit:  # the script left its loop early: no boundary follows
            self._stop.training_is_over(saved=False)
            raise
        self._finish()

    def _run_epochs(self, feed: Feed) -> Iterator[tuple[int, Iterable[Any]]]:
        self._pass_over_a_finished_epoch(feed)
        while self._keeper.at.epoch < self._epochs:
            epoch = self._keeper.at.epoch
            self._obey_between_epochs()
            self._keeper.restore_random(at_epoch_start=True)
            self._stopwatch.epoch_begins()
            yield epoch, _Batches(self, feed)
            self._stopwatch.epoch_ends(epoch, self._keeper.at.step)
            if self.probing:
                self._end_probe()
            self._next_epoch()
        self._keeper.restore_random(at_epoch_start=True)
        self._obey_between_epochs(saves=False)

    def _next_epoch(self) -> None:
        at = self._keeper.at
        self._keeper.at = at._replace(epoch=at.epoch + 1, position=0)

    def _obey_between_epochs(self, *, saves: bool = True) -> None:
        """Do what was asked for; after the last epoch the checkpoint comes by itself."""
        orders = self._boundary.look(always=True)
        if orders is not None and (saves or orders.stop):
            self._boundary.obey(orders)

    def _pass_over_a_finished_epoch(self, feed: Feed) -> None:
        """Go on behind an epoch whose batches are all done, rather than with none of them.

        A loop body whose batches are none fails on what only a batch sets. No checkpoint is written
        there; those of earlier versions may be.
        """
        at = self._keeper.at
        if at.position == 0:
            return
        self._keeper.restore_random(at_epoch_start=True)
        if not self._workers.highest([int(feed.done(at.position))])[0]:
            return
        if self._leads:
            tell(f"epoch {at.epoch + 1} was complete: what follows its batches is not done again")
        self._next_epoch()
        self._keeper.restore_random(at_epoch_start=True)

    def _run_batches(self, feed: Feed) -> Iterator[Any]:
        """The batches of the current epoch; between two of them the script does its step."""
        self._in_batches = True
        self._accumulation.install(accumulates=feed.accumulates, freeze_scheduler=self.probing)
        try:
            yield from self._run_steps(feed)
            self._settle_device()
        finally:
            self._in_batches = False
            self._accumulation.remove()
            self._stopwatch.batches_end(self._keeper.at)

    def _run_steps(self, feed: Feed) -> Iterator[Any]:
        at = self._keeper.at
        watch = self._stopwatch
        watch.steps_begin()
        self._keeper.mark_epoch_start()
        batches = feed.batches(at.epoch, at.position, again=self.probing)
        self._keeper.restore_random(at_epoch_start=False)
        for step in feed.steps(at.epoch, at.position, again=self.probing):
            wait_s = 0.0
            samples = step.samples if feed.planned else 0
            for micro in step.micros:
                asked_s = time.perf_counter()
                batch = next(batches, _NOTHING)
                wait_s += time.perf_counter() - asked_s
                if batch is _NOTHING:
                    return
                self._accumulation.begin(micro)
                if not feed.planned:
                    samples += (batch_samples(batch) or 0) * self._workers.count
                yield batch
            self._keeper.advance(step.stop, samples)
            watch.step_done(wait_s, self._keeper.at)
            if self.probing and self._keeper.at.step >= (self._env.probe_steps or 0):
                return
            # After an epoch's last step the script still has its own work to do (evaluation):
            # whoever resumed from there would be handed an epoch without a batch.
            if feed.planned and not self.probing and feed.done(step.stop):
                return
            orders = self._boundary.look()
            if orders is not None:
                batches = self._obey_between_batches(orders, feed, batches)
                watch.steps_begin()

    def _obey_between_batches(
        self, orders: Orders, feed: Feed, batches: Iterator[Any]
    ) -> Iterator[Any]:
        """Do what was asked for, if another batch follows; the batches to go on with.

        Without one the epoch is over, and the next boundary comes after the loop body's tail.
        """
        if feed.planned:
            self._boundary.obey(orders)
            return batches
        random = randomness.capture()  # the batch taken here is drawn again after a resume
        ahead = list(islice(batches, 1))
        if not self._workers.highest([int(not ahead)])[0]:
            self._boundary.obey(orders, random=random)
        return chain(ahead, batches)

    def _announce(self, feed: Feed) -> None:
        name, memory_bytes = device_description(self._device)
        self._courier.say(
            "attached",
            at_once=True,
            tier=1,
            rank=self._env.rank,
            world_size=self._env.world_size,
            pid=os.getpid(),
            device=name,
            device_memory_bytes=memory_bytes,
            samples=feed.samples,
            epochs=self._epochs,
            global_batch=feed.global_batch,
            micro_batch=feed.micro_batch,
            accumulation=feed.accumulation,
            loader_workers=feed.loader_workers,
            steps_per_epoch=feed.steps_per_epoch,
            resumed=self._keeper.resumed,
        )
        if not feed.planned and self._leads:
            tell("this loader's order is its own: it is used as it is, resuming skips batches")

    def _settle_device(self) -> None:
        """Wait for the GPU once an epoch, so that what follows is timed honestly."""
        if self._device is not None and self._device.type == "cuda":
            sys.modules["torch"].cuda.synchronize(self._device)

    def _end_probe(self) -> None:
        self._keeper.save("end")
        self._courier.say_memory()
        if self._leads:
            self._courier.say("probe_finished", steps=self._keeper.at.step)
        self._workers.leave()
        self._courier.close()
        self._workers.exit(EXIT_FINISHED)

    def _finish(self) -> None:
        saved = self._keeper.save("end")
        self._courier.say_memory()
        at = self._keeper.at
        self._courier.say(
            "finished", at_once=True, step=at.step, samples=at.samples, epochs=at.epoch
        )
        self._courier.flush()
        self._stop.training_is_over(saved=saved)


class _Batches:
    """One epoch's batches: looped over once."""

    def __init__(self, job: TrainingJob, feed: Feed) -> None:
        self._job = job
        self._feed = feed

    def __iter__(self) -> Iterator[Any]:
        return self._job._run_batches(self._feed)


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


def _device_of(model: Any) -> Any:
    """The device of the model's first parameter; None without one."""
    if model is None or not hasattr(model, "parameters"):
        return None
    parameter = next(iter(model.parameters()), None)
    return None if parameter is None else parameter.device
