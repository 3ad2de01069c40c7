"""A map-style data set in an order drawn from seed and epoch, shared out over the workers.

How a step is shared out may change between two steps. What is drawn ahead follows as long as the
change is announced before it is drawn; otherwise it is passed over and drawn anew.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from planner.sdk.errors import SdkError
from planner.sdk.loading import Aim, Drawn, LoaderSettings, Source
from planner.sdk.order import (
    Micro,
    Step,
    has_room,
    micro_batches,
    over_from,
    step_bounds,
    step_end,
)

_MAX_SEED = 2**63
_WINDOW = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a step is shared out."""

    rank: int
    workers: int
    global_batch: int
    micro_batch: int
    split: bool
    drop_last: bool


class PlannedFeed:
    """Steps and their batches, in planner's order."""

    planned = True

    def __init__(
        self, loader: Any, *, shape: Shape, shuffle: bool, seed: int, settings: LoaderSettings
    ) -> None:
        samples = len(loader.dataset)
        self.samples: int = samples
        self._script_loader = loader
        self._shapes: list[tuple[tuple[int, int], Shape]] = [((0, 0), shape)]
        bounds = self._bounds(shape)
        if not bounds:
            raise SdkError(
                f"an epoch has no step: {samples} samples, global batch {shape.global_batch}"
                + (", drop_last" if shape.drop_last else "")
            )
        if bounds[-1][1] - bounds[-1][0] < shape.workers:
            raise SdkError(f"{samples} samples are too few for {shape.workers} workers")
        self._draw = _Order(samples, seed=seed, shuffle=shuffle)
        self._source = Source(loader, self._drawn, settings)
        self._early: tuple[int, int] | None = None
        self._announced_late = False
        self._prepared: Source | None = None
        self._prepared_at = (0, 0)
        self._known: Step | None = None  # steps are asked for twice: to be drawn, to be trained on
        self._describe(shape)

    def _describe(self, shape: Shape) -> None:
        self.shape = shape
        self.global_batch: int = shape.global_batch
        self.micro_batch: int = shape.micro_batch
        self.accumulation = -(-shape.global_batch // (shape.micro_batch * shape.workers))
        self.loader_workers: int = self._source.settings.workers
        bounds = self._bounds(shape)
        self.steps_per_epoch: int = len(bounds)
        self._over_from = over_from(self.samples, shape.global_batch, drop_last=shape.drop_last)
        sizes = {stop - start for start, stop in bounds}
        self.accumulates = any(len(_micros(shape, size)) > 1 for size in sizes)

    def _bounds(self, shape: Shape) -> list[tuple[int, int]]:
        """Start and stop of each step of a whole epoch of that shape."""
        return list(
            step_bounds(self.samples, shape.global_batch, shape.workers, drop_last=shape.drop_last)
        )

    def fits(self, *, workers: int, global_batch: int) -> str | None:
        """Why a step cannot be shared out so; None when it can."""
        if global_batch < workers:
            return f"a global batch of {global_batch} is too small for {workers} workers"
        drop_last = self.shape.drop_last
        bounds = deque(step_bounds(self.samples, global_batch, workers, drop_last=drop_last), 1)
        if not bounds:
            return f"an epoch of {self.samples} samples has no step of {global_batch}"
        if bounds[0][1] - bounds[0][0] < workers:
            return f"{self.samples} samples are too few for {workers} workers"
        return None

    def has_room(self, workers: int, order: int, position: int) -> bool:
        """Whether so many workers, which `fits` allows, can begin with the step there."""
        shape = self._shape_at(order, position)
        return has_room(
            self.samples,
            shape.global_batch,
            workers,
            drop_last=shape.drop_last,
            start=position,
        )

    # ---- steps

    def done(self, position: int) -> bool:
        """Whether an epoch at sample `position` has no step left."""
        return position >= self._over_from

    def step(self, order: int, position: int) -> Step | None:
        """The step that begins there; None at the end of the epoch."""
        known = self._known
        if known is not None and known.start == position and known.order == order:
            return known
        shape = self._shape_at(order, position)
        stop = self._end_of(shape, position)
        if stop is None:
            return None
        step = self._known = Step(order, position, stop, _micros(shape, stop - position))
        return step

    def ahead(self, order: int, position: int, steps: int) -> tuple[int, int]:
        """Order and position so many steps later; the next epoch's start at the end."""
        for _ in range(steps):
            order, position = self._begin_of_step(order, position)
            position = self._end_of(self._shape_at(order, position), position) or 0
        return self._begin_of_step(order, position)

    def _begin_of_step(self, order: int, position: int) -> tuple[int, int]:
        """There, or the next epoch's start where no step is left."""
        over = self._end_of(self._shape_at(order, position), position) is None
        return (order + 1, 0) if over else (order, position)

    def _end_of(self, shape: Shape, position: int) -> int | None:
        return step_end(
            self.samples,
            shape.global_batch,
            shape.workers,
            drop_last=shape.drop_last,
            start=position,
        )

    def _shape_at(self, order: int, position: int) -> Shape:
        shapes = self._shapes
        if len(shapes) == 1:
            return shapes[0][1]
        at = (order, position)
        return next(shape for start, shape in reversed(shapes) if start <= at)

    # ---- batches

    def open(self, order: int, position: int, *, again: bool) -> None:
        """Begin to load from there on; a loader that was opened early for there just goes on."""
        early = self._early == (order, position)
        if self.prepared_for(order, position):
            self.use_prepared()
            early = True
        # At an epoch's start the loader draws a seed, which must come when it always does.
        if not early or position == 0 or again:
            self._source.open(order, position, again=again)
        self._early = None

    def open_early(self, order: int, position: int) -> None:
        """Begin to load for an `open` that follows."""
        self._early = (order, position)
        self._source.open_aside(order, position)

    def fetch(self) -> Any:
        """The next micro-batch's data; `END` when there is none."""
        return self._source.fetch()

    def _drawn(self, aim: Aim) -> Iterator[Drawn]:
        """Every micro-batch from an aim on."""
        order, position = aim.order, aim.position
        while True:
            step = self.step(order, position)
            if step is None:
                if not aim.again:
                    return
                order, position = order + 1, 0
                continue
            for micro in step.micros:
                start, stop = position + micro.start, position + micro.stop
                yield Drawn(order, position, self._draw.indices(order, start, stop))
            position = step.stop

    # ---- changes

    @property
    def horizon(self) -> int:
        """Steps after which a change finds nothing drawn yet, if it is announced at once."""
        return self._source.ahead

    def announce(self, order: int, position: int, shape: Shape) -> None:
        """From there on steps are shared out so; what is drawn from now on knows."""
        if self._shapes[-1] != ((order, position), shape):
            self._announced_late = self._source.drawn_past(order, position)
            self._shapes.append(((order, position), shape))
            self._known = None

    def reshape(self, order: int, position: int, shape: Shape) -> None:
        """The next step begins there and is shared out so, whatever was drawn before."""
        ready = self._shapes[-1] == ((order, position), shape)
        late = not ready or self._announced_late
        late = late and self._source.drawn_past(order, position)
        self._shapes, self._announced_late = [((order, position), shape)], False
        self._known = None
        if late:
            self._source.aim(order, position)
        self._describe(shape)

    def rewind(self, order: int, position: int, shape: Shape) -> None:
        """Go on from there, even if batches of it were handed out already."""
        self._shapes, self._known = [((order, position), shape)], None
        self._source.aim(order, position)
        self._describe(shape)

    def reseed(self, seed: int) -> None:
        """Draw orders from another seed: a worker that joins learns it from the others."""
        self._draw = _Order(self.samples, seed=seed, shuffle=self._draw.shuffle)

    def prepare(self, order: int, position: int, settings: LoaderSettings) -> None:
        """Start a second loader that loads from there on, beside the one in use."""
        if self._prepared is not None:
            self._prepared.close()
        self._prepared = Source(self._script_loader, self._drawn, settings)
        self._prepared_at = (order, position)
        self._prepared.open_aside(order, position)

    def prepared_for(self, order: int, position: int) -> bool:
        """Whether a second loader was started for there."""
        return self._prepared is not None and self._prepared_at == (order, position)

    def use_prepared(self) -> None:
        """Go on with the second loader; the first one ends."""
        if self._prepared is not None:
            self._source.close()
            self._source, self._prepared = self._prepared, None
            self.loader_workers = self._source.settings.workers

    def rest(self) -> None:
        """An epoch is over: its loader's processes end, unless they are meant to stay."""
        self._source.rest()

    def close(self) -> None:
        """Let go of the loaders and their processes."""
        for source in (self._source, self._prepared):
            if source is not None:
                source.close()

    @property
    def settings(self) -> LoaderSettings:
        """Of the loader in use."""
        return self._source.settings


def _micros(shape: Shape, samples: int) -> tuple[Micro, ...]:
    return micro_batches(
        samples,
        rank=shape.rank,
        workers=shape.workers,
        micro_batch=shape.micro_batch,
        split=shape.split,
    )


@dataclass
class _Order:
    """The permutation of each epoch, the last one kept.

    Numbers are taken out of the tensor many at a time: that costs about the same for one batch.
    """

    samples: int
    seed: int
    shuffle: bool
    _epoch: int = -1
    _drawn: Any = field(default=None, repr=False)
    _window: list[int] = field(default_factory=list, repr=False)
    _window_start: int = 0

    def indices(self, epoch: int, start: int, stop: int) -> list[int]:
        if not self.shuffle:
            return list(range(start, stop))
        if epoch != self._epoch:
            torch: Any = sys.modules["torch"]
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % _MAX_SEED)
            self._drawn, self._epoch = torch.randperm(self.samples, generator=generator), epoch
            self._window = []
        if start < self._window_start or stop > self._window_start + len(self._window):
            self._window_start = start
            self._window = self._drawn[start : max(stop, start + _WINDOW)].tolist()
        return self._window[start - self._window_start : stop - self._window_start]
