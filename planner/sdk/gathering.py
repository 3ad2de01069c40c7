"""Scripts that gather gradients of several batches by themselves, told by what they do.

Gradients that wait for a later batch are in no state that is handed to other workers, and a change
would weigh them wrongly. A batch without a step alone says nothing: a script may leave out a step
(a gradient scaler does when gradients overflow). It gathers when the next batch adds to them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

REASON = (
    "the script steps its optimizer every n-th batch by itself: let it step at every batch, and "
    "planner accumulate (micro_batch=)"
)
_TELLING = 3
"""Batches after which it shows: one with a step, one without, one that adds to its gradients."""


class Gathering:
    """Watches one loop over batches.

    Attributes:
        found: Whether the script gathers by itself.
        possible: Whether there is an optimizer to watch.
    """

    def __init__(self, parameters: Callable[[], Sequence[Any]], *, possible: bool) -> None:
        self.found = False
        self.possible = possible
        self._parameters = parameters
        self._batches = 0
        self._stepped = False
        self._waiting: tuple[Any, weakref.ref[Any]] | None = None  # a parameter, its gradient

    @property
    def settled(self) -> bool:
        """Whether enough was seen to know."""
        return self._batches >= _TELLING or not self.possible

    def steps(self) -> None:
        """The script is about to step."""
        self._stepped = True
        if self._waiting is not None:
            self._compare(*self._waiting)

    def before_step(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """`real`, a step, with `steps` ahead of it: one call where two would be, at every step."""

        def step(_self: Any, *args: Any, **kwargs: Any) -> Any:
            self._stepped = True
            if self._waiting is not None:
                self._compare(*self._waiting)
            return real(*args, **kwargs)

        return step

    def before_clear(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """`real`, which clears gradients, with `clears` ahead of it."""

        def clear(_self: Any, *args: Any, **kwargs: Any) -> Any:
            self._waiting = None
            return real(*args, **kwargs)

        return clear

    def clears(self) -> None:
        """The script clears its gradients."""
        self._waiting = None

    def ends(self) -> None:
        """The script is done with a batch."""
        self._batches += 1
        stepped, self._stepped = self._stepped, False
        if stepped or self.found or not self.possible:
            return
        if self._waiting is not None:
            self._compare(*self._waiting)
        for parameter in self._parameters():
            gradient = parameter.grad
            if gradient is not None and not gradient.is_sparse and bool(gradient.any()):
                self._waiting = parameter, weakref.ref(gradient)
                return

    def _compare(self, parameter: Any, gradient: weakref.ref[Any]) -> None:
        self._waiting = None
        self.found = self.found or (parameter.grad is not None and gradient() is parameter.grad)
