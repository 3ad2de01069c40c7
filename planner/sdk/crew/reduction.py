"""Gradients of all workers added up during the backward pass, in buckets, as they become ready.

The scheme of DistributedDataParallel (Li et al., "PyTorch Distributed", VLDB 2020, section 3.2):
parameters are grouped in reverse order, a bucket is sent as soon as its last gradient is there, and
the end of the backward pass waits for what is still under way. Other than there, a peer's loss is
no exception in the script: the step is marked as failed, changes nothing, and is done again.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from planner.sdk.crew.group import Group, GroupBroken
from planner.sdk.crew.strides import shaped_like
from planner.sdk.errors import SdkError

_FIRST_BYTES = 1 << 20
_BUCKET_BYTES = 25 << 20
_TWICE = (
    "a second backward pass for the same batch: with several workers there must be one, of the sum "
    "of all losses (activation checkpointing needs use_reentrant=False)"
)


class Reduction:
    """Reduces the gradients of `parameters` over a group. Without a group it does nothing.

    Attributes:
        active: Whether there are other workers.
        failed: Whether the last armed backward pass lost a peer; its gradients are worthless.
    """

    def __init__(
        self, parameters: Callable[[], Sequence[Any]], check: Callable[[], None] = lambda: None
    ) -> None:
        """`check` is called in the backward pass, before the first gradient is taken."""
        self.active = False
        self.failed = False
        self._parameters = parameters
        self._check = check
        self._group: Group | None = None
        self._buckets: list[_Bucket] = []
        self._of: dict[Any, _Bucket] = {}
        self._hooks: list[Any] = []
        self._held: list[int] = []
        self._compared = False
        self._weight = 1.0
        self._armed = False
        self._queued = False
        self._done = False
        self._sent = 0

    def use(self, group: Group | None) -> None:
        """From now on reduce over this group; None: there is one worker only."""
        if group is None or self.failed:
            self._let_go()  # a sum that was given up may still be written to its bucket
        self._group, self.active = group, group is not None
        self._armed = self.failed = self._compared = False
        if group is not None and not self._hooks:
            self._take_hold()

    def arm(self, weight: float) -> None:
        """The next backward pass completes a step; this worker's part counts `weight` in it."""
        self.failed = self._done = False
        if self._group is None:
            return
        self._weight = weight
        self._follow_the_script()
        self._armed = True
        self._queued = False
        self._sent = 0
        for bucket in self._buckets:
            bucket.reset()

    def disarm(self) -> None:
        """The next backward pass does not complete a step."""
        self._armed = self._done = False

    def require_done(self) -> None:
        """After the script's loop body: the others wait for this worker's gradients.

        Raises:
            SdkError: The loop body made no backward pass.
        """
        if self._armed and not self.failed:
            raise SdkError(
                "the loop over batches did no backward pass for a batch: with several workers each "
                "batch needs one, or the others wait for ever"
            )

    def _follow_the_script(self) -> None:
        """Before a step: parameters may have been frozen, freed or added since the last one.

        Raises:
            SdkError: They are others than the leader's. Its script does something else.
        """
        now = [id(p) for p in self._parameters() if p.requires_grad]
        if now != self._held:
            self._let_go()
            self._take_hold()
        if not self._compared and self._group is not None:
            self._compare(self._group)

    def _compare(self, group: Group) -> None:
        """Once a generation: sums of different parameters would be wrong without a word."""
        self._compared = True
        described = [
            (str(p.dtype), p.shape, p.stride()) for b in self._buckets for p in b.parameters
        ]
        mine = hashlib.sha256(str(described).encode()).digest()
        try:
            everyone = group.gather(mine)
        except GroupBroken:
            self.failed = True
            return
        if everyone[group.rank] != everyone[0]:
            raise SdkError(
                f"this worker trains {len(described)} parameters that are not those of the others: "
                "the script must make, freeze and free the same ones on all workers, and in an "
                "epoch that it does not begin with, too"
            )
        self.failed = any(other != everyone[0] for other in everyone)  # which leave

    def _take_hold(self) -> None:
        parameters = [p for p in self._parameters() if p.requires_grad]
        self._held = [id(p) for p in parameters]
        for group in _grouped(list(reversed(parameters))):
            bucket = _Bucket(group)
            self._buckets.append(bucket)
            for place, parameter in enumerate(group):
                self._of[parameter] = bucket
                bucket.place[parameter] = place
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._ready))

    def _let_go(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for parameter in self._of:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.clone()  # no longer a part of a bucket
        self._hooks, self._buckets, self._of, self._held = [], [], {}, []

    def _ready(self, parameter: Any) -> None:
        """A gradient is complete.

        Raises:
            SdkError: It was complete before: what comes now would be added on one worker only.
        """
        if self._done:
            raise SdkError(_TWICE)
        if not self._armed:
            return
        if not self._queued:
            self._queued = True
            self._check()
            engine = sys.modules["torch"].autograd.Variable._execution_engine
            engine.queue_callback(self._finish)
        bucket = self._of[parameter]
        if bucket.place[parameter] not in bucket.missing:
            raise SdkError(_TWICE)
        bucket.take(parameter, self._weight)
        while self._sent < len(self._buckets) and not self._buckets[self._sent].missing:
            self._send()

    def _send(self) -> None:
        """Send the next bucket.

        In the same order on all workers, whatever is ready first: collectives are matched by it.
        """
        bucket = self._buckets[self._sent]
        self._sent += 1
        if self.failed or self._group is None:
            return
        bucket.close()
        try:
            bucket.work = self._group.reduce(bucket.flat)
        except GroupBroken:
            self.failed = True

    def _finish(self) -> None:
        """The backward pass is over: send what is left, wait for all, hand out the sums."""
        self._armed = False
        for bucket in self._buckets[self._sent :]:
            bucket.take_accumulated(self._weight)
        while self._sent < len(self._buckets):
            self._send()
        for bucket in self._buckets:
            if self.failed or self._group is None or bucket.work is None:
                continue
            try:
                self._group.wait(bucket.work)
            except GroupBroken:
                self.failed = True
        if not self.failed:
            self._done = True
            for bucket in self._buckets:
                bucket.hand_out()


class _Bucket:
    """Gradients that travel together: one flat tensor, and one number a parameter: was it used?"""

    def __init__(self, parameters: list[Any]) -> None:
        torch: Any = sys.modules["torch"]
        self.parameters = parameters
        self.place: dict[Any, int] = {}
        self.missing: set[int] = set()
        self.work: Any = None
        sizes = [p.numel() for p in parameters]
        like = parameters[0]
        self.flat = torch.empty(sum(sizes) + len(parameters), dtype=like.dtype, device=like.device)
        *parts, self._used = self.flat.split([*sizes, len(parameters)])
        self.views = [shaped_like(part, p) for part, p in zip(parts, parameters, strict=True)]
        self._every = set(range(len(parameters)))

    def reset(self) -> None:
        """A new step begins."""
        self.missing = set(self._every)
        self.work = None

    def take(self, parameter: Any, weight: float) -> None:
        """Take a gradient in, weighed, while it is fresh in the cache; its memory is free at once.

        From here on the gradient is a view of the bucket, so that sums need not be copied back.
        """
        torch: Any = sys.modules["torch"]
        place = self.place[parameter]
        self.missing.discard(place)
        view, gradient = self.views[place], parameter.grad
        with torch.no_grad():
            if gradient.is_sparse:
                view.copy_(gradient.to_dense()).mul_(weight)
            else:
                torch.mul(gradient, weight, out=view)
        parameter.grad = view

    def take_accumulated(self, weight: float) -> None:
        """Take in what only earlier micro-batches of the step used: no hook tells of it."""
        for place in tuple(self.missing):
            if self.parameters[place].grad is not None:
                self.take(self.parameters[place], weight)

    def close(self) -> None:
        """No gradient comes any more; a parameter that had none counts as zero."""
        self._used.fill_(1.0)
        for place in self.missing:
            self.views[place].zero_()
            self._used[place] = 0.0

    def hand_out(self) -> None:
        """Give the sums to parameters that only other workers used."""
        if not self.missing:
            return
        used = self._used.tolist()
        for place in self.missing:
            if used[place] > 0:
                self.parameters[place].grad = self.views[place]


def _grouped(parameters: list[Any]) -> Iterator[list[Any]]:
    """Buckets of one type and device each; the first is small, so that it leaves early."""
    limit = _FIRST_BYTES
    group: list[Any] = []
    size = 0
    for parameter in parameters:
        alike = not group or (parameter.dtype, parameter.device) == (
            group[0].dtype,
            group[0].device,
        )
        if group and (size >= limit or not alike):
            yield group
            group, size, limit = [], 0, _BUCKET_BYTES
        group.append(parameter)
        size += parameter.numel() * parameter.element_size()
    if group:
        yield group
