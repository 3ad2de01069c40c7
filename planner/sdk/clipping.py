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
    places = [(vars(module), name) for module in list(sys.modules.values()) if _has(module, name)]
    script = vars(sys.modules[_SCRIPT])
    places += [(script, key) for key in script if key != name]
    for names, key in places:
        if names.get(key) is real:
            names[key] = replacement
            undo.append(functools.partial(_put_back, names, key, replacement, real))


def _put_back(names: dict[str, Any], key: str, replacement: object, real: object) -> None:
    if names.get(key) is replacement:
        names[key] = real


def _has(module: Any, name: str) -> bool:
    return isinstance(getattr(module, "__dict__", None), dict) and name in vars(module)
