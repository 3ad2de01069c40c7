"""What can be changed in a simulated job, and what a change makes of it; see docs/adjust.md."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from runners.fakelaw import Law
from runners.fakestate import Knobs, State

_KNOBS = ("micro_batch", "loader_workers", "memory", "global_batch")
_LR_RULES = ("linear", "sqrt", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a worker's share of a step is cut."""

    micro_batch: int
    accumulation: int
    loaders: int
    low_memory: bool

    @classmethod
    def of(cls, knobs: Knobs, workers: int) -> Shape:
        """As the SDK cuts a global batch; nobody takes more than `micro_batch` at once."""
        share = max(1, math.ceil(knobs["global_batch"] / workers))
        micro_batch = min(share, knobs["micro_batch"])
        return cls(
            micro_batch=micro_batch,
            accumulation=math.ceil(share / micro_batch),
            loaders=knobs["loader_workers"],
            low_memory=knobs["memory"] == "low",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What follows from crew and knobs: means of a step's time and wait, memory of a worker.

    Attributes:
        micro_batch: Most samples of one pass, as it was asked for; `shape` has what they are.
    """

    shape: Shape
    global_batch: int
    micro_batch: int
    steps_per_epoch: int
    step_s: float
    wait_s: float
    peak_bytes: int

    @classmethod
    def of(cls, law: Law, knobs: Knobs, workers: int) -> Pace:
        """As the law says."""
        shape = Shape.of(knobs, workers)
        cut = {
            "micro_batch": shape.micro_batch,
            "accumulation": shape.accumulation,
            "loaders": shape.loaders,
        }
        return cls(
            shape=shape,
            global_batch=knobs["global_batch"],
            micro_batch=min(knobs["micro_batch"], knobs["global_batch"]),
            steps_per_epoch=math.ceil(law.samples / knobs["global_batch"]),
            step_s=law.step_s(workers=workers, low_memory=shape.low_memory, **cut),
            wait_s=law.wait_s(low_memory=shape.low_memory, **cut),
            peak_bytes=law.memory_bytes(shape.micro_batch, low_memory=shape.low_memory),
        )

    def in_force(self) -> dict[str, Any]:
        """The keys that `attached` and `adjusted` share."""
        return {
            "global_batch": self.global_batch,
            "micro_batch": self.micro_batch,
            "accumulation": self.shape.accumulation,
            "loader_workers": self.shape.loaders,
        }


def obstacle(state: State, wanted: Mapping[str, Any], levers: Collection[str]) -> str | None:
    """Why this cannot be done, in one line; None when it can, or may be once all are ready."""
    crew = wanted.get("crew", state.crew)
    pulled = {name for name in _KNOBS if name in wanted and wanted[name] != _now(state, name)}
    if set(crew) != set(state.crew):
        pulled.add("workers")
    if fixed := sorted(pulled - set(levers)):
        return f"this job cannot change {', '.join(fixed)} in flight"
    return _crew_obstacle(state, crew) or _knob_obstacle(state, wanted, len(crew))


def complete(state: State, wanted: Mapping[str, Any]) -> bool:
    """Whether everybody who is to train is here and ready."""
    ready = {m["number"] for m in state.members if m["ready_t"] and m["ready_t"] <= state.t}
    return all(number in state.crew or number in ready for number in wanted.get("crew", ()))


def turned(knobs: Knobs, wanted: Mapping[str, Any]) -> Knobs:
    """The knobs once it was done."""
    changes = {name: wanted[name] for name in _KNOBS if name in wanted}
    ratio = changes.get("global_batch", knobs["global_batch"]) / knobs["global_batch"]
    factor = {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}
    changes["lr_scale"] = knobs["lr_scale"] * factor[wanted.get("lr_rule", "linear")]
    return Knobs(**{**knobs, **changes})  # type: ignore[typeddict-item]


def _now(state: State, name: str) -> object:
    return {**state.knobs}[name]


def _crew_obstacle(state: State, crew: list[int]) -> str | None:
    members = {member["number"]: member for member in state.members}
    if not crew:
        return "a crew needs a worker"
    if len(set(crew)) != len(crew):
        return f"the crew {crew} names a worker twice"
    for number in crew:
        if number not in members:
            return f"there is no worker {number}"
        if members[number]["exit_code"] is not None:
            return f"worker {number} has ended"
    return None


def _knob_obstacle(state: State, wanted: Mapping[str, Any], workers: int) -> str | None:
    global_batch = wanted.get("global_batch", state.knobs["global_batch"])
    if global_batch < workers:
        return f"a global batch of {global_batch} is too small for {workers} workers"
    if wanted.get("micro_batch", 1) < 1:
        return f"a micro-batch of {wanted['micro_batch']} is too small"
    if wanted.get("loader_workers", 0) < 0:
        return f"{wanted['loader_workers']} loader processes are too few"
    if wanted.get("memory", "low") not in ("low", "normal"):
        return f"memory cannot be {wanted['memory']!r}"
    if wanted.get("lr_rule", "none") not in _LR_RULES:
        return f"there is no rule {wanted['lr_rule']!r} for the learning rate"
    return None
