"""How far a simulated job is: plain data that goes to JSON and back as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from runners.fakeorder import Order


class Member(TypedDict):
    """One worker of any unit. Times are Unix times in seconds.

    `attach_t` is when it is to attach, `ready_t` when a joining one was ready (None before and for
    the first workers); `fault` is what goes wrong with a joining one.
    """

    number: int
    rank: int
    folder: str
    pool: str
    joins: bool
    world_size: int
    attach_t: float
    fault: str | None
    attached: bool
    ready_t: float | None
    exit_code: int | None
    ended_t: float | None


class Knobs(TypedDict):
    """What is in force. `micro_batch` is the most samples of a pass; a small share takes fewer."""

    global_batch: int
    micro_batch: int
    loader_workers: int
    memory: str
    lr_scale: float


class Change(TypedDict):
    """A change that was made and is told after the first step under it; see `adjusted`."""

    id: str | None
    reason: Literal["asked", "lost"]
    step: int
    epoch: int
    samples: int
    position: int
    lost: list[int]
    stall_s: float
    step_time_s: float
    redone_samples: int


@dataclass(slots=True, kw_only=True)
class State:
    """How far it is. Times are Unix times in seconds.

    Attributes:
        position: Samples done of the epoch.
        members: All workers that ever were, of all units.
        crew: Numbers of those that train together, by rank.
        lost: Of the crew, those that died since the others last regrouped.
        lost_at: The last step in which a fault took a worker.
        wanted: The `adjust` that was asked for and is not answered; `wanted_t` is when it was read.
        answered: The id of the last one that was.
        change: What was changed and is not told yet.
    """

    t: float
    members: list[Member]
    crew: list[int]
    knobs: Knobs
    attached: bool = False
    step: int = 0
    epoch: int = 0
    position: int = 0
    epoch_began_t: float = 0.0
    steps_here: int = 0
    checkpoint_t: float = 0.0
    interval_s: float = 600.0
    flushed_t: float = 0.0
    memory_t: float = 0.0
    step_times: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    seq: int = 0
    asked: int = 0
    written: int = 0
    hung: bool = False
    stop_t: float | None = None
    stop_reason: str = "signal"
    exit_code: int | None = None
    generation: int = 0
    lost: list[int] = field(default_factory=list)
    lost_at: int = 0
    wanted: dict[str, Any] | None = None
    wanted_t: float = 0.0
    answered: str | None = None
    change: Change | None = None


def starting(order: Order, attach_t: float) -> State:
    """A job that was just launched."""
    members = members_of(order, attach_t)
    return State(
        t=order.launched_t,
        interval_s=order.checkpoint_interval_s,
        members=members,
        crew=[member["number"] for member in members],
        knobs=Knobs(
            global_batch=order.global_batch,
            micro_batch=order.micro_batch,
            loader_workers=order.loaders,
            memory=order.memory,
            lr_scale=order.lr_scale,
        ),
    )


def members_of(order: Order, attach_t: float, fault: str | None = None) -> list[Member]:
    """The workers of one unit, as they start."""
    return [
        Member(
            number=order.first_worker + rank,
            rank=rank,
            folder=order.attempt_dir,
            pool=order.pool,
            joins=order.beside is not None,
            world_size=order.world_size,
            attach_t=attach_t,
            fault=fault,
            attached=False,
            ready_t=None,
            exit_code=None,
            ended_t=None,
        )
        for rank in range(order.workers)
    ]
