"""Kept probe results: found again by fingerprint, resources and knobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from planner.core.errors import StoreError
from planner.core.job import ProbeSettings
from planner.core.replicas import identity
from planner.core.types import Knobs, ProbeResult, ResourceConfig
from planner.store.codec import to_json
from planner.store.files import load, save
from planner.store.layout import StateDir

_KEPT_STATES = ("ok", "oom")
# Not part of what was measured: how much memory is free changes from day to day.
_UNSTABLE = ("memory_bytes_per_node", "zone", "market")
# A probe may end a few steps early, by its own count; asking anew would not change that.
_ENOUGH = 0.9


def probe_id(fingerprint: str, resources: ResourceConfig, knobs: Knobs) -> str:
    """The same for the same job, machines and knobs; `p-` and ten hexadecimal digits."""
    shape = {k: v for k, v in to_json(resources).items() if k not in _UNSTABLE}
    turned = {k: v for k, v in identity(to_json(knobs)).items() if k != "checkpoint_interval_s"}
    text = json.dumps([fingerprint, shape, turned], sort_keys=True)
    return "p-" + hashlib.sha256(text.encode()).hexdigest()[:10]


def keep(state: StateDir, probe: ProbeResult) -> None:
    """Write a result down when it is worth asking for again: measured, or out of memory.

    A crash is not: the user mends it and tries again.

    Raises:
        StoreError: It cannot be written.
    """
    if probe.state in _KEPT_STATES:
        save(state.probes / f"{probe.id}.json", probe)


def kept(state: StateDir) -> tuple[ProbeResult, ...]:
    """All readable results, oldest first. A damaged file is passed over: it is only a cache.

    Raises:
        StoreError: The folder cannot be listed.
    """
    probes = (_read(path) for path in sorted(state.probes.glob("p-*.json")))
    return tuple(sorted((p for p in probes if p is not None), key=lambda p: p.measured_at))


def _read(path: Path) -> ProbeResult | None:
    try:
        return load(ProbeResult, path)
    except StoreError:
        return None


def still_good(probe: ProbeResult, settings: ProbeSettings) -> bool:
    """Whether a kept result is as thorough as what would be measured now."""
    if probe.state == "oom":
        return True
    return probe.steps + probe.warmup_steps >= _ENOUGH * (settings.steps + settings.warmup_steps)


def of_job(probes: Iterable[ProbeResult], fingerprint: str) -> tuple[ProbeResult, ...]:
    """The results that are about this job."""
    return tuple(p for p in probes if p.fingerprint == fingerprint)
