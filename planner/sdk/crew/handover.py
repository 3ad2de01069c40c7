"""The state of training on its way to another worker: plain values as JSON, tensors as they are.

The same objects as in a checkpoint (planner.sdk.state), without the detour over a file.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.sdk.crew.group import Group
from planner.sdk.crew.strides import flat, is_dense
from planner.sdk.state import Parts


def send_state(group: Group, parts: Parts, source: int, folder: Path) -> dict[str, Any]:
    """Bring the state of rank `source` to all others, who may load it. All of the group take part.

    Args:
        group: On the CPU.
        parts: The script's objects, read at the source.
        source: Rank of the worker that has it.
        folder: Shared; where a script's own `save` puts what its `load` reads.

    Raises:
        GroupBroken: A peer went away.
    """
    sends = group.rank == source
    tensors: list[Any] = []
    text = b""
    if sends:
        states = {name: thing.state_dict() for name, thing in parts.named().items()}
        text = json.dumps(_packed(states, tensors)).encode()
        if parts.save is not None:
            folder.mkdir(parents=True, exist_ok=True)
            parts.save(folder)
    text = group.gather(text)[source]
    if not sends:
        tensors = []
        packed = json.loads(text)
        states = _unpacked(packed, tensors)
    group.send_all([flat(tensor.detach().cpu()) for tensor in tensors], source)
    return states


def load_state(parts: Parts, states: Mapping[str, Any], folder: Path) -> None:
    """Load what `send_state` brought into the script's objects."""
    for name, thing in parts.named().items():
        thing.load_state_dict(states[name])
    if parts.load is not None:
        parts.load(folder)


def clear_up(folder: Path) -> None:
    """All have loaded what was handed over: remove it, and what earlier attempts at it left."""
    for left in folder.parent.glob(f"{folder.name.rsplit('-', 1)[0]}-*"):
        shutil.rmtree(left, ignore_errors=True)


def _packed(value: Any, tensors: list[Any]) -> Any:
    """`value` as JSON; its tensors are added to `tensors` and described where they stood."""
    torch: Any = sys.modules["torch"]
    if isinstance(value, torch.Tensor):
        dense = value if is_dense(value) else value.contiguous()
        tensors.append(dense)
        kind = str(value.dtype).removeprefix("torch.")
        return {"tensor": [kind, list(dense.shape), list(dense.stride())]}
    if isinstance(value, Mapping):
        return {"map": [[_packed(k, tensors), _packed(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_packed(item, tensors) for item in value]}
    if value is None or type(value) in (bool, int, float, str):
        return {"plain": value}
    file = io.BytesIO()
    torch.save(value, file)
    return {"saved": base64.b64encode(file.getvalue()).decode()}


def _unpacked(packed: Mapping[str, Any], tensors: list[Any]) -> Any:
    """The reverse, with tensors to be filled, in the same order."""
    torch: Any = sys.modules["torch"]
    ((kind, content),) = packed.items()
    if kind == "tensor":
        kind_of_number, shape, stride = content
        tensors.append(torch.empty_strided(shape, stride, dtype=getattr(torch, kind_of_number)))
        return tensors[-1]
    if kind == "map":
        pairs = ((_unpacked(k, tensors), _unpacked(v, tensors)) for k, v in content)
        return dict(pairs)
    if kind in ("list", "tuple"):
        items = [_unpacked(item, tensors) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "plain":
        return content
    return torch.load(io.BytesIO(base64.b64decode(content)), weights_only=True)
