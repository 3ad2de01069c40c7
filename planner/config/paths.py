"""Names and paths from a job file: kept inside their folders.

A relative path means the job file's folder and what is below it. Whoever wants another place
writes an absolute path (or `~`), which is then an explicit wish and is taken as it is. What
planner fills in (`{run_id}`, `{name}`) is made of letters, digits, `-` and `_` only, so that no
value can turn a path around.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from planner.config.tomlfile import nearest
from planner.core.errors import ConfigError

CHECKPOINT_PLACEHOLDERS = ("run_id", "name")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_BRACES = re.compile(r"\{([^{}]*)\}")


def check_name(name: str) -> str:
    """A job's or run's name, which becomes part of file names.

    Raises:
        ConfigError: Anything but 1 to 64 letters, digits, `-` and `_`, the first no sign.
    """
    if not _NAME.fullmatch(name):
        suggestion = safe_name(name)
        hint = f'for example "{suggestion}"' if suggestion else None
        raise ConfigError(
            "may hold letters, digits, - and _ only, start with a letter or digit, "
            f"and be 64 long at most; got {_shown(name)}",
            hint=hint,
        )
    return name


def safe_name(text: str) -> str:
    """The nearest allowed name, or an empty text when nothing of it can be kept."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")[:64]


def data_path(text: str, folder: Path) -> Path:
    """Absolute path of the data; symbolic links inside the folder may lead anywhere.

    Raises:
        ConfigError: Empty, a NUL, or a relative path that leaves `folder`.
    """
    path = _expanded(text)
    if path.is_absolute():
        return path
    _refuse_leaving(text, path)
    return folder / path


def checkpoint_template(text: str, folder: Path) -> str:
    """Absolute template of a checkpoint folder, `{run_id}` and `{name}` left to be filled in.

    Raises:
        ConfigError: Empty, a NUL, `..`, another placeholder, no `{run_id}`, or a relative path
            that leaves `folder`, be it through a symbolic link.
    """
    path = _expanded(text)
    for name in _BRACES.findall(text):
        if name not in CHECKPOINT_PLACEHOLDERS:
            near = nearest(name, CHECKPOINT_PLACEHOLDERS)
            meant = f"; did you mean {{{near}}}?" if near else ""
            raise ConfigError(
                f"unknown placeholder {{{name}}}{meant}", hint="known here: {run_id} {name}"
            )
    if "{run_id}" not in text:
        raise ConfigError(
            "holds no {run_id}, so that two runs would write into one folder",
            hint=f'write for example "{text.rstrip("/")}/{{run_id}}"',
        )
    if ".." in path.parts:
        raise ConfigError(f"{_shown(text)} holds ..", hint="write the folder that is meant")
    if path.is_absolute():
        return str(path)
    # What the placeholders will become is a plain name, so the fixed part before them decides.
    fixed = folder
    for part in path.parts:
        if "{" in part:
            break
        fixed = fixed / part
    if not fixed.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{_shown(text)} leads out of the job file's folder through a symbolic link",
            hint=f'write the absolute path: "{fixed.resolve()}/{{run_id}}"',
        )
    return str(folder / path)


def _refuse_leaving(text: str, path: Path) -> None:
    depth = 0
    for part in PurePosixPath(path).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise ConfigError(
                f"{_shown(text)} leaves the job file's folder",
                hint="write the absolute path if that is meant",
            )


def _expanded(text: str) -> Path:
    if not text.strip():
        raise ConfigError("is empty")
    if "\0" in text:
        raise ConfigError("holds a NUL character")
    try:
        return Path(text).expanduser()
    except RuntimeError as exc:
        raise ConfigError(f"{_shown(text)}: there is no such home folder") from exc


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
