"""What can be turned while the job runs, what is in force, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

LR_RULES = ("linear", "sqrt", "none")


class Knobs(NamedTuple):
    """Everything that can be turned, as it is in force on every worker.

    Attributes:
        global_batch: Samples of one optimiser step over all workers.
        micro_batch: Most samples of one forward pass of one worker.
        loader_workers: Loader processes of one worker.
        memory: `normal` or `low`.
        lr_scale: Factor of the script's own learning rate.
    """

    global_batch: int
    micro_batch: int
    loader_workers: int
    memory: str = "normal"
    lr_scale: float = 1.0


class Refused(Exception):
    """A lever that cannot be turned so; the text says why."""


def lr_factor(rule: str, before: int, after: int) -> float:
    """Factor of the learning rate when the global batch goes from `before` to `after`.

    `linear`: Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.1; for plain SGD.
    `sqrt`: Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms"
    (NeurIPS 2022), section 5; for Adam and its like.

    Raises:
        Refused: There is no such rule.
    """
    if rule not in LR_RULES:
        raise Refused(f"there is no learning-rate rule {rule!r}; known are {', '.join(LR_RULES)}")
    ratio = after / before
    factors = {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}
    return factors[rule]


def turned(now: Knobs, wanted: Mapping[str, Any], normal_micro_batch: int) -> Knobs:
    """What will be in force once everything that is wanted is.

    Args:
        now: What is in force.
        wanted: The control file's `adjust`; what it does not name stays.
        normal_micro_batch: The micro-batch to go back to when memory becomes `normal` again.

    Raises:
        Refused: A value does not fit.
    """
    memory = str(wanted.get("memory", now.memory))
    if memory not in ("normal", "low"):
        raise Refused(f"memory is normal or low, not {memory!r}")
    global_batch = _whole(wanted, "global_batch", now.global_batch, least=1)
    micro_batch = now.micro_batch
    if memory != now.memory:
        micro_batch = max(1, now.micro_batch // 2) if memory == "low" else normal_micro_batch
    micro_batch = _whole(wanted, "micro_batch", micro_batch, least=1)
    lr_scale = now.lr_scale
    if global_batch != now.global_batch:
        rule = str(wanted.get("lr_rule", "linear"))
        lr_scale *= lr_factor(rule, now.global_batch, global_batch)
    return Knobs(
        global_batch=global_batch,
        micro_batch=min(micro_batch, global_batch),
        loader_workers=_whole(wanted, "loader_workers", now.loader_workers, least=0),
        memory=memory,
        lr_scale=lr_scale,
    )


def _whole(wanted: Mapping[str, Any], name: str, default: int, *, least: int) -> int:
    value = wanted.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise Refused(f"{name} is a whole number from {least}, not {value!r}")
    return value
