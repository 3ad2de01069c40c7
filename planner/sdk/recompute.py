"""Computing a part of the model again in the backward pass instead of keeping its activations.

T. Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016), by torch.utils.checkpoint
without re-entrance. The second pass must change nothing and see what the first one saw: torch gives
it the same torch random state; here it also gets the buffers as they were (running statistics of
normalisation, vectors of spectral norms) and the states of Python's and NumPy's generators, and all
of them are put back afterwards. So losses, gradients and statistics are those without it.
"""

from __future__ import annotations

import functools
import math
import random
import sys
import types
from collections.abc import Callable
from importlib import import_module
from typing import Any

Buffers = dict[str, Any]
Run = Callable[..., Any]

_SMALL = 1 << 16  # elements of a buffer


class Switch:
    """Whether patched modules compute again. Copies made of them meanwhile share it."""

    def __init__(self) -> None:
        self.on = True


def patch(module: Any, switch: Switch, *, in_segments: bool = False) -> Callable[[], None]:
    """Make `module` compute again what it computes; returns what undoes it.

    It only acts in training with gradients, and in code that is not compiled.

    Args:
        module: Whose `forward` is replaced, on the instance. Nothing of it shows in a state_dict.
        switch: Turned off, the patched module does what it did before.
        in_segments: `module` is a plain torch.nn.Sequential that is cut into segments, each of
            which is computed again by itself.
    """
    torch: Any = sys.modules["torch"]
    compiling = getattr(torch.compiler, "is_compiling", lambda: False)
    changing: list[set[str] | None] = [None]  # which buffers a pass changes, once one was done

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if compiling() or not (switch.on and self.training and torch.is_grad_enabled()):
            return type(self).forward(self, *args, **kwargs)
        if in_segments:
            return _in_segments(self, args[0] if args else kwargs["input"], changing)
        return _recomputed(
            functools.partial(type(self).forward, self), [self], args, kwargs, changing
        )

    method = types.MethodType(forward, module)  # bound, so that a copied module has its own
    vars(module)["forward"] = method

    def undo() -> None:
        if vars(module).get("forward") is method:  # else somebody has wrapped it: `switch` is off
            del vars(module)["forward"]

    return undo


def _in_segments(sequential: Any, value: Any, changing: list[set[str] | None]) -> Any:
    """The n parts of `sequential` in about sqrt(n) segments; the last one's activations are kept.

    The backward pass begins with the last, so computing it again would save nothing.
    """
    parts = list(sequential)
    size = math.ceil(len(parts) / max(2, math.isqrt(len(parts))))
    for start in range(0, len(parts), size):
        segment = parts[start : start + size]

        def run(given: Any, segment: list[Any] = segment) -> Any:
            for part in segment:
                given = part(given)
            return given

        if start + size >= len(parts):
            return run(value)
        value = _recomputed(run, segment, (value,), {}, changing)
    return value


def _recomputed(
    run: Run,
    modules: list[Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    changing: list[set[str] | None],
) -> Any:
    """`run(*args, **kwargs)`, to be computed again in the backward pass."""
    checkpoint = import_module("torch.utils.checkpoint").checkpoint
    first = _First(modules, changing)
    names = tuple(kwargs)

    def flat(*given: Any) -> Any:
        return run(*given[: len(args)], **dict(zip(names, given[len(args) :], strict=True)))

    # Torch looks for devices, whose random states it keeps, among positional arguments only.
    return checkpoint(
        flat,
        *args,
        *kwargs.values(),
        use_reentrant=False,
        preserve_rng_state=True,
        context_fn=lambda: (first, _Again(first)),
    )


class _First:
    """Around the first pass: keeps what it begins with, as far as the pass changes that."""

    def __init__(self, modules: list[Any], changing: list[set[str] | None]) -> None:
        self.places: dict[str, tuple[Any, str]] = {
            f"{number}.{prefix}.{name}": (module, name)
            for number, root in enumerate(modules)
            for prefix, module in root.named_modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        }
        self.kept: Buffers = {}
        self.random: tuple[Any, Any] = (None, None)
        self._changing = changing
        self._found: dict[str, tuple[Any, int]] = {}

    def __enter__(self) -> None:
        known = self._changing[0]
        self.random = _random_states()
        for place in self.places:
            buffer = self.buffer(place)
            self._found[place] = buffer, _version(buffer)
            if known is None or place in known:
                self.kept[place] = buffer.detach().clone()

    def __exit__(self, *_error: object) -> None:
        changed = set()
        for place, (buffer, version) in self._found.items():
            now = self.buffer(place)
            if now is not buffer or _is_small(now) or _version(now) != version:
                changed.add(place)
                if place not in self.kept and now is not None:
                    self.kept[place] = now.detach().clone()  # changed for the first time
        self._found = {}
        self._changing[0] = (self._changing[0] or set()) | changed
        self.kept = {place: kept for place, kept in self.kept.items() if place in changed}

    def buffer(self, place: str) -> Any:
        """The buffer that is there now."""
        module, name = self.places[place]
        return module._buffers[name]

    def put(self, buffers: Buffers) -> None:
        """Put these in the place of those that are there."""
        for place, buffer in buffers.items():
            module, name = self.places[place]
            module._buffers[name] = buffer


class _Again:
    """Around each further pass: it starts from what the first did, and leaves nothing behind."""

    def __init__(self, first: _First) -> None:
        self._first = first
        self._buffers: Buffers = {}
        self._random: tuple[Any, Any] = (None, None)

    def __enter__(self) -> None:
        first = self._first
        self._random = _random_states()
        self._buffers = {place: first.buffer(place) for place in first.kept}
        _set_random_states(first.random)
        first.put({place: kept.clone() for place, kept in first.kept.items()})

    def __exit__(self, *_error: object) -> None:
        self._first.put(self._buffers)
        _set_random_states(self._random)


def _is_small(buffer: Any) -> bool:
    """Whether it is cheaper to copy it each time than to trust in its version.

    Batch normalisation changes its statistics in native code, which leaves the version as it was.
    """
    return buffer is not None and buffer.numel() <= _SMALL


def _version(buffer: Any) -> int:
    """Grows with each change in place; -1 where there is none to tell."""
    return -1 if buffer is None or buffer.is_inference() else int(buffer._version)


def _random_states() -> tuple[Any, Any]:
    numpy: Any = sys.modules.get("numpy")
    return random.getstate(), numpy.random.get_state() if numpy is not None else None


def _set_random_states(states: tuple[Any, Any]) -> None:
    python, numpy = states
    random.setstate(python)
    if numpy is not None:
        sys.modules["numpy"].random.set_state(numpy)
