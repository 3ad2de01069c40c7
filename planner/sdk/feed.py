"""Where batches come from: the script's DataLoader in planner's order, or the loader as it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, Protocol

from planner.sdk.loading import END
from planner.sdk.order import Micro, Step


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

    def open(self, order: int, position: int, *, again: bool) -> None:
        """Begin to load an epoch from `position` on; over and over when `again`."""

    def step(self, order: int, position: int) -> Step | None:
        """The step that begins there; None at the end of the epoch, where that is known."""

    def fetch(self) -> Any:
        """The batch of the next micro-batch; `END` when there is none."""

    def rest(self) -> None:
        """An epoch is over: nothing more is loaded for it."""

    def close(self) -> None:
        """Nothing more is loaded at all."""


class OpaqueFeed:
    """Any iterable, as it is: each batch is one step, and resuming skips what was done."""

    planned = False

    def __init__(self, loader: Any, *, workers: int) -> None:
        self._loader = loader
        self._batches: Iterator[Any] = iter(())
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

    def open(self, order: int, position: int, *, again: bool) -> None:
        """The iterable's own batches; those before `position` are drawn here and dropped."""
        batches = iter(self._loader)
        for _ in islice(batches, position):
            continue
        self._batches = chain(batches, self._passes()) if again else batches

    def step(self, order: int, position: int) -> Step:
        """A step of one batch: the batches tell when the epoch is over. Counts batches."""
        return Step(order, position, position + 1, (Micro(position, position + 1),))

    def fetch(self) -> Any:
        """The next batch; `END` when there is none."""
        return next(self._batches, END)

    def rest(self) -> None:
        """An epoch is over."""
        self._batches = iter(())

    def close(self) -> None:
        """Let go of the batches."""
        self._batches = iter(())

    def more(self) -> bool:
        """Whether another batch follows; draws it, for the next `fetch`."""
        first = list(islice(self._batches, 1))
        self._batches = chain(first, self._batches)
        return bool(first)

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
