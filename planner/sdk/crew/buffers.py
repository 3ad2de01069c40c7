"""Buffers of the model (BatchNorm's running statistics), which no gradient carries."""

from __future__ import annotations

import sys
from typing import Any

from planner.sdk.crew.group import Group


class Buffers:
    """A model's buffers, as they were when a step began, and averaged over workers.

    Each worker's statistics are those of the samples it saw. They are averaged where somebody may
    look at them: when an epoch's steps are done, and when workers leave.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._kept: list[Any] = []

    def mark(self) -> None:
        """A step begins."""
        buffers = self._all()
        if not buffers:
            return
        torch: Any = sys.modules["torch"]
        with torch.no_grad():
            if len(self._kept) == len(buffers):
                torch._foreach_copy_(self._kept, buffers)
            else:
                self._kept = [buffer.detach().clone() for buffer in buffers]

    def restore(self) -> None:
        """The step did not count."""
        if self._kept:
            torch: Any = sys.modules["torch"]
            with torch.no_grad():
                torch._foreach_copy_(self._all(), self._kept)

    def average(self, group: Group | None) -> None:
        """Take the mean over the workers; whole numbers are left alone. Raises `GroupBroken`."""
        floats = [buffer for buffer in self._all() if buffer.is_floating_point()]
        if group is None or not floats:
            return
        torch: Any = sys.modules["torch"]
        with torch.no_grad():
            flat = torch.cat([b.detach().reshape(-1).to(torch.float64) for b in floats])
            flat = flat.to(group.device)
            group.wait(group.reduce(flat))
            flat /= group.size
            for buffer, part in zip(floats, flat.split([b.numel() for b in floats]), strict=True):
                buffer.copy_(part.view_as(buffer))

    def _all(self) -> list[Any]:
        return list(self._model.buffers()) if hasattr(self._model, "buffers") else []
