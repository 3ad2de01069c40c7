"""What this machine offers to a job: its slots, GPUs and their price."""

from __future__ import annotations

import difflib
import math
import os
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from planner.core.distribution import Distribution
from planner.core.errors import ConfigError, RunnerError
from planner.core.job import Place
from planner.core.types import Offer, PriceQuote, ResourceConfig
from runners.machine import memory_bytes, usable_cores
from runners.metrics import Gpu, Nvml, visible

Device = Literal["auto", "cpu", "gpu"]
SETTINGS = ("slots", "usd_per_slot_h", "usd_per_gpu_h", "device", "pool")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """A `[[where]]` entry with `runner = "local"`.

    Attributes:
        slots: Most workers at once; None is one per GPU, or one per usable core.
        usd_per_slot_h: Price of one worker for an hour, where there is none per GPU.
        usd_per_gpu_h: Price of one GPU for an hour.
        device: What workers run on; `auto` takes GPUs when there are any.
        pool: Name shown for what is offered; None is `cpu` or `gpu`.
    """

    slots: int | None = None
    usd_per_slot_h: float | None = None
    usd_per_gpu_h: float | None = None
    device: Device = "auto"
    pool: str | None = None


def read_settings(place: Place) -> LocalSettings:
    """The place's settings, checked. A pool called `cpu` or `gpu` decides the device.

    Raises:
        ConfigError: A key is unknown or its value does not fit.
    """
    values = dict(place.settings)
    for key in values:
        if key not in SETTINGS:
            near = difflib.get_close_matches(key, SETTINGS, n=1)
            meant = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f'[[where]] runner = "local": unknown key {key!r}',
                hint=f"{meant}Known are: {', '.join(SETTINGS)}.",
            )
    slots = values.get("slots")
    if slots is not None and (not isinstance(slots, int) or isinstance(slots, bool) or slots < 1):
        raise _bad("slots", slots, "a whole number from 1")
    wanted = values.get("device", place.pool if place.pool in ("cpu", "gpu") else "auto")
    device = next((d for d in get_args(Device) if d == wanted), None)
    if device is None:
        raise _bad("device", wanted, '"auto", "cpu" or "gpu"')
    pool = values.get("pool")
    if pool is not None and not isinstance(pool, str):
        raise _bad("pool", pool, "a name in quotes")
    return LocalSettings(
        slots=slots,
        usd_per_slot_h=_price("usd_per_slot_h", values.get("usd_per_slot_h")),
        usd_per_gpu_h=_price("usd_per_gpu_h", values.get("usd_per_gpu_h")),
        device=device,
        pool=pool,
    )


def usable_gpus(settings: LocalSettings, nvml: Nvml) -> tuple[Gpu, ...]:
    """GPUs that workers may be given; empty means CPU slots.

    Raises:
        RunnerError: GPUs are asked for and there is none.
    """
    if settings.device == "cpu":
        return ()
    gpus = visible(nvml.gpus(), os.environ)
    if settings.device == "gpu" and not gpus:
        why = nvml.unavailable or "this process may use none (CUDA_VISIBLE_DEVICES)"
        raise RunnerError(
            f'[[where]] runner = "local" asks for device = "gpu", but no GPU can be used: {why}',
            hint='run planner doctor, or set device = "cpu"',
            code="environment.no_gpu",
        )
    return gpus


def offers(place: Place, nvml: Nvml, now: datetime) -> tuple[Offer, ...]:
    """One offer for each number of workers, of each kind of device.

    Raises:
        ConfigError: The settings do not fit.
        RunnerError: GPUs are asked for and there is none.
    """
    settings = read_settings(place)
    gpus = usable_gpus(settings, nvml)
    shapes = _gpu_shapes(gpus, settings) if gpus else _cpu_shapes(settings)
    each_usd_per_h = settings.usd_per_slot_h
    if gpus and settings.usd_per_gpu_h is not None:
        each_usd_per_h = settings.usd_per_gpu_h
    return tuple(
        Offer(
            resources=shape,
            price=_quote(each_usd_per_h, shape.workers, now),
            wait_s=Distribution.exactly(0.0),
        )
        for shape in shapes
    )


def _cpu_shapes(settings: LocalSettings) -> list[ResourceConfig]:
    # A slot is one core, and its memory is what is left: nothing divides memory between slots.
    memory = memory_bytes()
    return [
        ResourceConfig(
            runner="local",
            pool=settings.pool or "cpu",
            market="local",
            workers_per_node=workers,
            vcpus_per_node=workers,
            memory_bytes_per_node=memory,
        )
        for workers in range(1, (settings.slots or usable_cores()) + 1)
    ]


def _gpu_shapes(gpus: tuple[Gpu, ...], settings: LocalSettings) -> list[ResourceConfig]:
    cores_each = max(1, usable_cores() // len(gpus))
    memory = memory_bytes()
    shapes = []
    for name in dict.fromkeys(gpu.name for gpu in gpus):
        alike = [gpu for gpu in gpus if gpu.name == name]
        for workers in range(1, min(len(alike), settings.slots or len(alike)) + 1):
            shapes.append(
                ResourceConfig(
                    runner="local",
                    pool=settings.pool or "gpu",
                    market="local",
                    workers_per_node=workers,
                    gpus_per_node=workers,
                    gpu=name,
                    gpu_memory_bytes=min(gpu.memory_bytes for gpu in alike),
                    vcpus_per_node=workers * cores_each,
                    memory_bytes_per_node=memory,
                )
            )
    return shapes


def _quote(each_usd_per_h: float | None, workers: int, now: datetime) -> PriceQuote:
    usd_per_h = (each_usd_per_h or 0.0) * workers
    return PriceQuote(
        usd_per_h=usd_per_h, source="contract" if usd_per_h > 0 else "free", as_of=now
    )


def _price(key: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(key, value, "an amount in dollars per hour, such as 0.05")
    if not math.isfinite(value) or value < 0:
        raise _bad(key, value, "an amount in dollars per hour, not negative")
    return float(value)


def _bad(key: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(
        f'[[where]] runner = "local": {key} = {value!r} does not fit', hint=f"it takes {wanted}"
    )
