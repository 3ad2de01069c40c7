"""Less memory in the middle of training: activations computed again, caches emptied.

Both act between two steps and change no result. What else `memory=low` means (smaller
micro-batches, less prefetched) is the loader's.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from planner.sdk.recompute import Switch, patch
from planner.sdk.state import bare

ACTIVATION_CHECKPOINTING = "activation_checkpointing"
EMPTY_CACHES = "empty_caches"

_LEAST_PARTS = 4  # of a plain Sequential; with fewer there is nothing to gain
_STAGE = 3  # so many equal blocks in a row are a stage, not a block


class MemoryLevers:
    """The memory levers of one model. Every worker turns them at the same step boundary."""

    def __init__(self, model: Any) -> None:
        """`model` may be wrapped, and may be None, where there is nothing to compute again."""
        self._model = model
        self._switch = Switch()
        self._undo: list[Callable[[], None]] = []
        self._blocks: tuple[str, ...] = ()

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the modules whose activations are computed again now."""
        return self._blocks

    def low(self) -> tuple[str, ...]:
        """Take less memory from the next step on; names of the levers that act now.

        Without a model, with a compiled one (torch.compile chooses by itself what it computes
        again) or with one that has no repeated parts, activations are kept as before.
        """
        levers = [EMPTY_CACHES] if empty_caches() else []
        if not self._undo:
            self._checkpoint_blocks()
        if self._undo:
            levers.insert(0, ACTIVATION_CHECKPOINTING)
        return tuple(levers)

    def normal(self) -> tuple[str, ...]:
        """Compute as before from the next step on; names of the levers that act now: none."""
        self._switch.on = False
        while self._undo:
            self._undo.pop()()
        self._blocks = ()
        return ()

    def _checkpoint_blocks(self) -> None:
        chosen = choose_blocks(self._model)
        self._switch = Switch()
        for block in chosen.values():
            self._undo.append(patch(block, self._switch, in_segments=_is_plain(block)))
        self._blocks = tuple(chosen)


def empty_caches() -> bool:
    """Give memory that is free back to the GPU and the system; whether there was a way to."""
    import ctypes

    torch: Any = sys.modules.get("torch")
    emptied = False
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        emptied = True
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU C library's only
    if trim is not None:
        trim(0)
        emptied = True
    return emptied


def choose_blocks(model: Any) -> dict[str, Any]:
    """The modules to compute again, by name; none overlap.

    These are the outermost ones of a class that occurs more than once (a BasicBlock of a ResNet, a
    TransformerEncoderLayer); without such, the parts of the longest ModuleList, or the longest
    plain Sequential as one, to be cut into segments.
    """
    if not hasattr(model, "named_modules") or _is_compiled(model):
        return {}
    model = bare(model)
    kinds = Counter(type(module) for module in model.modules() if _is_compound(module))
    repeated = {kind for kind, count in kinds.items() if count > 1}
    chosen = dict(_outermost(model, "", repeated))
    return chosen or _of_the_longest_container(model)


def _outermost(module: Any, name: str, kinds: set[type]) -> Iterator[tuple[str, Any]]:
    for child_name, child in module.named_children():
        full = f"{name}.{child_name}" if name else child_name
        if type(child) in kinds and not _is_stage(child) and _is_fit(child):
            yield full, child
        else:
            yield from _outermost(child, full, kinds)


def _of_the_longest_container(model: Any) -> dict[str, Any]:
    nn: Any = sys.modules["torch"].nn
    best: dict[str, Any] = {}
    longest = 0
    for name, module in model.named_modules():
        if len(list(module.children())) <= longest:
            continue
        found: dict[str, Any] = {}
        if _is_plain(module) and len(module) >= _LEAST_PARTS and _is_fit(module):
            found = {name: module}
        elif isinstance(module, nn.ModuleList):
            compound = {k: part for k, part in module.named_children() if any(part.children())}
            found = {f"{name}.{k}".lstrip("."): p for k, p in compound.items() if _is_fit(p)}
        if found:
            best, longest = found, len(module)
    return best


def _is_plain(module: Any) -> bool:
    """Whether it does nothing but call its parts one after the other."""
    return type(module) is sys.modules["torch"].nn.Sequential


def _is_compound(module: Any) -> bool:
    """Whether it is a module with parts that does something with them by itself."""
    nn: Any = sys.modules["torch"].nn
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return type(module) not in containers and any(True for _ in module.children())


def _is_stage(module: Any) -> bool:
    """Whether it holds a row of equal blocks, each of which should be computed again by itself."""
    nn: Any = sys.modules["torch"].nn
    for inner in module.modules():
        if isinstance(inner, (nn.ModuleList, nn.Sequential)):
            kinds = Counter(type(part) for part in inner if _is_compound(part))
            if max(kinds.values(), default=0) >= _STAGE:
                return True
    return False


def _is_fit(module: Any) -> bool:
    """Whether going through it twice shows nowhere.

    Hooks would be called twice, SyncBatchNorm would send twice, and a `forward` that the script or
    another library has put on the instance is left alone.
    """
    torch: Any = sys.modules["torch"]
    if "forward" in vars(module) or isinstance(module, torch.jit.ScriptModule):
        return False
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    for inner in module.modules():
        if isinstance(inner, (torch.nn.SyncBatchNorm, torch.jit.ScriptModule)):
            return False
        if inner is not module and any(getattr(inner, kind, None) for kind in hooks):
            return False
    return True


def _is_compiled(model: Any) -> bool:
    """Whether torch.compile took any part of it."""
    return any(
        "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )
