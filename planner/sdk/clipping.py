"""Torch's functions that clip gradients, made to act once a step while micro-batches are gathered.

Called for a part of a step they would clip what is not yet the step's gradient and train something
else without a word. For the length of the loop over batches they are replaced wherever a module
holds them under their own name or, in the script itself, under any.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

_CLIP = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_")
_READ = "get_total_norm"
_SCRIPT = "__main__"


def intercept_clipping(
    ready: Callable[[], bool], parameters: Callable[[], Any], undo: list[Callable[[], None]]
) -> None:
    """Let torch's clipping act on whole steps only.

    Args:
        ready: Whether the gradients are the whole step's; makes them so.
        parameters: The parameters whose gradients are gathered; clipping others is let through.
        undo: Gets what gives the functions back.
    """
    utils: Any = sys.modules["torch"].nn.utils
    for name in (*_CLIP, _READ):
        real = getattr(utils, name, None)  # two of them are not in every version
        if real is not None:
            make = _reading if name == _READ else _clipping
            _replace(name, real, make(real, ready, parameters), undo)


def find_clipping() -> None:
    """Look for who holds the functions, ahead of the moment when they are replaced."""
    _HOLDERS.of(_READ)


def _clipping(
    real: Callable[..., Any], ready: Callable[[], bool], parameters: Callable[[], Any]
) -> Callable[..., Any]:
    norm_wanted = real.__name__ == "clip_grad_norm_"

    @functools.wraps(real)
    def clip(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.pop("parameters") if "parameters" in kwargs else args[0]
        torch: Any = sys.modules["torch"]
        given = [given] if isinstance(given, torch.Tensor) else list(given)
        gathered = {id(parameter) for parameter in parameters()}
        if any(id(parameter) in gathered for parameter in given) and not ready():
            device = given[0].device
            return torch.zeros((), device=device) if norm_wanted else None
        return real(given, *args[1:], **kwargs)

    return clip


def _reading(
    real: Callable[..., Any], ready: Callable[[], bool], _parameters: Callable[[], Any]
) -> Callable[..., Any]:
    @functools.wraps(real)
    def read(*args: Any, **kwargs: Any) -> Any:
        ready()
        return real(*args, **kwargs)

    return read


def _replace(
    name: str,
    real: Callable[..., Any],
    replacement: Callable[..., Any],
    undo: list[Callable[[], None]],
) -> None:
    places = [(names, name) for names in _HOLDERS.of(name)]
    script = vars(sys.modules[_SCRIPT])
    places += [(script, key) for key in script if key != name]
    for names, key in places:
        if names.get(key) is real:
            names[key] = replacement
            undo.append(functools.partial(_put_back, names, key, replacement, real))


class _Holders:
    """Modules that have something of that name.

    Looked for anew only when modules were imported since: there are thousands, and gradients are
    taken hold of at every epoch and every change.
    """

    def __init__(self) -> None:
        self._known: list[str] = []
        self._found: dict[str, list[dict[str, Any]]] = {}

    def of(self, name: str) -> list[dict[str, Any]]:
        """The namespaces of those modules."""
        known = list(sys.modules)
        if known != self._known:
            self._known = known
            spaces = [getattr(module, "__dict__", None) for module in list(sys.modules.values())]
            usual = [names for names in spaces if isinstance(names, dict)]
            self._found = {n: [names for names in usual if n in names] for n in (*_CLIP, _READ)}
        return self._found[name]


_HOLDERS = _Holders()


def _put_back(names: dict[str, Any], key: str, replacement: object, real: object) -> None:
    if names.get(key) is replacement:
        names[key] = real
