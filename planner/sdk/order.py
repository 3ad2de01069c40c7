"""Which samples each worker takes at each step: plain arithmetic, the same on every worker.

Step k of an epoch takes positions [k*G, (k+1)*G) of the epoch's order, G being the global batch.
Each worker takes a contiguous share of the step and cuts it into micro-batches of nearly the same
size. Two things follow from what the weights must become:

* Every worker has the same number of micro-batches, since workers meet in the last one.
* The last micro-batch is as large on every worker. A script's loss is the mean over a micro-batch
  and DistributedDataParallel takes the mean over workers, so shares that differ by a sample can be
  weighed rightly only before the last backward pass, by scaling what was accumulated until then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

_FEWEST = 2  # samples of a micro-batch: BatchNorm cannot train on a single one


@dataclass(frozen=True, slots=True)
class Micro:
    """One forward and backward pass of one worker.

    Attributes:
        start: First of its samples, counted from the step's first.
        stop: One past the last.
        first: Gradients start from zero here.
        last: The optimiser steps after it.
        carry: Factor for the gradients accumulated so far, before this backward pass.
        finish: Factor for the gradients after the last backward pass; 1 on the others.
        weight: What they count in the step's mean over all workers, before `finish`.
    """

    start: int
    stop: int
    first: bool = True
    last: bool = True
    carry: float = 1.0
    finish: float = 1.0
    weight: float = 1.0


class Step(NamedTuple):
    """One optimiser step of one worker.

    Attributes:
        order: Which epoch's order the positions refer to.
        start: First position, over all workers.
        stop: One past the last, over all workers.
    """

    order: int
    start: int
    stop: int
    micros: tuple[Micro, ...]

    @property
    def samples(self) -> int:
        """Samples of this step over all workers."""
        return self.stop - self.start


def step_end(
    samples: int, global_batch: int, workers: int, *, drop_last: bool = False, start: int = 0
) -> int | None:
    """One past the last position of the step that begins at `start`; None: the epoch is over.

    A last, shorter step is kept, or left out with `drop_last`. One with fewer than two samples a
    worker is joined to the step before it, if there is one.
    """
    if start >= samples:
        return None
    stop = start + global_batch
    if drop_last:
        return stop if stop <= samples else None
    return samples if samples - stop < _FEWEST * workers else stop


def over_from(samples: int, global_batch: int, *, drop_last: bool = False) -> int:
    """The first position at which an epoch has no step left: where `step_end` tells of none."""
    return max(0, samples - global_batch + 1) if drop_last else samples


def step_bounds(
    samples: int, global_batch: int, workers: int, *, drop_last: bool = False, start: int = 0
) -> Iterator[tuple[int, int]]:
    """Positions [start, stop) of each step of an epoch, from position `start` on."""
    while True:
        stop = step_end(samples, global_batch, workers, drop_last=drop_last, start=start)
        if stop is None:
            return
        yield start, stop
        start = stop


def has_room(
    samples: int, global_batch: int, workers: int, *, drop_last: bool = False, start: int = 0
) -> bool:
    """Whether the step that begins at `start` is a good one for so many workers to begin with.

    Two samples each are, for the statistics of a batch. Where no step has as many, those are that
    are as long as an epoch's first: whatever can be trained with can be begun with.
    """
    first = step_end(samples, global_batch, workers, drop_last=drop_last)
    stop = step_end(samples, global_batch, workers, drop_last=drop_last, start=start)
    if first is None or stop is None:
        return True  # nothing is shared out there
    return stop - start >= min(_FEWEST * workers, first)


@lru_cache(maxsize=256)  # most steps of a run are alike
def micro_batches(
    samples: int, *, rank: int, workers: int, micro_batch: int, split: bool = True
) -> tuple[Micro, ...]:
    """What worker `rank` does in a step of so many samples.

    No micro-batch is larger than `micro_batch`, with one exception: a `micro_batch` of 3 or less is
    exceeded, by two at the most, rather than leaving a single sample over. With `split` false
    there is just one micro-batch.
    """
    if rank >= samples:
        # The others wait for its part, which must not count: it does the last sample, weighed 0.
        return (Micro(samples - 1, samples, weight=0.0),)
    base, extra = divmod(samples, workers)
    share = base + (rank < extra)
    begin = rank * base + min(rank, extra)
    largest = base + (extra > 0)
    count = _count(base, largest, micro_batch, uneven=extra > 0) if split else 1
    tail = largest // count
    sizes = (*_even(share - tail, count - 1), tail) if count > 1 else (share,)
    # With a single micro-batch nothing is scaled: workers of uneven shares then weigh the same.
    finish = workers * sizes[-1] / samples if count > 1 else 1.0
    out: list[Micro] = []
    for i, size in enumerate(sizes):
        last = i == count - 1
        carry = sizes[i - 1] / size if i else 1.0
        last_factor, weight = finish if last else 1.0, size / samples
        out.append(Micro(begin, begin + size, i == 0, last, carry, last_factor, weight))
        begin += size
    return tuple(out)


def _count(base: int, largest: int, micro_batch: int, *, uneven: bool) -> int:
    """Micro-batches of a step, when the smallest share is `base`."""
    count = -(-largest // micro_batch)
    if uneven and count == 1:
        count = 2
    smallest = _FEWEST if micro_batch >= _FEWEST else 1
    return max(1, min(count, base // smallest))


def _even(samples: int, parts: int) -> tuple[int, ...]:
    """`samples` cut into `parts`, larger ones first, sizes differing by one at most."""
    base, extra = divmod(samples, parts)
    return tuple(base + (i < extra) for i in range(parts))
