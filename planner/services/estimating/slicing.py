"""A small stand-in for a data set: the same classes in the same proportions, as symbolic links.

A slice lives under `<slices>/<fingerprint>-<fraction>-<seed>/data` and is reused by every probe of
that data set. It is built beside its place and renamed, so that it is either whole or not there.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from planner.core.errors import StoreError
from planner.services.estimating.dataset import DataStats, Split

MIN_PER_CLASS = 2
"""Training images kept of each class that has as many."""
TAIL_SAMPLES = 512
"""Images kept of the largest split that is not trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What a probe is given instead of the data set.

    Attributes:
        path: What `{data}` becomes; the data set itself when nothing could be cut off.
        fraction: Training images of the slice over those of the data set.
        train_samples: Training images in it; None where the layout does not tell.
        tail_samples: Images in the other splits.
    """

    path: str | None
    fraction: float
    train_samples: int | None
    tail_samples: int


def make_slice(
    stats: DataStats, folder: Path, *, fraction: float, global_batch: int, seed: int = 0
) -> Slice:
    """Cut a stratified slice, or find the one that was cut before.

    Training images: `fraction` of them, but at least two global batches and two of each class,
    and a whole number of global batches so that every step of a probe is a full one. The other
    splits keep one common fraction, at most 512 images of the largest, at least one of each
    class: evaluation is then timed on parts of the same proportions. A data set that would be
    kept whole, or that is no ImageFolder, is passed on as it is.

    Args:
        stats: What `scan_data` found.
        folder: Where slices are kept.
        fraction: Wanted part of the training images, 0 < fraction <= 1.
        global_batch: Samples of one optimiser step.
        seed: Decides which images are kept.

    Raises:
        StoreError: The slice cannot be written.
    """
    if stats.kind != "imagefolder" or stats.path is None:
        return Slice(
            path=stats.path, fraction=1.0, train_samples=None, tail_samples=stats.tail_samples
        )
    chosen = choose(stats.splits, fraction=fraction, global_batch=global_batch, seed=seed)
    train, tail = _count(chosen, stats.splits, True), _count(chosen, stats.splits, False)
    total = stats.train_samples or 0
    if train == total and tail == stats.tail_samples:
        return Slice(path=stats.path, fraction=1.0, train_samples=train, tail_samples=tail)
    part = train / total
    # The source's place belongs to the name: links into a copy that was removed would dangle.
    source = hashlib.sha256(f"{stats.path}\0{stats.fingerprint}".encode()).hexdigest()
    place = folder / f"{source[:16]}-{part:.5f}-{tail}-{seed}"
    if not place.is_dir():
        _build(stats.path, place, chosen)
    return Slice(path=str(place / "data"), fraction=part, train_samples=train, tail_samples=tail)


def choose(
    splits: Sequence[Split], *, fraction: float, global_batch: int, seed: int
) -> tuple[str, ...]:
    """The images to keep, as sorted paths relative to the data set; a pure function."""
    training = sum(s.samples for s in splits if s.training)
    classes = sum(len(s.classes) for s in splits if s.training)
    wanted = max(ceil(fraction * training), 2 * global_batch, MIN_PER_CLASS * classes)
    wanted = min(training, ceil(wanted / global_batch) * global_batch)
    largest = max((s.samples for s in splits if not s.training), default=0)
    tail_fraction = min(1.0, TAIL_SAMPLES / largest) if largest else 1.0
    kept: list[str] = []
    for split in splits:
        if split.training:
            count, least = round(wanted * split.samples / training), MIN_PER_CLASS
        else:
            count, least = round(tail_fraction * split.samples), 1
        sizes = {name: len(files) for name, files in split.classes.items()}
        for name, share in shares(sizes, count, least).items():
            # A stream of its own for each class: one more class does not reshuffle the others.
            dice = random.Random(f"{seed}/{split.name}/{name}")  # noqa: S311 - not for secrets
            kept += dice.sample(split.classes[name], share)
    return tuple(sorted(kept))


def shares(sizes: Mapping[str, int], count: int, least: int) -> dict[str, int]:
    """Split `count` over classes in proportion to their sizes, by largest remainders.

    Every class gets at least `min(least, its size)`, even where that makes more than `count`, and
    at most its size.
    """
    total = sum(sizes.values())
    if total == 0:
        return dict.fromkeys(sizes, 0)
    count = min(count, total)
    exact = {name: count * size / total for name, size in sizes.items()}
    floor = {name: min(size, least) for name, size in sizes.items()}
    given = {name: max(floor[name], int(part)) for name, part in exact.items()}
    missing = count - sum(given.values())
    if missing > 0:
        # Largest remainder first; the name decides between equals.
        order = sorted(exact, key=lambda name: (given[name] - exact[name], name))
        for name in order[:missing]:
            given[name] += 1
    # Rounding small classes up took more than there is: the largest ones give it back.
    largest = [(-given[name], name) for name in given if given[name] > floor[name]]
    heapq.heapify(largest)
    while missing < 0 and largest:
        _, name = heapq.heappop(largest)
        given[name] -= 1
        missing += 1
        if given[name] > floor[name]:
            heapq.heappush(largest, (-given[name], name))
    return given


def _count(chosen: Sequence[str], splits: Sequence[Split], training: bool) -> int:
    names = {s.name for s in splits if s.training == training}
    if "" in names:
        return len(chosen)
    return sum(name.split("/", 1)[0] in names for name in chosen)


def _build(source: str, place: Path, chosen: Sequence[str]) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        try:
            _fill(source, beside / "data", chosen)
            beside.chmod(0o755)
            try:
                beside.rename(place)
            except OSError:
                if not place.is_dir():  # someone else was faster: the slices are the same
                    raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise StoreError(
            f"the slice of the data set cannot be written to {place}: {error.strerror or error}",
            hint="Free some space or give another folder with --state-dir.",
        ) from error


def _fill(source: str, target: Path, chosen: Sequence[str]) -> None:
    made: set[Path] = set()
    linked = True
    for name in chosen:
        path, original = target / name, os.path.join(source, name)
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        if linked:
            try:
                path.symlink_to(original)
                continue
            except OSError:
                linked = False  # a file system without links (vfat, some network disks)
        shutil.copyfile(original, path)
