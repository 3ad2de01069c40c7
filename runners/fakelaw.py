"""The simulated job of runner `fake`: how fast it is, what it needs, and what goes wrong.

Everything is known exactly, so that predictions can be compared with the truth. All of it can be
set in the place's settings, under the names of the fields.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args

from planner.core.errors import ConfigError
from planner.core.job import Setting

FaultKind = Literal["crash", "oom", "hang", "slow", "lost", "no_start", "never_ready", "join_crash"]
STEP_FAULTS = ("crash", "oom", "hang", "slow", "lost")
LEVERS = ("workers", "micro_batch", "loader_workers", "memory", "global_batch")
"""What a simulated job can change in flight, unless its settings say less."""
_FAULT = re.compile(r"(?P<kind>[a-z_]+)(?:@(?P<step>\d+))?(?:x(?P<value>[\d.]+))?(?:#(?P<n>\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong, written `kind@STEPxVALUE#ATTEMPT`; the kind alone will do.

    Attributes:
        kind: `crash` (exit with code `value`, 1 by default), `oom` (out of memory), `hang` (no
            step any more, deaf to STOP), `slow` (steps take `value` times as long, 2 by default,
            from then on), `lost` (the last worker of the crew is killed, the others go on),
            `no_start` (the launch fails), `never_ready` (workers that join never say so),
            `join_crash` (workers that join exit with code 1 when they should attach).
        step: The step it happens in, from 1. The last three happen to launches, not in steps: for
            them it is the number of the launch's first worker, or None for every launch.
        value: See `kind`.
        attempt: Only in this attempt; None in each.
    """

    kind: FaultKind
    step: int | None = 1
    value: float | None = None
    attempt: int | None = None

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `crash@120x3#1`. Raises `ConfigError`."""
        match = _FAULT.fullmatch(text)
        kind = next((k for k in get_args(FaultKind) if match and k == match["kind"]), None)
        if match is None or kind is None:
            raise ConfigError(
                f"runner fake: unknown fault {text!r}",
                hint=f"write kind@step, such as crash@120; kinds: {', '.join(get_args(FaultKind))}",
            )
        return cls(
            kind=kind,
            step=int(match["step"]) if match["step"] else 1 if kind in STEP_FAULTS else None,
            value=float(match["value"]) if match["value"] else None,
            attempt=int(match["n"]) if match["n"] else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """Times in seconds and memory in bytes of the simulated job.

    Attributes:
        base_s: Of a forward and backward pass, whatever its size.
        sample_s: Of one sample in it.
        sync_s: Of one gradient exchange between very many workers.
        load_s: Of loading one sample in one loader process.
        jitter: Standard deviation of a step's time, as a fraction of it.
        start_s: From launch until the job attaches.
        warmup_factor: How many times as long the first step takes.
        tail_s: Evaluation after each epoch.
        handover_s: Of changing crew or knobs at a step boundary, and of going on without a worker.
        checkpoint_s: Of writing a checkpoint.
        checkpoint_bytes: Its size, as told; what is written is small.
        fixed_bytes: Memory of model and framework.
        sample_bytes: Memory of one sample of a micro-batch.
        low_memory_bytes_factor: How many times as much a sample takes with `memory` low.
        low_memory_time_factor: How many times as long a pass takes then.
        capacity_bytes: Memory of one worker's device.
        samples: Training samples of an epoch.
        epochs: Passes, when the command does not say `--epochs N`.
        global_batch: When planner does not say.
    """

    base_s: float = 0.012
    sample_s: float = 0.0011
    sync_s: float = 0.018
    load_s: float = 0.0004
    jitter: float = 0.03
    start_s: float = 4.0
    warmup_factor: float = 3.0
    tail_s: float = 1.5
    handover_s: float = 0.1
    checkpoint_s: float = 0.4
    checkpoint_bytes: int = 45_000_000
    fixed_bytes: int = 900_000_000
    sample_bytes: int = 12_000_000
    low_memory_bytes_factor: float = 0.5
    low_memory_time_factor: float = 1.3
    capacity_bytes: int = 16_000_000_000
    samples: int = 1437
    epochs: int = 8
    global_batch: int = 128

    def step_s(
        self,
        *,
        workers: int,
        micro_batch: int,
        accumulation: int,
        loaders: int = 0,
        low_memory: bool = False,
    ) -> float:
        """Mean time of one optimiser step: compute, exchange, and the wait for data."""
        exchange_s = self.sync_s * 2 * (workers - 1) / workers
        wait_s = self.wait_s(
            micro_batch=micro_batch,
            accumulation=accumulation,
            loaders=loaders,
            low_memory=low_memory,
        )
        return self._compute_s(micro_batch, accumulation, low_memory) + exchange_s + wait_s

    def wait_s(
        self, *, micro_batch: int, accumulation: int, loaders: int, low_memory: bool = False
    ) -> float:
        """Mean wait for data within a step; loader processes work while the step computes."""
        loading_s = accumulation * micro_batch * self.load_s
        if loaders == 0:
            return loading_s
        return max(
            0.0, loading_s / loaders - self._compute_s(micro_batch, accumulation, low_memory)
        )

    def memory_bytes(self, micro_batch: int, *, low_memory: bool = False) -> int:
        """Peak memory of one worker's device."""
        factor = self.low_memory_bytes_factor if low_memory else 1.0
        return self.fixed_bytes + round(self.sample_bytes * factor * micro_batch)

    def run_s(
        self, *, workers: int, micro_batch: int, accumulation: int, loaders: int = 0
    ) -> float:
        """Mean time of the whole job, its checkpoint at the end included."""
        steps = math.ceil(self.samples / (workers * micro_batch * accumulation))
        step_s = self.step_s(
            workers=workers, micro_batch=micro_batch, accumulation=accumulation, loaders=loaders
        )
        warmup_s = (self.warmup_factor - 1) * step_s
        return (
            self.start_s
            + warmup_s
            + self.epochs * (steps * step_s + self.tail_s)
            + self.checkpoint_s
        )

    def _compute_s(self, micro_batch: int, accumulation: int, low_memory: bool) -> float:
        factor = self.low_memory_time_factor if low_memory else 1.0
        return factor * accumulation * (self.base_s + self.sample_s * micro_batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeSettings:
    """A `[[where]]` entry with `runner = "fake"`: the law's fields, and these.

    Attributes:
        slots: Most workers at once.
        usd_per_slot_h: Price of one worker for an hour.
        gpu: Name of the simulated GPU; empty simulates CPU slots.
        seed: Of the jitter.
        faults: What goes wrong.
        levers: What the job can change in flight.
    """

    law: Law = Law()
    slots: int = 4
    usd_per_slot_h: float = 0.0
    gpu: str = "FakeGPU-16G"
    seed: int = 0
    faults: tuple[Fault, ...] = ()
    levers: tuple[str, ...] = LEVERS

    def step_faults(self, attempt: int) -> tuple[Fault, ...]:
        """What goes wrong in the steps of one attempt."""
        return tuple(f for f in self._of(attempt) if f.kind in STEP_FAULTS)

    def launch_faults(self, attempt: int, first_worker: int) -> tuple[FaultKind, ...]:
        """What goes wrong with one launch of an attempt."""
        found = (f for f in self._of(attempt) if f.kind not in STEP_FAULTS)
        return tuple(f.kind for f in found if f.step in (None, first_worker))

    def _of(self, attempt: int) -> tuple[Fault, ...]:
        return tuple(f for f in self.faults if f.attempt in (None, attempt))


_LAW_FIELDS = {f.name: f.type for f in fields(Law)}
_OTHER = {"slots": int, "usd_per_slot_h": float, "gpu": str, "seed": int, "pool": str}
KEYS = (*_OTHER, "faults", "levers", *_LAW_FIELDS)


def read_settings(settings: Mapping[str, Setting]) -> FakeSettings:
    """Settings of a place, checked.

    Raises:
        ConfigError: A key is unknown or its value does not fit.
    """
    law: dict[str, float] = {}
    other: dict[str, Setting] = {}
    faults: tuple[Fault, ...] = ()
    levers: tuple[str, ...] = LEVERS
    for key, value in settings.items():
        if key == "faults":
            faults = tuple(Fault.parse(text) for text in _texts(key, value))
        elif key == "levers":
            levers = _texts(key, value)
            if not set(levers) <= set(LEVERS):
                raise _bad(key, value)
        elif key in _LAW_FIELDS:
            law[key] = _number(key, value, whole=_LAW_FIELDS[key] == "int")
        elif key in _OTHER:
            kind = _OTHER[key]
            other[key] = value if kind is str else _number(key, value, whole=kind is int)
        else:
            near = difflib.get_close_matches(key, KEYS, n=1)
            meant = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"runner fake: unknown key {key!r}", hint=f"{meant}Known are: {', '.join(KEYS)}."
            )
    other.pop("pool", None)
    return FakeSettings(law=Law(**law), faults=faults, levers=levers, **other)  # type: ignore[arg-type]


def _texts(key: str, value: Setting) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, tuple | list):  # a list once it went through JSON
        raise _bad(key, value)
    return tuple(texts)


def _number(key: str, value: Setting, *, whole: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise _bad(key, value)
    if whole and value != int(value):
        raise _bad(key, value)
    return int(value) if whole else float(value)


def _bad(key: str, value: Setting) -> ConfigError:
    return ConfigError(
        f"runner fake: {key} = {value!r} does not fit",
        hint="see runners/fakelaw.py for its meaning",
    )
