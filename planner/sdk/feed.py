"""Where batches come from: the script's DataLoader in planner's order, or the loader as it is."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, islice
from typing import Any, Protocol

from planner.sdk.errors import SdkError
from planner.sdk.order import Micro, Step, micro_batches, step_bounds

_MAX_SEED = 2**63
_WINDOW = 4096


class Feed(Protocol):
    """Steps and their batches, in step with each other."""

    planned: bool
    samples: int | None
    global_batch: int | None
    micro_batch: int | None
    accumulation: int
    loader_workers: int | None
    steps_per_epoch: int | None
    accumulates: bool

    def done(self, position: int) -> bool:
        """Whether an epoch at `position` has no step left. May draw from the loader."""

    def steps(self, epoch: int, position: int, *, again: bool) -> Iterator[Step]:
        """The steps of an epoch from `position` on; over and over when `again`."""

    def batches(self, epoch: int, position: int, *, again: bool) -> Iterator[Any]:
        """One batch for each micro-batch of `steps`."""


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
    """A map-style data set, its order drawn from seed and epoch, shared out over the workers."""

    planned = True

    def __init__(
        self, loader: Any, *, shape: Shape, shuffle: bool, seed: int, loader_workers: int | None
    ) -> None:
        samples = len(loader.dataset)
        self.samples: int | None = samples
        self.global_batch: int | None = shape.global_batch
        self.micro_batch: int | None = shape.micro_batch
        self.accumulation = -(-shape.global_batch // (shape.micro_batch * shape.workers))
        workers = loader.num_workers if loader_workers is None else loader_workers
        self.loader_workers: int | None = workers
        self._shape = shape
        self._bounds = list(
            step_bounds(samples, shape.global_batch, shape.workers, drop_last=shape.drop_last)
        )
        self.steps_per_epoch: int | None = len(self._bounds)
        if not self._bounds:
            raise SdkError(
                f"an epoch has no step: {samples} samples, global batch {shape.global_batch}"
                + (", drop_last" if shape.drop_last else "")
            )
        if self._bounds[-1][1] - self._bounds[-1][0] < shape.workers:
            raise SdkError(f"{samples} samples are too few for {shape.workers} workers")
        sizes = {stop - start for start, stop in self._bounds}
        self.accumulates = any(len(self.micros(0, size)) > 1 for size in sizes)
        self._draw = _Order(samples, seed=seed, shuffle=shuffle)
        self._sampler = _Batches(self)
        self._loader = _rebuilt(loader, self._sampler, workers)

    def micros(self, start: int, stop: int) -> tuple[Micro, ...]:
        """This worker's part of a step."""
        shape = self._shape
        return micro_batches(
            start,
            stop,
            rank=shape.rank,
            workers=shape.workers,
            micro_batch=shape.micro_batch,
            split=shape.split,
        )

    def done(self, position: int) -> bool:
        """Whether an epoch at sample `position` has no step left."""
        return position >= self._bounds[-1][1]

    def steps(self, epoch: int, position: int, *, again: bool) -> Iterator[Step]:
        """The steps of an epoch from sample `position` on; over and over when `again`."""
        shape = self._shape
        for order in count(epoch):
            bounds = step_bounds(
                self._draw.samples,
                shape.global_batch,
                shape.workers,
                drop_last=shape.drop_last,
                start=position,
            )
            for start, stop in bounds:
                yield Step(order, start, stop, self.micros(start, stop))
            if not again:
                return
            position = 0

    def batches(self, epoch: int, position: int, *, again: bool) -> Iterator[Any]:
        """One batch for each micro-batch of `steps`."""
        self._sampler.aim(epoch, position, again)
        return iter(self._loader)

    def indices(self, epoch: int, position: int, again: bool) -> Iterator[list[int]]:
        """Data set indices of each micro-batch."""
        for step in self.steps(epoch, position, again=again):
            for micro in step.micros:
                yield self._draw.indices(step.order, micro.start, micro.stop)


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


class _Batches:
    """The batch sampler in the rebuilt DataLoader: aimed anew for each epoch."""

    def __init__(self, feed: PlannedFeed) -> None:
        self._feed = feed
        self._aim: tuple[int, int, bool] = (0, 0, False)

    def aim(self, epoch: int, position: int, again: bool) -> None:
        self._aim = (epoch, position, again)

    def __iter__(self) -> Iterator[list[int]]:
        return self._feed.indices(*self._aim)


