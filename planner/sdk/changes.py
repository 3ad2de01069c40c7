"""Changes of a job at work: knobs turned, workers that come and go, and what that cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from planner.sdk import randomness
from planner.sdk.crew.board import Board, Entry, Order
from planner.sdk.crew.buffers import Buffers
from planner.sdk.crew.crew import Crew, Entered, Standing
from planner.sdk.crew.group import GroupBroken
from planner.sdk.errors import EXIT_FINISHED, EXIT_STOPPED, SdkError
from planner.sdk.gear import Gear
from planner.sdk.levers import Knobs, Refused, turned
from planner.sdk.loading import LoaderSettings
from planner.sdk.memory import forget_peak
from planner.sdk.memorylevers import MemoryLevers
from planner.sdk.planned import require_possible
from planner.sdk.plannedfeed import PlannedFeed, Shape
from planner.sdk.reports import Reports
from planner.sdk.schedule import Ticks, scale_learning_rate
from planner.sdk.state import Position

_LOADER_LEAD_STEPS = 4
"""Steps in which new loader processes come up while the old ones still serve."""


class Changes:
    """Carries changes out at step boundaries, and tells what came of them.

    Attributes:
        knobs: What is in force.
    """

    def __init__(self, gear: Gear, feed: PlannedFeed) -> None:
        env = gear.env
        self.knobs = Knobs(
            global_batch=feed.global_batch,
            micro_batch=feed.micro_batch,
            loader_workers=feed.loader_workers,
            memory=env.memory,
            lr_scale=env.lr_scale,
        )
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
        self._normal_micro_batch = feed.micro_batch
        self._schedule_batch = env.schedule_batch or feed.global_batch
        self._ticks: Ticks | None = None
        self._buffers = Buffers(gear.parts.model)
        self._reports = Reports(gear, feed)
        self._begin()

    def _begin(self) -> None:
        """Have in force what this worker was started with."""
        at, scale = self._keeper.at, self.knobs.lr_scale
        if scale != at.lr_scale:
            factor = scale / at.lr_scale
            scale_learning_rate(self._parts.optimizer, self._parts.scheduler, factor)
            self._keeper.at = at._replace(lr_scale=scale)
        if self.knobs.memory == "low":
            self._turn_memory("low")
        if self._crew is not None:
            self._accumulation.reduction.use(self._crew.group)
            plan = self._crew.plan
            if plan is not None and plan.lost:  # while the first workers were loading
                self._reports.begin(self.knobs, None, "lost", lost=plan.lost)
        self._count_ticks()

    # ---- before a change

    def screen(self, adjust: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """As the leader: take a wish up; what the workers must agree on for it, if anything."""
        wish = adjust.get("id")
        self._requests.looked_at(wish)
        crew = adjust.get("crew")
        try:
            target = turned(self.knobs, adjust, self._normal_micro_batch)
            members = self._checked_crew(crew) if crew is not None else None
            self._check(target, len(members) if members is not None else self._workers.count)
        except (Refused, SdkError) as error:
            self._courier.say("adjust_refused", at_once=True, id=wish, reason=str(error))
            return None
        if members is not None and self._crew is not None and isinstance(crew, list):
            try:
                self._crew.want(crew, None if wish is None else str(wish))
            except OSError as error:
                reason = f"other workers cannot be met: {error}"
                self._courier.say("adjust_refused", at_once=True, id=wish, reason=reason)
                return None
        if target != self.knobs:
            return adjust
        if members is None or members == frozenset(self._crew.workers if self._crew else ()):
            self._reports.begin(self.knobs, wish, "asked")
            self._reports.close(self.knobs)  # it is in force already
        return None

    def room_for(self, workers: int, epoch: int, position: int) -> bool:
        """Whether the step that begins there has samples for so many workers."""
        step = self._feed.step(epoch, position)
        return step is None or step.samples >= 2 * workers

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """As the leader: tell of wishes that came to nothing, by id."""
        for wish, reason in reasons.items():
            self._courier.say("adjust_refused", at_once=True, id=wish, reason=reason)

    def withdraw(self) -> None:
        """As the leader: wait for nobody any more."""
        self._requests.looked_at(None)
        if self._crew is not None and self._crew.started:
            self._crew.want(self._crew.workers, None)

    def _checked_crew(self, crew: object) -> frozenset[int]:
        if self._crew is None or not self._crew.can_change:
            raise Refused(
                "the script joins its workers by itself: their number can only be changed by "
                "checkpoint and relaunch"
            )
        if not isinstance(crew, list) or not crew or not all(isinstance(w, int) for w in crew):
            raise Refused(f"a crew is a list of worker numbers, not {crew!r}")
        return frozenset(crew)

    def _check(self, target: Knobs, workers: int) -> None:
        """Raise `Refused` or `SdkError` when it cannot be."""
        why = self._feed.fits(workers=workers, global_batch=target.global_batch)
        if why is not None:
            raise Refused(why)
        if target.global_batch != self.knobs.global_batch and self._parts.optimizer is None:
            raise Refused("attach() was given no optimizer whose learning rate could follow")
        shape = self._shape(target, 0, workers)
        require_possible(shape, self._parts, crew=self._crew is not None)

    def lead_steps(self, adjust: Mapping[str, Any] | None) -> int:
        """Steps from now until a change can be had without a pause."""
        if adjust is None:
            return self._feed.horizon
        target = turned(self.knobs, adjust, self._normal_micro_batch)
        loader = self._loader_settings(target) != self._feed.settings
        return max(self._feed.horizon, _LOADER_LEAD_STEPS if loader else 0)

    def ahead(self, steps: int) -> tuple[int, int]:
        """Epoch and position so many steps from now."""
        at = self._keeper.at
        return self._feed.ahead(at.epoch, at.position, steps)

    def prepare(self, order: Order) -> None:
        """An order became known that is due later."""
        if order.at <= self._keeper.at.step:
            return
        if order.plan and self._crew is not None and self._crew.board.entry is not None:
            plan = self._crew.board.entry.plan
            rank = plan.rank(self._crew.worker)
            if rank is not None:
                shape = self._shape(self.knobs, rank, len(plan.members))
                self._feed.announce(order.epoch, order.position, shape)
        elif order.knobs is not None:
            target = turned(self.knobs, order.knobs, self._normal_micro_batch)
            shape = self._shape(target, self._workers.rank, self._workers.count)
            self._feed.announce(order.epoch, order.position, shape)
            settings = self._loader_settings(target)
            if settings != self._feed.settings:
                self._feed.prepare(order.epoch, order.position, settings)

    # ---- knobs

    def turn(self, adjust: Mapping[str, Any]) -> None:
        """Everything that is wanted of the knobs is in force from here on."""
        wish = adjust.get("id")
        if self._workers.leads:
            self._requests.looked_at(wish)
            self._reports.begin(self.knobs, wish, "asked")
        before = self.knobs
        self._apply(turned(before, adjust, self._normal_micro_batch))
        if self.knobs.memory == "normal":
            self._normal_micro_batch = self.knobs.micro_batch

    def _apply(self, target: Knobs) -> None:
        before, self.knobs = self.knobs, target
        at = self._keeper.at
        shape = self._shape(target, self._workers.rank, self._workers.count)
        self._feed.reshape(at.epoch, at.position, shape)
        settings = self._loader_settings(target)
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

    def _loader_settings(self, knobs: Knobs) -> LoaderSettings:
        return LoaderSettings(knobs.loader_workers, lean=knobs.memory == "low")

    def _shape(self, knobs: Knobs, rank: int, workers: int) -> Shape:
        now = self._feed.shape
        return Shape(
            rank=rank,
            workers=workers,
            global_batch=knobs.global_batch,
            micro_batch=knobs.micro_batch,
            split=now.split,
            drop_last=now.drop_last,
        )

    def _count_ticks(self) -> None:
        drop_last = self._feed.shape.drop_last
        ticks = Ticks(self._feed.samples, self._schedule_batch, drop_last=drop_last)
        own = self.knobs.global_batch != self._schedule_batch
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
            redone_samples: What of the interrupted step has to be computed again.
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
        entered = crew.enter(entry, self._standing(crew, has_state=True))
        if entered.leaves:
            self._leave(crew)
        self._take_place(entered, redone_samples)

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
        shape = self._shape(self.knobs, rank, workers)
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
            knobs=self.knobs._asdict(),
            normal_micro_batch=self._normal_micro_batch,
        )

    def _take_place(self, entered: Entered, redone_samples: int = 0) -> None:
        """Stand where training stands, as the member of the new generation that this worker is.

        Raises:
            SdkError: This worker's data set is another one.
        """
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
        if knobs != self.knobs:
            self._take_over_knobs(knobs)
        self._normal_micro_batch = entered.source.normal_micro_batch
        shape = self._shape(self.knobs, self._workers.rank, self._workers.count)
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
            self._reports.begin(
                self.knobs,
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
        if knobs.memory != self.knobs.memory:
            self._turn_memory(knobs.memory)
        self.knobs = knobs
        settings = self._loader_settings(knobs)
        if settings != self._feed.settings:
            at = self._keeper.at
            self._feed.prepare(at.epoch, at.position, settings)
            self._feed.use_prepared()

    def _leave(self, crew: Crew) -> None:
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
        if self._reports.open:
            self._reports.stepped(self.knobs)

    def steps_end(self) -> None:
        """An epoch's steps are done: what follows is no pause."""
        if self._reports.open:
            self._reports.close(self.knobs)


def _due(board: Board) -> bool:
    """Whether a newcomer's generation begins: at the step that was ordered, or after a loss."""
    entry, order = board.entry, board.order
    if entry is None:
        return False
    ordered = order is not None and order.plan == entry.plan.generation
    return entry.plan.recovers or ordered
