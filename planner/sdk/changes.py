"""Changes of a job at work: knobs turned, workers that come and go, and what that cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from planner.sdk import randomness
from planner.sdk.crew.board import Board, Entry, Order
from planner.sdk.crew.buffers import Buffers
from planner.sdk.crew.crew import Crew, Entered, Standing
from planner.sdk.crew.group import GroupBroken
from planner.sdk.errors import EXIT_FINISHED, EXIT_STOPPED, SdkError
from planner.sdk.gear import Gear
from planner.sdk.inforce import InForce
from planner.sdk.levers import Knobs
from planner.sdk.memory import forget_peak
from planner.sdk.memorylevers import MemoryLevers
from planner.sdk.plannedfeed import PlannedFeed
from planner.sdk.reports import Reports
from planner.sdk.schedule import Ticks, scale_learning_rate
from planner.sdk.state import Position


class Changes:
    """Carries changes out at step boundaries, and tells what came of them.

    Attributes:
        in_force: The knobs as they are now.
        reports: What is told of changes.
    """

    def __init__(self, gear: Gear, feed: PlannedFeed) -> None:
        env = gear.env
        self.in_force = InForce(env, feed)
        self.reports = Reports(gear, feed)
        self._feed = feed
        self._parts = gear.parts
        self._crew = gear.crew
        self._workers = gear.workers
        self._keeper = gear.keeper
        self._courier = gear.courier
        self._stopwatch = gear.stopwatch
        self._accumulation = gear.accumulation
        self._requests = gear.requests
        self._probing = gear.probing
        self._device = gear.device
        self._memory = MemoryLevers(gear.parts.model)
        self._schedule_batch = env.schedule_batch or feed.global_batch
        self._ticks: Ticks | None = None
        self._buffers = Buffers(gear.parts.model)
        self._begin()

    def _begin(self) -> None:
        """Have in force what this worker was started with."""
        at, scale = self._keeper.at, self.in_force.knobs.lr_scale
        if scale != at.lr_scale:
            factor = scale / at.lr_scale
            scale_learning_rate(self._parts.optimizer, self._parts.scheduler, factor)
            self._keeper.at = at._replace(lr_scale=scale)
        if self.in_force.knobs.memory == "low":
            self._turn_memory("low")
        if self._crew is not None:
            self._accumulation.reduction.use(self._crew.group)
            plan = self._crew.plan
            if plan is not None and plan.lost:  # while the first workers were loading
                self.reports.begin(self.in_force.knobs, None, "lost", lost=plan.lost)
        self._count_ticks()

    # ---- knobs

    def turn(self, adjust: Mapping[str, Any]) -> None:
        """Everything that is wanted of the knobs is in force from here on."""
        wish = adjust.get("id")
        # On all workers: whoever leads next, should this leader be lost, goes on from there.
        self._requests.looked_at(wish)
        self._apply(self.in_force.target(adjust))
        self.reports.begin(self.in_force.knobs, wish, "asked")
        if self.in_force.knobs.memory == "normal":
            self.in_force.normal_micro_batch = self.in_force.knobs.micro_batch

    def _apply(self, target: Knobs) -> None:
        before, self.in_force.knobs = self.in_force.knobs, target
        at = self._keeper.at
        shape = self.in_force.shape(target, self._workers.rank, self._workers.count)
        self._feed.reshape(at.epoch, at.position, shape)
        settings = self.in_force.loader_settings(target)
        if settings != self._feed.settings:
            if not self._feed.prepared_for(at.epoch, at.position):
                self._feed.prepare(at.epoch, at.position, settings)
            self._feed.use_prepared()
        if target.memory != before.memory:
            self._turn_memory(target.memory)
        if target.lr_scale != before.lr_scale:
            factor = target.lr_scale / before.lr_scale
            scale_learning_rate(self._parts.optimizer, self._parts.scheduler, factor)
        self._keeper.at = at._replace(lr_scale=target.lr_scale)
        self._count_ticks()
        self.take_hold()

    def _turn_memory(self, memory: str) -> None:
        if memory == "low":
            self._memory.low()
        else:
            self._memory.normal()
        self._keeper.in_background = memory != "low"  # which takes a copy of all states
        forget_peak(self._device)

    def _count_ticks(self) -> None:
        drop_last = self._feed.shape.drop_last
        ticks = Ticks(self._feed.samples, self._schedule_batch, drop_last=drop_last)
        own = self.in_force.knobs.global_batch != self._schedule_batch
        self._ticks = ticks if own or ticks.count != self._feed.steps_per_epoch else None
        self._accumulation.ticks = 1

    def take_hold(self) -> None:
        """Have the script's objects act as the present shape needs it."""
        self._accumulation.remove()
        self._accumulation.install(
            accumulates=self._feed.accumulates or self._accumulation.reduction.active,
            freeze_scheduler=self._probing,
            own_ticks=self._ticks is not None,
        )

    def step_begins(self, start: int, stop: int) -> None:
        """The next step takes these positions."""
        if self._ticks is not None:
            last = self._feed.done(stop)
            self._accumulation.ticks = self._ticks.between(start, stop, last=last)
        if self._accumulation.reduction.active:
            self._buffers.mark()

    # ---- workers

    def enter(self, generation: int) -> None:
        """Go over to a planned generation; another one when a worker is lost meanwhile.

        Raises:
            SystemExit: 0 when this worker leaves.
        """
        crew = self._crew
        if crew is None:
            raise SdkError("there is no crew to change")
        try:
            entry = crew.await_entry(generation)
            if crew.leads and entry.plan.rank(crew.worker) != 0:
                self._keeper.flush()  # what is on its way to the disk counts while this one leads
            self._buffers.average(crew.group)
            self._go_over(crew, entry)
        except GroupBroken:
            self.recover()

    def recover(self, redone_samples: int = 0) -> None:
        """Find out who is left, and go on with them.

        Args:
            redone_samples: What of the interrupted step has to be computed again, if nobody did it.
        """
        crew = self._crew
        if crew is None:
            raise SdkError("a collective failed and planner does not join these workers")
        for parameter in self._accumulation.parameters():
            parameter.grad = None
        while True:
            try:
                crew.broke()
                self._go_over(crew, crew.await_entry(), redone_samples)
                return
            except GroupBroken:
                continue

    def _go_over(self, crew: Crew, entry: Entry, redone_samples: int = 0) -> None:
        step, standing = self._keeper.at.step, self._standing(crew, has_state=True)
        standing = replace(standing, position={**standing.position, "redone": redone_samples})
        entered = crew.enter(entry, standing)
        if entered.leaves:
            self._leave(crew)
        source = entered.source
        if source.step > step:  # it has done the step that was interrupted here
            redone_samples = 0
        self._take_place(entered, max(redone_samples, source.position.get("redone", 0)))

    def join(self, stopped: Callable[[], bool]) -> None:
        """As a newcomer: wait to be let in, and take a place.

        Raises:
            SystemExit: 0 when training is over first, 75 when `stopped` says so.
        """
        crew = self._crew
        if crew is None:
            raise SdkError("planner cannot join this worker to the others")
        crew.join()
        board = crew.board
        while True:
            board.wait(lambda: stopped() or board.over or board.expelled or _due(board), 1.0)
            if stopped() or board.over or board.expelled:
                crew.part()
                self._workers.exit(EXIT_STOPPED if stopped() else EXIT_FINISHED)
            order, entry = board.order, board.take_entry() if _due(board) else None
            if entry is None:
                continue
            rank = entry.plan.rank(crew.worker)
            if order is not None and rank is not None and not entry.plan.recovers:
                self._load_early(order, rank, len(entry.plan.members))
            try:
                entered = crew.enter(entry, self._standing(crew, has_state=False))
            except GroupBroken:
                board.order = None
                continue
            self._take_place(entered)
            return

    def _load_early(self, order: Order, rank: int, workers: int) -> None:
        """Have the first batches ready by the time that training comes there."""
        if order.seed != self._keeper.at.seed:
            self._feed.reseed(order.seed)
        shape = self.in_force.shape(self.in_force.knobs, rank, workers)
        self._feed.reshape(order.epoch, order.position, shape)
        self._feed.open_early(order.epoch, order.position)

    def _standing(self, crew: Crew, *, has_state: bool) -> Standing:
        position = self._keeper.at._asdict()
        ago_s = time.perf_counter() - self._stopwatch.stepped_s
        position |= {
            "stepped_t": time.time() - ago_s,
            "usual_step_s": self._stopwatch.usual_step_s,
        }
        return Standing(
            worker=crew.worker,
            has_state=has_state,
            step=self._keeper.at.step if has_state else -1,
            position=position,
            random=randomness.capture(),
            knobs=self.in_force.knobs._asdict(),
            normal_micro_batch=self.in_force.normal_micro_batch,
        )

    def _take_place(self, entered: Entered, redone_samples: int = 0) -> None:
        """Stand where training stands, as the member of the new generation that this worker is.

        Raises:
            SdkError: This worker's data set is another one.
        """
        self.reports.close()  # of what this worker led, while it may still speak
        self._keeper.at = at = Position.of(entered.source.position)
        if at.dataset_samples != self._feed.samples:
            raise SdkError(
                f"the data set has {self._feed.samples} samples here, and {at.dataset_samples} "
                "where training stands"
            )
        leads = self._workers.leads
        self._courier.speaks = leads
        self._stopwatch.report_to(self._courier if leads else None)
        self._accumulation.reduction.use(self._crew.group if self._crew is not None else None)
        knobs = Knobs(**entered.source.knobs)
        if knobs != self.in_force.knobs:
            self._take_over_knobs(knobs)
        self.in_force.normal_micro_batch = entered.source.normal_micro_batch
        shape = self.in_force.shape(self.in_force.knobs, self._workers.rank, self._workers.count)
        if entered.plan.recovers:
            self._feed.rewind(at.epoch, at.position, shape)
        else:
            self._feed.reshape(at.epoch, at.position, shape)
        self._count_ticks()
        self.take_hold()
        if entered.random is not None:
            randomness.restore(entered.random)
        else:
            # As after a resume with another number of workers.
            randomness.reseed((at.seed * 1_000_003 + at.step * 1009 + self._workers.rank) % 2**31)
        if leads:
            plan = entered.plan
            reason = "lost" if plan.recovers else "asked"
            self.reports.begin(
                self.in_force.knobs,
                plan.id,
                reason,
                source=entered.source,
                lost=plan.lost,
                redone_samples=redone_samples,
            )
            if plan.id is not None:
                self._requests.looked_at(plan.id)

    def _take_over_knobs(self, knobs: Knobs) -> None:
        """A newcomer learns what was turned since it was started; rates came with the state."""
        if knobs.memory != self.in_force.knobs.memory:
            self._turn_memory(knobs.memory)
        self.in_force.knobs = knobs
        settings = self.in_force.loader_settings(knobs)
        if settings != self._feed.settings:
            at = self._keeper.at
            self._feed.prepare(at.epoch, at.position, settings)
            self._feed.use_prepared()

    def _leave(self, crew: Crew) -> None:
        self.reports.close()
        self._courier.say("left", at_once=True, worker=crew.worker, step=self._keeper.at.step)
        crew.part()
        self._feed.close()
        self._courier.close()
        self._workers.exit(EXIT_FINISHED)

    def restore_buffers(self) -> None:
        """The step that was interrupted did not count."""
        self._buffers.restore()

    def average_buffers(self) -> None:
        """An epoch's steps are done: all workers evaluate the same model. Raises `GroupBroken`."""
        if self._crew is not None:
            self._buffers.average(self._crew.group)

    # ---- what it cost

    def stepped(self) -> None:
        """A step is done."""
        if self.reports.open:
            self.reports.stepped()

    def steps_end(self) -> None:
        """An epoch's steps are done: what follows is no pause."""
        if self.reports.open:
            self.reports.close()


def _due(board: Board) -> bool:
    """Whether a newcomer's generation begins: at the step that was ordered, or after a loss."""
    entry, order = board.entry, board.order
    if entry is None:
        return False
    ordered = order is not None and order.plan == entry.plan.generation
    return entry.plan.recovers or ordered
