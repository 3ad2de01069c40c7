"""The loop over epochs, batches and steps: where the script and planner take turns."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from planner.sdk import randomness
from planner.sdk.boundary import Boundary, Orders
from planner.sdk.changes import Changes
from planner.sdk.crew.crew import Expelled
from planner.sdk.crew.group import GroupBroken
from planner.sdk.errors import EXIT_FINISHED, EXIT_NOT_SAVED, EXIT_STOPPED, tell
from planner.sdk.feed import OpaqueFeed, batch_samples
from planner.sdk.fixed import FixedChanges
from planner.sdk.gear import Gear
from planner.sdk.loading import END
from planner.sdk.memory import state_bytes
from planner.sdk.order import Step
from planner.sdk.plannedfeed import PlannedFeed


class Loop:
    """One pass over all epochs that are left.

    Attributes:
        in_batches: Whether the script is in its loop over batches.
    """

    def __init__(
        self,
        gear: Gear,
        feed: PlannedFeed | OpaqueFeed,
        changes: Changes | FixedChanges,
        boundary: Boundary,
    ) -> None:
        self.in_batches = False
        self._env = gear.env
        self._epochs = gear.epochs
        self._parts = gear.parts
        self._device = gear.device
        self._crew = gear.crew
        self._workers = gear.workers
        self._courier = gear.courier
        self._keeper = gear.keeper
        self._requests = gear.requests
        self._accumulation = gear.accumulation
        self._reduction = gear.accumulation.reduction
        self._stopwatch = gear.stopwatch
        self._stop = gear.stop
        self._feed = feed
        self._changes = changes
        self._boundary = boundary
        self._probing = gear.probing

    def run(self) -> Iterator[tuple[int, Batches]]:
        """Each epoch that is left to do, with its batches.

        Raises:
            SystemExit: 75 after a checkpoint on request, 0 at the end of a probe and of a worker
                that is not wanted any more.
        """
        try:
            yield from self._run_epochs()
        except GeneratorExit:  # the script left its loop early: no boundary follows
            self._stop.training_is_over(saved=False)
            raise
        except Expelled:
            self._leave_expelled()
        finally:
            self._feed.close()
        self._finish()

    def _run_epochs(self) -> Iterator[tuple[int, Batches]]:
        self._pass_over_a_finished_epoch()
        while self._keeper.at.epoch < self._epochs:
            self._obey_between_epochs()
            epoch = self._keeper.at.epoch
            if epoch >= self._epochs:
                break
            self._keeper.restore_random(at_epoch_start=True)
            self._stopwatch.epoch_begins()
            yield epoch, Batches(self._run_batches)
            self._stopwatch.epoch_ends(epoch, self._keeper.at.step)
            if self._probing:
                self._end_probe()
            if self._keeper.at.epoch == epoch:  # or it was left for where the others are
                self._next_epoch()
        self._keeper.restore_random(at_epoch_start=True)
        self._obey_between_epochs(saves=False)

    def _next_epoch(self) -> None:
        at = self._keeper.at
        self._keeper.at = at._replace(epoch=at.epoch + 1, position=0)

    def _obey_between_epochs(self, *, saves: bool = True) -> None:
        """Do what was asked for; after the last epoch the checkpoint comes by itself."""
        while (orders := self._boundary.look(always=True)) is not None:
            if saves or orders.stop or orders.recover:
                self._obey(orders)
            if not orders.recover:
                return

    def _pass_over_a_finished_epoch(self) -> None:
        """Go on behind an epoch whose batches are all done, rather than with none of them.

        A loop body whose batches are none fails on what only a batch sets. No checkpoint is written
        there; those of earlier versions may be.
        """
        at = self._keeper.at
        if at.position == 0 or self._env.joins:
            return
        self._keeper.restore_random(at_epoch_start=True)
        done = self._feed.done(at.position)
        if not self._feed.planned:  # each worker's own loader may end elsewhere
            done = bool(self._workers.highest([int(done)])[0])
        if not done:
            return
        if self._workers.leads:
            tell(f"epoch {at.epoch + 1} was complete: what follows its batches is not done again")
        self._next_epoch()
        self._keeper.restore_random(at_epoch_start=True)

    def _run_batches(self) -> Iterator[Any]:
        """The batches of the current epoch; between two of them the script does its step."""
        self.in_batches = True
        self._changes.take_hold()
        try:
            yield from self._run_steps()
            self._settle_device()
        except Expelled:
            self._leave_expelled()
        finally:
            self.in_batches = False
            self._accumulation.remove()
            self._feed.rest()
            self._stopwatch.batches_end(self._keeper.at)

    def _run_steps(self) -> Iterator[Any]:
        """Each micro-batch of each step. Everything in here is done while the device may wait."""
        at, watch, feed = self._keeper.at, self._stopwatch, self._feed
        epoch, order, position = at.epoch, at.epoch, at.position
        watch.steps_begin()
        self._keeper.mark_epoch_start()
        feed.open(order, position, again=self._probing)
        self._keeper.restore_random(at_epoch_start=False)
        while (step := feed.step(order, position)) is not None:
            wait_s, samples = 0.0, step.stop - step.start if feed.planned else 0
            self._changes.step_begins(step.start, step.stop)
            for micro in step.micros:
                asked_s = time.perf_counter()
                batch = feed.fetch()
                wait_s += time.perf_counter() - asked_s
                if batch is END:
                    return
                self._accumulation.begin(micro)
                if not feed.planned:
                    samples += (batch_samples(batch) or 0) * self._workers.count
                yield batch
                self._accumulation.end()
            if self._reduction.active and self._lost_a_worker(step):
                position = self._keeper.at.position
            else:
                position = step.stop
                self._keeper.advance(position, samples)
                watch.step_done(wait_s, self._keeper.at)
                self._changes.stepped()
                if self._probing and self._probe_is_done:
                    return
                # After an epoch's last step the script still has its own work to do (evaluation):
                # whoever resumed from there would be handed an epoch without a batch.
                if feed.planned and feed.done(position):
                    if not self._probing:
                        break
                    order, position = order + 1, 0
                if (orders := self._boundary.look()) is None:
                    continue
                self._obey_between_batches(orders)
                position = position if self._probing else self._keeper.at.position
            if self._keeper.at.epoch != epoch:
                return  # the others are in the next epoch already
            watch.steps_begin()
        self._end_steps()

    @property
    def _probe_is_done(self) -> bool:
        return self._keeper.at.step >= (self._env.probe_steps or 0)

    def _lost_a_worker(self, step: Step) -> bool:
        """Whether the step did not count; then this worker has found the others again."""
        if not self._reduction.failed:
            self._reduction.require_done()
            return False
        self._changes.restore_buffers()
        self._changes.recover(step.samples)
        return True

    def _end_steps(self) -> None:
        """What the workers saw goes together before anybody looks at the model."""
        self._changes.steps_end()
        epoch = self._keeper.at.epoch
        while self._keeper.at.epoch == epoch:  # else the others have done it, and are further
            try:
                self._changes.average_buffers()
            except GroupBroken:
                self._changes.recover()
            else:
                return

    def _obey(self, orders: Orders, *, random: bytes | None = None) -> None:
        """Do what was asked for; `random` is the random state to go on with, if not that of now.

        Raises:
            SystemExit: 75 when asked to stop and saved, 74 when it could not be saved; 0 when this
                worker is not wanted any more.
        """
        try:
            if orders.recover:
                self._changes.recover()
            elif orders.stop:
                self._leave(orders.stop, random)
            elif orders.plan:
                self._changes.enter(orders.plan)
            else:
                if orders.adjust is not None:
                    self._changes.turn(orders.adjust)
                if orders.save:
                    asked = self._requests.asked
                    self._keeper.save(orders.save, random=random)
                    self._requests.saved(asked)  # not before: without a lost worker it counts
        except GroupBroken:
            self._changes.recover()

    def _obey_between_batches(self, orders: Orders) -> None:
        """Do what was asked for, if another batch follows.

        Without one the epoch is over, and the next boundary comes after the loop body's tail.
        """
        if isinstance(self._feed, PlannedFeed):
            self._obey(orders)
            return
        random = randomness.capture()  # the batch taken here is drawn again after a resume
        if not self._workers.highest([int(not self._feed.more())])[0]:
            self._obey(orders, random=random)

    def _leave(self, reason: str, random: bytes | None) -> None:
        self._courier.say("stopping", at_once=True, reason=reason, step=self._keeper.at.step)
        saved = self._probing or self._keeper.save("stop", random=random)
        if not saved:
            tell(
                "asked to stop, but nothing could be saved: the steps since the last checkpoint "
                "will be done again"
            )
        self._workers.leave()
        self._courier.close()
        self._workers.exit(EXIT_STOPPED if saved else EXIT_NOT_SAVED)

    def _leave_expelled(self) -> None:
        tell("the other workers went on without this one: it leaves, and saves nothing")
        self._courier.say("stopping", at_once=True, reason="expelled", step=self._keeper.at.step)
        self._courier.close()
        self._workers.exit(EXIT_STOPPED)

    def _settle_device(self) -> None:
        """Wait for the GPU once an epoch, so that what follows is timed honestly."""
        if self._device is not None and self._device.type == "cuda":
            sys.modules["torch"].cuda.synchronize(self._device)

    def _end_probe(self) -> None:
        self._save_the_end()
        self._courier.say_memory()
        if self._workers.leads:
            held = state_bytes(self._parts.model, self._parts.optimizer)
            self._courier.say("probe_finished", steps=self._keeper.at.step, **held)
        self._workers.leave()
        self._courier.close()
        self._workers.exit(EXIT_FINISHED)

    def _finish(self) -> None:
        saved = self._save_the_end()
        self._courier.say_memory()
        at = self._keeper.at
        self._courier.say(
            "finished", at_once=True, step=at.step, samples=at.samples, epochs=at.epoch
        )
        self._courier.flush()
        self._stop.training_is_over(saved=saved)
        if self._crew is not None:
            self._crew.part(over=True)

    def _save_the_end(self) -> bool:
        """The last checkpoint; what is lost from here on is not missed any more."""
        while True:
            try:
                saved = self._keeper.save("end")
                self._workers.highest([0])
                return saved
            except GroupBroken:
                self._changes.recover()


class Batches:
    """One epoch's batches: looped over once."""

    def __init__(self, run: Callable[[], Iterator[Any]]) -> None:
        self._run = run

    def __iter__(self) -> Iterator[Any]:
        return self._run()
