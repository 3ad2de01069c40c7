"""How much memory this worker uses, from the kernel's files and torch's counters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any


def tree_rss_bytes() -> tuple[int | None, int | None]:
    """Resident bytes of this process and its children now, and this process's own peak.

    Pages that forked loader processes share are counted in each of them, as the system's own tools
    do. None where there is no /proc.
    """
    own, peak = _status_bytes(os.getpid())
    if own is None:
        return None, None
    return own + sum(_status_bytes(pid)[0] or 0 for pid in _descendants(os.getpid())), peak


def device_bytes(device: Any) -> tuple[int | None, int | None]:
    """Most bytes that torch's tensors took and that it reserved on `device`; None on CPU."""
    torch: Any = sys.modules.get("torch")
    if device is None or torch is None or device.type != "cuda":
        return None, None
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)


def state_bytes(model: Any, optimizer: Any) -> dict[str, Any]:
    """Bytes that training keeps on this worker from step to step, of tensors it has a share of.

    `model_bytes` are parameters and buffers (without a model: the parameters that the optimiser
    steps), `gradient_bytes` what the gradients of all trained parameters take, whether they are
    there at the moment or not, and `optimizer_bytes` the optimiser's state. None where it cannot
    be told.
    """
    stepped = [p for group in getattr(optimizer, "param_groups", ()) for p in group["params"]]
    own, buffers = stepped, []
    if hasattr(model, "parameters"):
        own, buffers = list(model.parameters()), list(model.buffers())
    trained = [p for p in own if p.requires_grad]
    state = getattr(optimizer, "state", None)
    kept = state.values() if isinstance(state, Mapping) else ()
    tensors = [t for s in kept if isinstance(s, Mapping) for t in s.values()]
    return {
        "model_bytes": _own_bytes([*own, *buffers]) if own else None,
        "gradient_bytes": _own_bytes(trained) if own else None,
        "optimizer_bytes": _own_bytes(tensors) if isinstance(state, Mapping) else None,
    }


def _own_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the tensors among these, each counted once; of a sharded one this worker's part."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return 0
    local = (t.to_local() if hasattr(t, "to_local") else t for t in tensors)
    own = {id(t): t for t in local if isinstance(t, torch.Tensor)}
    return sum(t.numel() * t.element_size() for t in own.values())


def forget_peak(device: Any) -> None:
    """Measure the device's peak anew: what uses memory has changed."""
    torch: Any = sys.modules.get("torch")
    if device is not None and torch is not None and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def device_description(device: Any) -> tuple[str, int | None]:
    """Name of the device, `cpu` or the GPU's, and the memory that a GPU has in bytes."""
    torch: Any = sys.modules.get("torch")
    if device is None or torch is None or device.type != "cuda":
        return "cpu", None
    return torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory


def _status_bytes(pid: int) -> tuple[int | None, int | None]:
    """Resident bytes of one process: now, and at its peak. None when it is gone."""
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            said = file.read()
        return _kib_after(b"VmRSS:", said), _kib_after(b"VmHWM:", said)
    except (OSError, ValueError):
        return None, None


def _kib_after(name: bytes, said: bytes) -> int | None:
    """Bytes of the line that begins with `name`; None where there is none, as of a kernel thread.

    Only that line is looked at: this is done while training runs.
    """
    at = said.find(b"\n" + name)
    return int(said[at + 1 + len(name) :].split(None, 1)[0]) * 1024 if at >= 0 else None


def _descendants(pid: int) -> list[int]:
    """Children, their children and so on."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        tasks = f"/proc/{waiting.pop()}/task"
        try:
            for task in os.listdir(tasks):
                with open(f"{tasks}/{task}/children", "rb", buffering=0) as children:
                    pids = [int(word) for word in children.read().split()]
                found += pids
                waiting += pids
        except (OSError, ValueError):
            continue  # a process that ended meanwhile
    return found
