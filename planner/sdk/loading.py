"""The script's DataLoader in planner's order: rebuilt around another batch sampler, and steered.

A loader with processes of its own draws ahead of training. So each drawn batch carries the aim it
was drawn for, and what was drawn for an earlier aim is passed over.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from planner.sdk.errors import SdkError

END = object()
"""In place of a batch: there is none any more."""


class Aim(NamedTuple):
    """Where to draw from: an epoch's order and a position in it; over and over when `again`."""

    order: int
    position: int
    again: bool
    number: int


class Drawn(NamedTuple):
    """One micro-batch to load: its data set indices, and the start of the step it is part of."""

    order: int
    start: int
    indices: list[int]


Draw = Callable[[Aim], Iterator[Drawn]]


class LoaderSettings(NamedTuple):
    """What can be changed about a loader in flight.

    Attributes:
        workers: Loader processes; 0 loads in the training process.
        lean: Fewer batches drawn ahead, and none of them in pinned memory.
    """

    workers: int
    lean: bool = False


class Source:
    """One rebuilt loader and its current iterator.

    Args:
        loader: The script's.
        draw: Micro-batches from an aim on, drawn lazily.
        settings: How many processes, and how far ahead.
    """

    def __init__(self, loader: Any, draw: Draw, settings: LoaderSettings) -> None:
        self.settings = settings
        self._draw = draw
        self._aim = Aim(0, 0, False, 0)
        self._aims: deque[Aim] = deque()
        self._drawing: Aim | None = None
        self._reached = (0, 0)
        kept = _kept(loader, settings)
        self.ahead = settings.workers * (
            kept.get("prefetch_factor") or 2 if settings.workers else 0
        )
        self._loader = type(loader)(
            loader.dataset, batch_sampler=self, num_workers=settings.workers, **kept
        )
        self._batches: Any = None

    def open(self, order: int, position: int, *, again: bool) -> None:
        """Begin to load from there on: batches drawn ahead are under way when this returns."""
        self._aim = Aim(order, position, again, self._aim.number + 1)
        self._start()

    def open_aside(self, order: int, position: int) -> None:
        """The same in the middle of an epoch, where an undisturbed run draws no random number."""
        with _random_kept(self._loader.generator):
            self.open(order, position, again=False)

    def aim(self, order: int, position: int) -> None:
        """Go on from there instead; what was drawn for elsewhere is passed over."""
        self._aim = Aim(order, position, self._aim.again, self._aim.number + 1)

    def drawn_past(self, order: int, position: int) -> bool:
        """Whether a step that begins there or later was drawn already."""
        return bool(self._aims) and self._reached >= (order, position)

    def fetch(self) -> Any:
        """The next batch of the present aim; `END` when there is none."""
        for fresh in (False, True):
            if fresh:  # everything was drawn before the aim changed
                with _random_kept(self._loader.generator):
                    self._start()
            for batch in self._batches:
                aim = self._aims.popleft()
                if aim == self._aim:
                    return batch
            if self._drawing == self._aim:
                return END
        raise SdkError("the loader gave no batch where there must be one")

    def rest(self) -> None:
        """An epoch is over: end what is still being loaded for it."""
        if not getattr(self._loader, "persistent_workers", False):
            self.close()

    def close(self) -> None:
        """Let go of the iterator and its processes, on a thread: they take a moment to end.

        The interpreter waits for that thread at its end: the processes are deaf to the signal that
        it sends them.
        """
        batches, self._batches = self._batches, None
        end = getattr(batches, "_shutdown_workers", None)
        if end is not None:
            threading.Thread(target=end, name="planner-loader-end").start()

    def _start(self) -> None:
        self._aims.clear()
        self._batches = iter(self._loader)

    def __iter__(self) -> Iterator[list[int]]:
        """Draws for the DataLoader: the loader's own batch sampler is this."""
        while True:
            aim = self._drawing = self._aim
            for drawn in self._draw(aim):
                if aim is not self._aim:
                    break
                self._aims.append(aim)
                self._reached = (drawn.order, drawn.start)
                yield drawn.indices
            if aim is self._aim:
                return


@contextmanager
def _random_kept(generator: Any) -> Iterator[None]:
    """Leave the random states as they are: a DataLoader draws a seed whenever it is iterated."""
    torch: Any = sys.modules["torch"]
    source = torch.default_generator if generator is None else generator
    before = source.get_state()
    try:
        yield
    finally:
        source.set_state(before)


def _kept(loader: Any, settings: LoaderSettings) -> dict[str, Any]:
    """Everything else about the script's DataLoader."""
    kept: dict[str, Any] = {
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory and not settings.lean,
        "generator": loader.generator,
    }
    if hasattr(loader, "pin_memory_device") and kept["pin_memory"]:  # not in every version
        kept["pin_memory_device"] = loader.pin_memory_device
    if settings.workers > 0:
        kept["worker_init_fn"] = _LoaderProcess(loader.worker_init_fn)
        kept["timeout"] = loader.timeout
        kept["persistent_workers"] = loader.persistent_workers
        kept["prefetch_factor"] = 1 if settings.lean else loader.prefetch_factor
        kept["multiprocessing_context"] = loader.multiprocessing_context
    return kept


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
