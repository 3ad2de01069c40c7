"""Requests to a supervisor: one small file each, written beside and renamed, read in name order."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from planner.core.clock import Clock
from planner.core.errors import StoreError
from planner.store.files import read_json, store_error, write_atomic

Action = Literal["pause", "cancel", "checkpoint", "extend", "adjust"]
_ACTIONS: frozenset[str] = frozenset(get_args(Action))


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One request. `id` is remembered in the journal, so that none is carried out twice."""

    id: str
    action: Action
    values: Mapping[str, Any] = field(default_factory=dict)


def send(folder: Path, clock: Clock, action: Action, **values: Any) -> Command:
    """Put a request where the supervisor finds it. Raises `StoreError`."""
    stamp = round(clock.now().timestamp() * 1e6)
    command = Command(id=f"{stamp:017d}-{secrets.token_hex(3)}", action=action, values=values)
    content = {"id": command.id, "action": action, "values": values}
    write_atomic(folder / f"{command.id}.json", json.dumps(content))
    return command


def pending(folder: Path) -> list[tuple[Path, Command | None]]:
    """Requests that wait, oldest first; None for a file that is no request.

    Raises:
        StoreError: The folder cannot be read.
    """
    try:
        names = sorted(n for n in os.listdir(folder) if n.endswith(".json") and n[0] != ".")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise store_error(error, "list", folder) from error
    return [(folder / name, _parse(folder / name)) for name in names]


def discard(folder: Path, *actions: Action) -> None:
    """Drop waiting requests of these kinds: they were meant for an attempt that is over."""
    for path, command in pending(folder):
        if command is not None and command.action in actions:
            path.unlink(missing_ok=True)


def _parse(path: Path) -> Command | None:
    try:
        data = read_json(path)
    except StoreError:
        return None
    if not isinstance(data, dict) or data.get("action") not in _ACTIONS:
        return None
    values = data.get("values")
    return Command(
        id=str(data.get("id", path.stem)),
        action=data["action"],
        values=values if isinstance(values, dict) else {},
    )
