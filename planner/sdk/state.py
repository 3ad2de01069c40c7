"""What a checkpoint holds, and how it gets in and out of the script's objects."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from planner.sdk.accumulate import is_ddp
from planner.sdk.checkpoint import CorruptCheckpoint, SafeFile, write_json
from planner.sdk.errors import SdkError

_POSITION = "position.json"
_TENSORS = "state.pt"
_PLAIN = "state.json"


class Position(NamedTuple):
    """How far training is, at a step boundary. Made anew at each, so it is a tuple: they are quick.

    Attributes:
        epoch: The epoch in progress, from 0.
        position: Samples of it done; batches where the loader is used as it is.
        step: Optimiser steps done in all.
        samples: Samples trained on in all.
        seed: Seed of the data order.
        planned: Whether the order of samples is planner's.
        dataset_samples: Size of the data set; None when unknown.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    samples: int = 0
    seed: int = 0
    planned: bool = True
    dataset_samples: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """Random states by rank: at the boundary, and where the epoch began."""

    now: tuple[bytes, ...]
    epoch_start: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The script's objects, and its own functions where it has some.

    `save` and `load` take the checkpoint's folder and stand for model, optimiser, scheduler and
    scaler; `save` is called by rank 0 only, `load` by every worker.
    """

    model: Any = None
    optimizer: Any = None
    scheduler: Any = None
    scaler: Any = None
    extra: Mapping[str, Any] | None = None
    save: Callable[[Path], object] | None = None
    load: Callable[[Path], object] | None = None

    def named(self) -> dict[str, Any]:
        """Every object with a state_dict that planner is to keep, by name."""
        objects = {f"extra.{name}": thing for name, thing in (self.extra or {}).items()}
        if self.save is None:
            own = {
                "model": bare(self.model),
                "optimizer": self.optimizer,
                "scheduler": self.scheduler,
                "scaler": self.scaler,
            }
            objects |= {name: thing for name, thing in own.items() if thing is not None}
        return objects


def bare(model: Any) -> Any:
    """The model without the wrappers of DistributedDataParallel and torch.compile."""
    while model is not None:
        if is_ddp(model):
            model = model.module
        elif "_orig_mod" in getattr(model, "_modules", {}):
            model = model._orig_mod
        else:
            break
    return model


def write_state(folder: Path, parts: Parts, position: Position, rng: Random) -> None:
    """Put everything into `folder`.

    Raises:
        OSError: The disk is full or gone.
        Exception: Whatever the script's own `save` or an object's state_dict raised.
    """
    header = {
        **position._asdict(),
        "rng": [base64.b64encode(blob).decode() for blob in rng.now],
        "rng_epoch_start": [base64.b64encode(blob).decode() for blob in rng.epoch_start],
    }
    write_json(folder / _POSITION, header)
    states = {name: thing.state_dict() for name, thing in parts.named().items()}
    torch: Any = sys.modules.get("torch")
    if torch is None:
        write_json(folder / _PLAIN, states)
    else:
        file = SafeFile(folder / _TENSORS)
        try:
            torch.save(states, file)
        finally:
            file.close()
    if parts.save is not None:
        parts.save(folder)


def read_position(folder: Path) -> tuple[Position, Random]:
    """How far the checkpoint in `folder` is, and its random states."""
    header = json.loads((folder / _POSITION).read_text(encoding="utf-8"))
    now = tuple(base64.b64decode(text) for text in header.pop("rng"))
    start = tuple(base64.b64decode(text) for text in header.pop("rng_epoch_start"))
    return Position(**header), Random(now=now, epoch_start=start)


def check_loadable(folder: Path) -> None:
    """Read everything but the tensors' own bytes, the way a resume does.

    Raises:
        CorruptCheckpoint: It could not be gone on from.
        SdkError: It was written with torch, which is not imported.
    """
    try:
        read_position(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(f"{_POSITION}: {type(error).__name__}: {error}") from error
    try:
        read_states(folder, mapped=True)
    except SdkError:
        raise
    except Exception as error:  # unpickling raises whatever the bytes lead it to
        raise CorruptCheckpoint(_why_unreadable(folder, error)) from error


def _why_unreadable(folder: Path, error: Exception) -> str:
    """One line of torch's long text: which object of which class is refused."""
    said = str(error)
    refused = re.search(r"GLOBAL (\S+)", said) or re.search(r"Unsupported class (\S+)", said)
    if refused is None:
        first = (said.splitlines() or [""])[0]
        return f"{folder.name} cannot be loaded: {type(error).__name__}: {first}"
    return f"a state_dict holds a {refused[1]}, which weights_only=True refuses to load"


def read_states(folder: Path, *, mapped: bool = False) -> dict[str, Any]:
    """The saved state_dicts by name: tensors and plain values only, on the CPU.

    With `mapped`, tensors stay on the disk until they are used.
    """
    plain = folder / _PLAIN
    if plain.exists():
        states: dict[str, Any] = json.loads(plain.read_text(encoding="utf-8"))
        return states
    torch: Any = sys.modules.get("torch")
    if torch is None:
        raise SdkError(f"the checkpoint {folder} was written with torch: import torch first")
    loaded: dict[str, Any] = torch.load(
        str(folder / _TENSORS), map_location="cpu", weights_only=True, mmap=mapped
    )
    return loaded


def apply_states(folder: Path, parts: Parts) -> None:
    """Load the checkpoint in `folder` into the script's objects.

    Raises:
        SdkError: They are not the objects that were saved.
    """
    states = read_states(folder)
    for name, thing in parts.named().items():
        if name not in states:
            raise SdkError(f"the checkpoint {folder} has no state of {name}: another script's?")
        try:
            thing.load_state_dict(states[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise SdkError(
                f"the checkpoint {folder} does not fit the script's {name}: {error}. "
                "Was the script changed? Start a new run for it"
            ) from error
    if parts.load is not None:
        parts.load(folder)


def unloadable(parts: Parts) -> str | None:
    """Where in the script's state_dicts something is that cannot be saved and loaded again."""
    for name, thing in parts.named().items():
        found = _unloadable(thing.state_dict(), name.removeprefix("extra."))
        if found is not None:
            return found
    return None


def _unloadable(value: Any, path: str) -> str | None:
    torch: Any = sys.modules.get("torch")
    items: list[tuple[object, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    elif torch is not None and isinstance(value, torch.Tensor):
        return None  # large, and never to blame
    elif not _comes_back(value):
        return f"{path} is a {type(value).__module__}.{type(value).__qualname__}"
    found = (_unloadable(item, f"{path}[{key!r}]") for key, item in items)
    return next((text for text in found if text is not None), None)


def _comes_back(value: Any) -> bool:
    torch: Any = sys.modules.get("torch")
    try:
        if torch is None:
            json.dumps(value)
            return True
        file = io.BytesIO()
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # whatever it is that fails, `value` is to blame
        return False
    return True