class OpaqueFeed:
    """Any iterable, as it is: each batch is one step, and resuming skips what was done."""

    planned = False

    def __init__(self, loader: Any, *, workers: int) -> None:
        self._loader = loader
        batch = getattr(loader, "batch_size", None)
        self.micro_batch: int | None = batch if isinstance(batch, int) else None
        self.global_batch: int | None = self.micro_batch and self.micro_batch * workers
        self.accumulation = 1
        loader_workers = getattr(loader, "num_workers", None)
        self.loader_workers: int | None = loader_workers
        self.steps_per_epoch: int | None = length(loader)
        self.samples: int | None = length(getattr(loader, "dataset", None))
        self.accumulates = False

    def done(self, position: int) -> bool:
        """Whether no batch is left: draws them to see, unless there are surely more."""
        if self.steps_per_epoch is not None and position < self.steps_per_epoch:
            return False
        batches = iter(self._loader)
        if batches is self._loader:  # what is drawn now would be missing later
            return False
        return not list(islice(batches, position, position + 1))

    def steps(self, epoch: int, position: int, *, again: bool) -> Iterator[Step]:
        """Steps without end: the batches tell when the epoch is over. `position` counts batches."""
        for at in count(position):
            yield Step(epoch, at, at + 1, (Micro(at, at + 1),))

    def batches(self, epoch: int, position: int, *, again: bool) -> Iterator[Any]:
        """The iterable's own batches; those before `position` are drawn here and dropped."""
        batches = iter(self._loader)
        for _ in islice(batches, position):
            continue
        return chain(batches, self._passes()) if again else batches

    def _passes(self) -> Iterator[Any]:
        """The batches again and again, until there are none."""
        found = True
        while found:
            found = False
            for batch in self._loader:
                found = True
                yield batch


def length(thing: Any) -> int | None:
    """`len(thing)`; None when it has none."""
    try:
        return len(thing)
    except TypeError:
        return None


def batch_samples(batch: Any) -> int | None:
    """How many samples a batch seems to hold; None when it does not show."""
    if isinstance(batch, dict):
        batch = next(iter(batch.values()), None)
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch):
        first = batch[0]
        batch = first if hasattr(first, "__len__") and not isinstance(first, str) else batch
    try:
        return len(batch)
    except TypeError:
        return None


def shuffles(loader: Any) -> bool | None:
    """Whether the loader draws a random order; None when its order is its own affair."""
    torch: Any = sys.modules.get("torch")
    data = getattr(getattr(torch, "utils", None), "data", None)
    if data is None or type(loader) is not data.DataLoader:
        return None
    if isinstance(loader.dataset, data.IterableDataset) or loader.batch_size is None:
        return None
    if type(loader.batch_sampler) is not data.BatchSampler:
        return None
    sampler = loader.sampler
    if type(sampler) is data.SequentialSampler:
        return False
    if type(sampler) is data.RandomSampler:
        whole = not sampler.replacement and sampler.num_samples == len(loader.dataset)
        return True if whole else None
    if type(sampler) is data.DistributedSampler:
        return bool(sampler.shuffle)
    return None


def _rebuilt(loader: Any, batch_sampler: _Batches, workers: int) -> Any:
    """The script's DataLoader around another batch sampler, everything else as it was."""
    kept: dict[str, Any] = {
        name: getattr(loader, name) for name in ("collate_fn", "pin_memory", "generator")
    }
    for name in ("pin_memory_device", "in_order"):  # not in every version
        if hasattr(loader, name):
            kept[name] = getattr(loader, name)
    if workers > 0:
        kept["worker_init_fn"] = _LoaderProcess(loader.worker_init_fn)
        kept["timeout"] = loader.timeout
        kept["persistent_workers"] = loader.persistent_workers
        kept["prefetch_factor"] = loader.prefetch_factor
        kept["multiprocessing_context"] = loader.multiprocessing_context
    return type(loader)(loader.dataset, batch_sampler=batch_sampler, num_workers=workers, **kept)


class _LoaderProcess:
    """Start of a loader process: the script's own, and no end by a signal meant for the worker.

    Some schedulers signal every process of a job. Loader processes must outlive that, or the step
    in progress fails instead of being finished and saved; they leave with the worker anyway.
    """

    def __init__(self, own: Any) -> None:
        self._own = own

    def __call__(self, number: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self._own is not None:
            self._own(number)
