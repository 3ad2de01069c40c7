"""Changing a running job: what is asked for, what is in force, and what came of it.

See docs/adjust.md. Everything is plain data; `planner.core.adjustrules` holds the rules.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, get_args

from planner.core.errors import UsageError
from planner.core.plan import Plan
from planner.core.types import Knobs, PriceQuote, ResourceConfig
from planner.core.units import format_duration, parse_duration_s

Memory = Literal["normal", "low"]
LrRule = Literal["linear", "sqrt", "none"]
How = Literal["in_flight", "relaunch", "nothing"]
AdjustState = Literal["waiting", "going_on", "done", "not_done", "refused"]

LEVERS = (
    "workers",
    "micro_batch",
    "loader_workers",
    "memory",
    "move",
    "checkpoint_interval",
    "global_batch",
)
"""What can be changed on a running job, as it is written before the `=`."""

_SHORTEST_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to move to, `RUNNER[:POOL][:WORKERS]`; what is None stays or is chosen."""

    runner: str
    pool: str | None = None
    workers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody wants of a running job. A lever that is None is left alone.

    Attributes:
        checkpoint_auto: Whether planner chooses the interval, from cost and hazard.
        lr_rule: How the learning rate follows `global_batch`.
        allow_maths: Whether the mathematics may change, as by `global_batch`.
        relaunch: Do it by checkpoint and relaunch even where it can be done in flight.
        max_usd_per_h: The highest price per hour that was shown and agreed to; None leaves the
            limit that holds.
    """

    workers: int | None = None
    micro_batch: int | None = None
    loader_workers: int | None = None
    memory: Memory | None = None
    move: Target | None = None
    checkpoint_interval_s: float | None = None
    checkpoint_auto: bool | None = None
    global_batch: int | None = None
    lr_rule: LrRule = "linear"
    allow_maths: bool = False
    relaunch: bool = False
    max_usd_per_h: float | None = None

    @property
    def levers(self) -> tuple[str, ...]:
        """The levers that are asked for."""
        asked = {
            "workers": self.workers,
            "micro_batch": self.micro_batch,
            "loader_workers": self.loader_workers,
            "memory": self.memory,
            "move": self.move,
            "checkpoint_interval": self.checkpoint_interval_s or self.checkpoint_auto,
            "global_batch": self.global_batch,
        }
        return tuple(name for name in LEVERS if asked[name] is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What a run works with now, and what its next attempt starts with.

    Attributes:
        resources: Machines and workers, as wanted: a worker that was lost still counts.
        price: Of those resources.
        max_usd_per_h: The highest price per hour that was agreed to for them.
        lr_scale: Factor of the learning rate that changes of the global batch have made.
        schedule_batch: Global batch that one tick of the schedule stands for; None where it is
            the one in force.
        checkpoint_auto: Whether planner chooses the interval between checkpoints.
        crew: Numbers of the workers that train together, by rank; empty before it is known.
    """

    resources: ResourceConfig
    knobs: Knobs
    price: PriceQuote
    max_usd_per_h: float
    memory: Memory = "normal"
    lr_scale: float = 1.0
    schedule_batch: int | None = None
    checkpoint_auto: bool = False
    crew: tuple[int, ...] = ()

    @property
    def workers(self) -> int:
        """Training processes in all, as wanted."""
        return self.resources.workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """One change of a run, from the request to what came of it. None where unknown.

    Attributes:
        id: The decision's; None while the request waits, and where nobody asked.
        command: The request's id; None where nobody asked.
        what: In words: `workers 1 -> 2`.
        reason: `asked`; `lost` when a worker died and the others went on; `replaced` when one
            was started in its place.
        text: What came of it, or why it was not done.
        idle_s: Idle time of the run up to the request, which is nobody's downtime.
        downtime_s: From the request to the first step under the change. Training goes on meanwhile
            when it is done in flight.
        stall_s: Longest gap between two steps around the change; `step_time_s` is the usual one.
        redone_samples: Samples that were computed a second time.
        lost_samples: Samples left out: none.
    """

    id: str | None
    command: str | None
    what: str
    state: AdjustState
    reason: Literal["asked", "lost", "replaced"] = "asked"
    wish: Wish | None = None
    how: How | None = None
    asked_at: datetime | None = None
    idle_s: float = 0.0
    done_at: datetime | None = None
    text: str | None = None
    step: int | None = None
    workers: int | None = None
    downtime_s: float | None = None
    stall_s: float | None = None
    step_time_s: float | None = None
    redone_samples: int | None = None
    lost_samples: int | None = None
    samples_per_s_before: float | None = None
    samples_per_s: float | None = None

    @property
    def pending(self) -> bool:
        """Whether something is still to be done about it."""
        return self.state in ("waiting", "going_on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A number that is not known exactly."""

    lo: float
    mid: float
    hi: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a change is expected to do, before it is asked for. None where nothing tells.

    Attributes:
        what: The change in words.
        how: In flight, by relaunch, or nothing to do.
        why: Why it takes a relaunch; empty otherwise.
        basis: Where the new rate is from: the kept `estimate`, or a `guess` from the rate now.
        asks: Levers that the job file wants asked about.
        peak_usd_per_h: The most that is paid per hour meanwhile: in a move in flight both places
            are held until the new one has taken over. It is what is agreed to.
        dearer: Whether that is more than was agreed to so far.
        notes: What else the reader should know.
        command: The request's id, once it was sent.
    """

    what: str
    how: How
    why: str = ""
    samples_per_s_before: float | None = None
    samples_per_s: Band | None = None
    basis: Literal["estimate", "guess"] | None = None
    usd_per_h_before: float = 0.0
    usd_per_h: float = 0.0
    peak_usd_per_h: float = 0.0
    left_before_s: float | None = None
    left_s: float | None = None
    cost_at_end_before_usd: float | None = None
    cost_at_end_usd: float | None = None
    downtime_s: float | None = None
    stall_s: float | None = None
    asks: tuple[str, ...] = ()
    dearer: bool = False
    notes: tuple[str, ...] = ()
    command: str | None = None


def planned(plan: Plan) -> InForce:
    """What is in force before anything was changed: what was agreed to at launch."""
    option = plan.option
    return InForce(
        resources=option.resources,
        knobs=option.knobs,
        price=option.price,
        max_usd_per_h=plan.max_usd_per_h,
    )


def pass_samples(knobs: Knobs, workers: int) -> int:
    """Samples of one forward pass: the micro-batch, or a replica's share where that is less."""
    if knobs.global_batch <= 0:
        return knobs.micro_batch
    return min(knobs.micro_batch, replica_samples(knobs, workers))


def replica_samples(knobs: Knobs, workers: int) -> int:
    """Samples of a step that a replica of the model takes: all of a worker's, where it is one."""
    return math.ceil(knobs.global_batch / knobs.replicas(workers))


def with_batches(knobs: Knobs, workers: int, micro_batch: int, global_batch: int) -> Knobs:
    """The knobs with other batches; accumulation follows. Batches of 0 are not known."""
    turned = replace(knobs, micro_batch=micro_batch, global_batch=global_batch)
    if global_batch <= 0 or micro_batch <= 0:
        return turned
    share = replica_samples(turned, workers)
    return replace(turned, accumulation=math.ceil(share / pass_samples(turned, workers)))


def lr_factor(rule: LrRule, before: int, after: int) -> float:
    """What the learning rate is multiplied by when the global batch changes."""
    ratio = after / before if before > 0 else 1.0
    return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[rule]


# ---- as it is typed --------------------------------------------------------------------------


def parse_wish(
    pairs: Sequence[str], *, allow_maths: bool = False, lr_rule: str = "linear", relaunch: bool
) -> Wish:
    """A wish from `LEVER=VALUE` words.

    Raises:
        UsageError: A word is no such pair, names no lever or one twice, or its value does not fit.
    """
    if not pairs:
        raise UsageError(
            "nothing to adjust", hint=f"planner adjust RUN workers=2; levers: {', '.join(LEVERS)}"
        )
    if lr_rule not in get_args(LrRule):
        raise UsageError(
            f"--lr-rule {lr_rule} is not known", hint=f"it takes {', '.join(get_args(LrRule))}"
        )
    wish = Wish(allow_maths=allow_maths, lr_rule=_lr_rule(lr_rule), relaunch=relaunch)
    seen: set[str] = set()
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if name not in LEVERS:
            raise _unknown(name)
        if not equals or not text.strip():
            raise UsageError(f"{name} needs a value", hint=f"{name}=...: {_TAKES[name]}")
        if name in seen:
            raise UsageError(f"{name} is given twice", hint="say each lever once")
        seen.add(name)
        wish = _with(wish, name, text.strip())
    if {"workers", "move"} <= seen:
        raise UsageError(
            "workers and move cannot be asked for together",
            hint="move=RUNNER:POOL:WORKERS says both",
        )
    return wish


_TAKES = {
    "workers": "a count, as workers=2",
    "micro_batch": "samples of one pass of one worker, as micro_batch=64",
    "loader_workers": "processes per worker, 0 for none, as loader_workers=4",
    "memory": "low or normal",
    "move": "RUNNER[:POOL][:WORKERS], as move=local:gpu:1",
    "checkpoint_interval": "a duration or auto, as checkpoint_interval=5m",
    "global_batch": "samples of one step, as global_batch=512",
}


def _with(wish: Wish, name: str, text: str) -> Wish:
    match name:
        case "workers":
            return replace(wish, workers=_count(name, text, 1))
        case "micro_batch":
            return replace(wish, micro_batch=_count(name, text, 1))
        case "loader_workers":
            return replace(wish, loader_workers=_count(name, text, 0))
        case "global_batch":
            return replace(wish, global_batch=_count(name, text, 1))
        case "memory":
            if text not in get_args(Memory):
                raise UsageError(f"memory={text} does not fit", hint=_TAKES[name])
            return replace(wish, memory="low" if text == "low" else "normal")
        case "move":
            return replace(wish, move=_target(text))
        case _:
            if text == "auto":
                return replace(wish, checkpoint_auto=True)
            interval_s = parse_duration_s(text)
            if interval_s < _SHORTEST_INTERVAL_S:
                raise UsageError(
                    f"checkpoint_interval={text} is too short", hint="it takes a second or more"
                )
            return replace(wish, checkpoint_interval_s=interval_s, checkpoint_auto=False)


def _count(name: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise UsageError(
            f"{name}={text} does not fit: it takes a whole number from {least}", hint=_TAKES[name]
        )
    return int(text)


def _target(text: str) -> Target:
    parts = [part.strip() for part in text.split(":")]
    workers = None
    if len(parts) > 1 and parts[-1].isdecimal():
        workers = _count("move", parts.pop(), 1)
    if len(parts) > 2 or not all(parts):
        raise UsageError(f"move={text} does not fit", hint=_TAKES["move"])
    return Target(runner=parts[0], pool=parts[1] if len(parts) > 1 else None, workers=workers)


def _lr_rule(text: str) -> LrRule:
    return "sqrt" if text == "sqrt" else "none" if text == "none" else "linear"


def _unknown(name: str) -> UsageError:
    near = difflib.get_close_matches(name, LEVERS, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return UsageError(
        f"there is no lever called {name!r}", hint=f"{meant}known are {', '.join(LEVERS)}"
    )


# ---- in words ----------------------------------------------------------------------------------


def place_text(resources: ResourceConfig) -> str:
    """A place in a few words: `2 x cpu at local:cpu`."""
    return f"{resources.workers} x {resources.device} at {place_name(resources)}"


def place_name(resources: ResourceConfig) -> str:
    """A place as `move` takes it: `local:cpu`."""
    return f"{resources.runner}:{resources.pool}"


def interval_text(now: InForce) -> str:
    """The interval between checkpoints in words."""
    shown = format_duration(now.knobs.checkpoint_interval_s)
    return f"auto ({shown})" if now.checkpoint_auto else shown


def change_text(before: InForce, after: InForce) -> str:
    """What differs: `workers 1 -> 2, micro-batch 64 -> 32`; empty when nothing does."""
    old, new = before.resources, after.resources
    parts: list[str] = []
    if (old.runner, old.pool, old.device) != (new.runner, new.pool, new.device):
        parts.append(f"move {place_text(old)} -> {place_text(new)}")
    elif old.workers != new.workers:
        parts.append(f"workers {old.workers} -> {new.workers}")
    pairs = (
        ("micro-batch", before.knobs.micro_batch, after.knobs.micro_batch),
        ("loader workers", before.knobs.loader_workers, after.knobs.loader_workers),
        ("memory", before.memory, after.memory),
        ("global batch", before.knobs.global_batch, after.knobs.global_batch),
        ("checkpoint interval", interval_text(before), interval_text(after)),
    )
    parts += [f"{name} {was} -> {now}" for name, was, now in pairs if was != now]
    return ", ".join(parts)
