"""Look at a data set before anything is spent on it: layout, counts, and files that would break.

Three kinds are told apart. An `imagefolder` has one folder per class, straight under the root or
under `train`, `val`, `test`; it can be sliced. A folder of anything else is `files`, and a single
file or no data set at all is `opaque`: both are passed to the job as they are.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from planner.core.errors import DataError
from planner.services.estimating.imagecheck import damage, is_image

TRAIN_NAMES = frozenset({"train", "training"})
OTHER_NAMES = frozenset({"val", "valid", "validation", "dev", "eval", "test", "testing"})
CHECK_LIMIT = 5000
"""Up to so many images are all checked for damage; of more, a seeded sample of this size."""

DataKind = Literal["imagefolder", "files", "opaque"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One part of an ImageFolder.

    Attributes:
        name: Folder under the root; empty when the classes lie straight under the root.
        training: Whether the job trains on it.
        classes: Files of each class, relative to the root and sorted.
    """

    name: str
    training: bool
    classes: Mapping[str, tuple[str, ...]]

    @property
    def samples(self) -> int:
        """Images in this split."""
        return sum(len(files) for files in self.classes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class DataStats:
    """What a data set holds.

    Attributes:
        fingerprint: Hash of all names and sizes; the same for a copy of the data elsewhere.
        checked: Images whose bytes were looked at.
    """

    path: str | None
    kind: DataKind
    files: int
    size_bytes: int
    fingerprint: str
    splits: tuple[Split, ...] = ()
    checked: int = 0

    @property
    def train_samples(self) -> int | None:
        """Training images; None where the layout does not tell."""
        if self.kind != "imagefolder":
            return None
        return sum(s.samples for s in self.splits if s.training)

    @property
    def tail_samples(self) -> int:
        """Images of all splits that are not trained on."""
        return sum(s.samples for s in self.splits if not s.training)


@dataclass(slots=True)
class _Listing:
    """All files below a root: sizes by relative path, and the folders seen."""

    sizes: dict[str, int]
    folders: list[str]


def scan_data(path: str | None, *, seed: int = 0) -> DataStats:
    """Walk the data set once and say what it is.

    Costs one `stat` a file and two short reads for each image that is checked. Files and folders
    whose name starts with a dot are passed over.

    Args:
        path: Absolute path; None when the job has no data set.
        seed: Seed of the sample that is checked for damage when there are many images.

    Raises:
        DataError: Missing, empty or unreadable; or, for an ImageFolder: one class only, a class
            without images, an empty or damaged image. The text names the file or folder.
    """
    if path is None:
        return DataStats(path=None, kind="opaque", files=0, size_bytes=0, fingerprint=_digest({}))
    if not os.path.lexists(path):
        raise DataError(
            f"the data set {path} does not exist",
            hint="Check data in the job file; a relative path counts from the job file's folder.",
        )
    if not os.path.isdir(path):
        return _scan_file(path)
    listing = _list(path)
    if not listing.sizes:
        raise DataError(
            f"the data set {path} is empty: no file in it or below it",
            hint="Point data at a folder with one folder of images per class, or at a file.",
        )
    splits = _splits(path, listing)
    checked = 0
    if splits:
        _refuse_unfit(path, splits)
        checked = _refuse_damaged(path, listing, splits, seed)
    return DataStats(
        path=path,
        kind="imagefolder" if splits else "files",
        files=len(listing.sizes),
        size_bytes=sum(listing.sizes.values()),
        fingerprint=_digest(listing.sizes),
        splits=splits,
        checked=checked,
    )


def _scan_file(path: str) -> DataStats:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.read(1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if size == 0:
        raise DataError(
            f"the data set {path} is an empty file (0 bytes)",
            hint="Write or download it again, or correct data in the job file.",
        )
    sizes = {os.path.basename(path): size}
    return DataStats(path=path, kind="opaque", files=1, size_bytes=size, fingerprint=_digest(sizes))


def _unreadable(path: str, error: OSError) -> DataError:
    reason = error.strerror or str(error)
    return DataError(
        f"the data set cannot be read: {path}: {reason}",
        hint="Check that it exists and that you may read it, or remove it from the data set.",
    )


def _list(root: str) -> _Listing:
    listing = _Listing(sizes={}, folders=[])
    try:
        status = os.stat(root)
    except OSError as error:
        raise _unreadable(root, error) from error
    _list_into(listing, root, "", ((status.st_dev, status.st_ino),))
    return listing


def _list_into(
    listing: _Listing, folder: str, prefix: str, above: tuple[tuple[int, int], ...]
) -> None:
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        name = prefix + entry.name
        try:
            status = entry.stat()
        except OSError as error:
            raise _unreadable(entry.path, error) from error
        if not entry.is_dir():
            listing.sizes[name] = status.st_size
            continue
        listing.folders.append(name)
        inode = (status.st_dev, status.st_ino)
        if inode not in above:  # a link to a folder above would never end
            _list_into(listing, entry.path, name + "/", (*above, inode))


def _splits(root: str, listing: _Listing) -> tuple[Split, ...]:
    """The splits when the layout is that of an ImageFolder, else nothing."""
    top = [name for name in listing.folders if "/" not in name]
    train = [name for name in top if name.lower() in TRAIN_NAMES]
    others = [name for name in top if name.lower() in OTHER_NAMES]
    by_class = _by_class(listing)
    if not train:
        names = [("", True)]
    else:
        names = [(name, name in train) for name in sorted([*train, *others])]
    splits = [
        Split(name=name, training=training, classes=by_class.get(name, {}))
        for name, training in names
    ]
    return tuple(splits) if all(_is_class_layout(s, listing) for s in splits) else ()


def _by_class(listing: _Listing) -> dict[str, dict[str, tuple[str, ...]]]:
    """Images by split and class, for both layouts at once: split '' has the top as classes."""
    found: dict[str, dict[str, list[str]]] = {}
    for folder in listing.folders:
        split, _, name = folder.rpartition("/")
        if split.count("/") == 0:
            found.setdefault(split, {}).setdefault(name, [])
    for name in listing.sizes:
        parts = name.split("/")
        if not is_image(name):
            continue
        if len(parts) > 1:
            found[""][parts[0]].append(name)
        if len(parts) > 2:
            found[parts[0]][parts[1]].append(name)
    return {s: {c: tuple(files) for c, files in cs.items()} for s, cs in found.items()}


def _is_class_layout(split: Split, listing: _Listing) -> bool:
    """Folders of images and nothing else: no loose files, no folder of other files only."""
    prefix = split.name + "/" if split.name else ""
    if not any(split.classes.values()):
        return False
    bare = [c for c, files in split.classes.items() if not files]
    for name in listing.sizes:
        if not name.startswith(prefix):
            continue
        first, slash, _ = name[len(prefix) :].partition("/")
        # Labels beside the images, or a folder of annotations: the classes are kept elsewhere.
        if (not slash and (split.name == "" or is_image(name))) or (slash and first in bare):
            return False
    return True


def _refuse_unfit(root: str, splits: tuple[Split, ...]) -> None:
    for split in splits:
        folder = os.path.join(root, split.name) if split.name else root
        for name, files in split.classes.items():
            if not files:
                raise DataError(
                    f"class {name} has no images: {os.path.join(folder, name)} is empty",
                    hint="Add images to that folder, or remove it.",
                )
        if split.training and len(split.classes) < 2:
            only = next(iter(split.classes))
            raise DataError(
                f"the data set {folder} has one class only ({only}): nothing to tell apart",
                hint="Put the images of each class into a folder of its own under "
                f"{folder}; check that data does not point one level too deep or too high.",
            )


def _refuse_damaged(root: str, listing: _Listing, splits: tuple[Split, ...], seed: int) -> int:
    images = list(_images(splits))
    for name in images:
        if listing.sizes[name] == 0:
            raise _damaged(os.path.join(root, name), "is empty (0 bytes)")
    if len(images) > CHECK_LIMIT:
        images = random.Random(seed).sample(images, CHECK_LIMIT)  # noqa: S311 - not for secrets
    for name in images:
        path = os.path.join(root, name)
        try:
            what = damage(path, listing.sizes[name])
        except OSError as error:
            raise _unreadable(path, error) from error
        if what:
            raise _damaged(path, what)
    return len(images)


def _damaged(path: str, what: str) -> DataError:
    return DataError(
        f"the image {path} {what}",
        hint="Download or write it again, or delete it.",
        code="usage.data.corrupt",
    )


def _images(splits: tuple[Split, ...]) -> Iterator[str]:
    for split in splits:
        for files in split.classes.values():
            yield from files


def _digest(sizes: Mapping[str, int]) -> str:
    digest = hashlib.sha256()
    for name in sorted(sizes):
        digest.update(f"{name}\0{sizes[name]}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
