"""Checkpoints on disk: written beside, flushed, renamed, verified; the last two are kept.

A checkpoint is a folder `<number>-step<step>` holding the parts' files and `manifest.json`, which
gives the size and SHA-256 of each. A folder without a manifest that fits is no checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from planner.sdk.errors import tell

MANIFEST = "manifest.json"
_KEPT = 2
_NAME = re.compile(r"(\d{6,})-step\d+")
_BESIDE = ".writing-"
_CHUNK_BYTES = 1 << 20


class CorruptCheckpoint(Exception):
    """A checkpoint's files are not what its manifest says."""


class AnotherLeads(Exception):
    """Another worker leads now: what this one wrote must not become a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A checkpoint that was written and read back."""

    path: Path
    size_bytes: int
    sha256: str


class CheckpointFolder:
    """The checkpoints of one run. One process at a time writes here.

    `check` raises CorruptCheckpoint when what is in a checkpoint's folder cannot be loaded.
    `may_write` is asked right before a new one takes its place; it may be asked in another thread.
    """

    def __init__(
        self,
        root: Path,
        check: Callable[[Path], None],
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self.root = root
        self._check = check
        self._may_write = may_write
        self._bad: set[str] = set()

    def newest_good(self) -> Path | None:
        """The newest checkpoint that can be loaded; says so when it is not the newest one."""
        for path in reversed(self._all()):
            try:
                verify(path)
                self._check(path)
            except CorruptCheckpoint as error:
                self._bad.add(path.name)
                tell(f"checkpoint {path.name} is damaged ({error}); trying the one before it")
                continue
            return path
        if self._bad:
            tell(f"no checkpoint in {self.root} is whole; starting from the beginning")
        return None

    def write(self, step: int, fill: Callable[[Path], None]) -> Written:
        """Write a checkpoint; `fill` puts its files into the folder it is given.

        Raises:
            OSError: The disk is full or gone; the checkpoints before it are untouched.
            CorruptCheckpoint: What was written did not read back the same, or cannot be loaded.
            AnotherLeads: This worker may no longer write.
            Exception: Whatever `fill` raised; the checkpoints before it are untouched.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in self.root.glob(f"{_BESIDE}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        name = f"{self._next_number():06d}-step{step}"
        beside = self.root / f"{_BESIDE}{name}-{os.getpid()}"
        beside.mkdir()
        try:
            fill(beside)
            manifest_sha256 = _seal(beside)
            size_bytes = verify(beside)
            self._check(beside)
            if not self._may_write():
                raise AnotherLeads("another worker leads now, so this one's checkpoint is dropped")
            final = self.root / name
            os.rename(beside, final)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        _sync_folder(self.root)
        self._drop_old(final)
        return Written(path=final, size_bytes=size_bytes, sha256=manifest_sha256)

    def _all(self) -> list[Path]:
        """Every checkpoint, whole or not, oldest first."""
        if not self.root.is_dir():
            return []
        found = [p for p in self.root.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()]
        return sorted(found, key=lambda p: int(p.name.split("-", 1)[0]))

    def _next_number(self) -> int:
        everything = self._all()
        return int(everything[-1].name.split("-", 1)[0]) + 1 if everything else 1

    def _drop_old(self, newest: Path) -> None:
        """Keep `newest`, which is verified, and the one before it that is not known as damaged."""
        good = [p for p in self._all() if p.name not in self._bad and p != newest]
        kept = {newest, *good[-(_KEPT - 1) :]}
        for path in self._all():
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)


class SafeFile:
    """A file that bears a full disk until it is closed.

    Serialisers write from destructors and native code, where an exception would end the process;
    so the first error is kept and raised by `close`.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115 - closed by close()
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write `data`, whole; after an error nothing is written any more."""
        size = memoryview(data).nbytes
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return size

    def flush(self) -> None:
        """Nothing to do: `close` flushes."""

    def close(self) -> None:
        """Flush to the disk.

        Raises:
            OSError: The first error of all writes.
        """
        try:
            if self._error is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        except OSError as error:
            self._error = error
        try:
            self._file.close()
        except OSError as error:  # the buffer could still not be written
            self._error = self._error or error
        if self._error is not None:
            raise self._error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON and flush it to the disk."""
    file = SafeFile(path)
    file.write(json.dumps(value, indent=1, sort_keys=True).encode())
    file.close()


def verify(path: Path) -> int:
    """Compare a checkpoint's files with its manifest; the bytes of all of them.

    Raises:
        CorruptCheckpoint: They differ, or there is no readable manifest.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        total = 0
        for name, entry in manifest["files"].items():
            sha256, size_bytes = _hash(path / name)
            if size_bytes != entry["bytes"]:
                raise CorruptCheckpoint(f"{name} has {size_bytes} of {entry['bytes']} bytes")
            if sha256 != entry["sha256"]:
                raise CorruptCheckpoint(f"{name} has another SHA-256 than when it was written")
            total += size_bytes
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(f"{type(error).__name__}: {error}") from error
    return total


def _seal(folder: Path) -> str:
    """Flush everything in `folder` and write its manifest; the manifest's SHA-256."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        sha256, size_bytes = _hash(path)
        files[str(path.relative_to(folder))] = {"bytes": size_bytes, "sha256": sha256}
    write_json(folder / MANIFEST, {"version": 1, "files": files})
    _sync_folder(folder)
    return _hash(folder / MANIFEST)[0]


def _hash(path: Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    size_bytes = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
    return digest.hexdigest(), size_bytes


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
