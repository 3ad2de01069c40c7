"""TOML files that people write: read them, and say where in them something is wrong."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.core.errors import ConfigError

KeyPath = tuple[str | int, ...]

_LARGEST_BYTES = 1_000_000
_AT = re.compile(r"\(at (?:line (\d+), column (\d+)|end of document)\)")
_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]#]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_KEY_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A file that was read: its values, and the line of every key.

    Attributes:
        path: As it was given, for messages.
        data: Plain values.
        lines: Line number, from 1, by path of keys; items of arrays of tables by their index.
    """

    path: Path
    data: dict[str, Any]
    lines: dict[KeyPath, int]

    def line(self, key: Sequence[str | int]) -> int:
        """Line of a key, or of the nearest enclosing table that has one; 1 when none has."""
        parts = tuple(key)
        while parts:
            if parts in self.lines:
                return self.lines[parts]
            parts = parts[:-1]
        return 1

    def error(
        self,
        key: Sequence[str | int],
        what: str,
        *,
        hint: str | None = None,
        code: str | None = None,
    ) -> ConfigError:
        """An error at a key: `job.toml:12: [goal] budget: ...`."""
        shown = show_key(key)
        place = f"{self.path}:{self.line(key)}: "
        return ConfigError(
            f"{place}{shown}: {what}" if shown else place + what, hint=hint, code=code
        )


def read_toml(path: Path, *, what: str) -> TomlFile:
    """Read a TOML file; `what` names it in errors ("job file").

    Raises:
        ConfigError: No such file, not a file, not UTF-8, or not TOML: with line and column.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(_LARGEST_BYTES + 1)
    except FileNotFoundError as exc:
        raise ConfigError(
            f"no {what} {path}", hint=_nearest_file(path), code="usage.config.missing"
        ) from exc
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        raise ConfigError(f"cannot read the {what} {path}: {reason}") from exc
    except ValueError as exc:
        raise ConfigError(f"{str(path)!r} is not a path: {exc}") from exc
    if len(raw) > _LARGEST_BYTES:
        raise ConfigError(f"{path} is too large for a {what}", hint="is it the right file?")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigError(
            f"{path}:{line}: not UTF-8 text (byte 0x{raw[exc.start]:02x})",
            hint="save the file as UTF-8",
        ) from exc
    text = text.replace("\r\n", "\n")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise _broken(path, text, exc) from exc
    except RecursionError as exc:
        raise ConfigError(f"{path}: nested too deeply to be a {what}") from exc
    return TomlFile(path=path, data=data, lines=key_lines(text))


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line of every table header and of every key that starts a line, in a valid TOML text."""
    lines: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}
    table: KeyPath = ()
    closing: str | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        if closing is not None:
            if closing in line:
                closing = None
            continue
        header, key = _HEADER.match(line), _KEY.match(line)
        if header is not None:
            table = _enter(_parts(header.group(2)), header.group(1) == "[[", counts)
            lines.setdefault(table, number)
            continue
        if key is not None:
            lines.setdefault(table + _parts(key.group(1)), number)
        closing = _opened_string(line)
    return lines


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """The valid word that a mistyped one most likely stands for."""
    found = difflib.get_close_matches(word.lower(), list(valid), n=1, cutoff=0.6)
    return found[0] if found else None


def show_key(key: Sequence[str | int]) -> str:
    """A key as a person finds it in the file: `[goal] budget`, `[[where]] 2 slots`."""
    if not key:
        return ""
    index = key[1] if len(key) > 1 else None
    head = f"[[{key[0]}]] {index + 1}" if isinstance(index, int) else f"[{key[0]}]"
    inner = ".".join(part for part in key[1:] if isinstance(part, str))
    return f"{head} {inner}".rstrip()


def _broken(path: Path, text: str, exc: tomllib.TOMLDecodeError) -> ConfigError:
    message = str(exc)
    found = _AT.search(message)
    if found and found.group(1):
        line, column = found.groups()
    else:
        rows = text.rstrip("\n").split("\n")
        line, column = str(len(rows)), str(len(rows[-1]) + 1)
    reason = _AT.sub("", message).strip().rstrip(".")
    return ConfigError(
        f"{path}:{line}:{column}: not valid TOML: {reason}",
        hint=f"look at line {line}, column {column}",
        code="usage.config.toml",
    )


def _nearest_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder}"
    near = nearest(path.stem, [entry.stem for entry in folder.glob("*.toml")])
    if near is not None:
        return f"did you mean {folder / near}.toml?"
    return "planner init -- COMMAND writes one"


def _enter(parts: KeyPath, is_item: bool, counts: dict[KeyPath, int]) -> KeyPath:
    """Path of the table that a header opens, with the index of the current array item."""
    path: KeyPath = ()
    for depth, part in enumerate(parts):
        path = (*path, part)
        last = depth == len(parts) - 1
        if is_item and last:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _parts(dotted: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in _KEY_PART.findall(dotted))


def _opened_string(line: str) -> str | None:
    """The quotes of a multi-line string that starts on this line and does not end on it."""
    position = 0
    while position < len(line):
        char = line[position]
        if char == "#":
            return None
        if char not in "\"'":
            position += 1
            continue
        quotes = char * 3 if line.startswith(char * 3, position) else char
        end = line.find(quotes, position + len(quotes))
        while char == '"' and end > 0 and _escaped(line, end):
            end = line.find(quotes, end + 1)
        if end < 0:
            return quotes if len(quotes) == 3 else None
        position = end + len(quotes)
    return None


def _escaped(line: str, position: int) -> bool:
    backslashes = len(line[:position]) - len(line[:position].rstrip("\\"))
    return backslashes % 2 == 1
