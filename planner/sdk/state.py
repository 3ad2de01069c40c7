"""What a checkpoint holds, and how it gets in and out of the script's objects."""

from __future__ import annotations

import base64
import copy
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
        lr_scale: Factor of the script's own learning rate that the optimiser holds.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    samples: int = 0
    seed: int = 0
    planned: bool = True
    dataset_samples: int | None = None
    lr_scale: float = 1.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Position:
        """Of plain values by name, whatever else is among them."""
        return cls(**{name: values[name] for name in cls._fields})


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


States = Mapping[str, Any]
"""State_dicts by the names of `Parts.named`."""


def states_of(parts: Parts) -> States:
    """The state_dicts now. Their tensors are the script's own: the next step changes them.

    Raises:
        Exception: Whatever an object's state_dict raised.
    """
    return {name: thing.state_dict() for name, thing in parts.named().items()}


class Snapshots:
    """Copies of the states, made one after the other in the same memory.

    Fresh memory costs several times what copying into it does, and training waits for it.
    """

    def __init__(self) -> None:
        self._tensors: dict[Any, Any] = {}

    def take(self, parts: Parts) -> States:
        """The states as they stay: tensors copied to the CPU, everything else copied too.

        What was taken before must not be needed any more.

        Raises:
            Exception: Whatever an object's state_dict, or copying what it holds, raised.
        """
        before, self._tensors = self._tensors, {}
        states: States = _copied(states_of(parts), self._tensors, before)
        return states

    def drop(self) -> None:
        """Give the memory back."""
        self._tensors = {}


def parameter_bytes(parts: Parts) -> int:
    """Bytes of all parameters: a lower bound of what a checkpoint holds, without asking for it."""
    return sum(
        parameter.numel() * parameter.element_size()
        for thing in parts.named().values()
        if hasattr(thing, "parameters")
        for parameter in thing.parameters()
    )


def _copied(value: Any, tensors: dict[Any, Any], before: dict[Any, Any]) -> Any:
    """A copy that shares nothing with `value`.

    `tensors` are the copies made so far, by where each was copied from; `before` are the last
    time's, whose memory is used again.
    """
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _copied_tensor(value, tensors, before)
    if isinstance(value, dict):
        copied = copy.copy(value)  # torch hangs versions on the dictionary itself: `_metadata`
        for key, item in value.items():
            copied[key] = _copied(item, tensors, before)
        return copied
    if type(value) in (list, tuple):
        return type(value)(_copied(item, tensors, before) for item in value)
    return copy.deepcopy(value)


def _copied_tensor(tensor: Any, tensors: dict[Any, Any], before: dict[Any, Any]) -> Any:
    torch: Any = sys.modules["torch"]
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    if not plain:
        return tensor.detach().to("cpu", copy=True)
    # Weights that two modules share are one tensor on the disk, hence one here.
    place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
    key = (*place, tensor.is_conj(), tensor.is_neg(), tensor.requires_grad, type(tensor))
    if key in before:
        tensors[key] = before.pop(key)
        tensors[key].detach().copy_(tensor.detach())
    elif key not in tensors:
        copied = tensor.detach().to("cpu", copy=True).requires_grad_(tensor.requires_grad)
        if type(tensor) is torch.nn.Parameter:
            copied = torch.nn.Parameter(copied, requires_grad=tensor.requires_grad)
        tensors[key] = copied
    return tensors[key]


def write_state(folder: Path, states: States, position: Position, rng: Random) -> None:
    """Put everything into `folder`.

    Raises:
        OSError: The disk is full or gone.
        Exception: `states` hold what cannot be written.
    """
    header = {
        **position._asdict(),
        "rng": [base64.b64encode(blob).decode() for blob in rng.now],
        "rng_epoch_start": [base64.b64encode(blob).decode() for blob in rng.epoch_start],
    }
    write_json(folder / _POSITION, header)
    torch: Any = sys.modules.get("torch")
    if torch is None:
        write_json(folder / _PLAIN, states)
    else:
        file = SafeFile(folder / _TENSORS)
        try:
            torch.save(states, file)
        finally:
            file.close()


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


def unloadable(states: States) -> str | None:
    """Where in `states` something is that cannot be saved and loaded again."""
    for name, state in states.items():
        found = _unloadable(state, name.removeprefix("extra."))
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
