"""Writing files so that a crash leaves the old or the new content, and reading what grows."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from planner.core.errors import StoreError
from planner.store.codec import from_json, to_json

T = TypeVar("T")
MAX_READ_BYTES = 8 * 1024 * 1024
"""Most bytes that one call of `NdjsonTail.read_new` takes in."""


def store_error(error: OSError, what: str, path: Path) -> StoreError:
    """The `StoreError` that says what could not be done with which path, and why."""
    return StoreError(
        f"cannot {what} {path}: {error.strerror or error}",
        hint="check the disk and its permissions, or choose another place with --state-dir",
    )


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` as a whole: written beside, flushed to the disk, renamed.

    Raises:
        StoreError: It could not be written; the old content is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    beside: str | None = None
    try:
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)
        raise store_error(error, "write", path) from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename or a new file survives a crash."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def json_line(value: Mapping[str, Any]) -> bytes:
    """`value` as one line of compact JSON with its line end.

    Raises:
        StoreError: It holds something that JSON has no form for.
    """
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"cannot be stored as JSON: {error}") from error
    return text.encode("utf-8", "backslashreplace") + b"\n"


def write_all(handle: int, data: bytes) -> None:
    """Write all of `data` to an open file descriptor. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def read_json(path: Path) -> Any:
    """The JSON document in a file.

    Raises:
        StoreError: It cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise store_error(error, "read", path) from error
    except ValueError as error:
        raise StoreError(
            f"{path} is damaged: {error}", hint="restore it from a backup or remove it"
        ) from error


def save(path: Path, obj: Any) -> None:
    """Write a domain dataclass as indented JSON, atomically. Raises `StoreError`."""
    write_atomic(path, json.dumps(to_json(obj), indent=1, ensure_ascii=False) + "\n")


def load(cls: type[T], path: Path) -> T:
    """Read what `save` wrote. Raises `StoreError`."""
    try:
        return from_json(cls, read_json(path))
    except StoreError as error:
        if str(path) in error.text:
            raise
        raise StoreError(f"{path}: {error.text}", hint=error.hint) from error


class NdjsonTail:
    """Reads the lines that a file gained since the last call.

    A last line without its end is left for the next call, as its writer may be in the middle of
    it. Lines that are no JSON object are counted in `skipped` and passed over. A file that became
    shorter is read from the start again.

    Args:
        path: File to follow; it may not exist yet.
        offset: Byte to start at; kept up to date, so that a reader can be made anew later.
        on_skip: Told of every line that was passed over.
    """

    def __init__(
        self, path: Path, offset: int = 0, on_skip: Callable[[bytes], None] | None = None
    ) -> None:
        self.path = path
        self.offset = offset
        self.skipped = 0
        self._on_skip = on_skip

    def read_new(self) -> list[dict[str, Any]]:
        """The objects on all lines completed since the last call. Raises `StoreError`."""
        try:
            size = os.stat(self.path).st_size
            if size == self.offset:
                return []
            if size < self.offset:
                self.offset = 0
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                chunk = file.read(MAX_READ_BYTES)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise store_error(error, "read", self.path) from error
        end = chunk.rfind(b"\n") + 1
        if end == 0 and len(chunk) == MAX_READ_BYTES:
            end = len(chunk)  # one line of many megabytes is garbage, and must not stop the rest
        self.offset += end
        return [value for line in chunk[:end].splitlines() if (value := self._parse(line))]

    def _parse(self, line: bytes) -> dict[str, Any] | None:
        if not line.strip():
            return None
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            return value
        self.skipped += 1
        if self._on_skip is not None:
            self._on_skip(line)
        return None
