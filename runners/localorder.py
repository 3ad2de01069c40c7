"""What the keeper of a launch on this machine is told: its record, the command, its workers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from runners.base import LaunchSpec
from runners.joining import wanted_size
from runners.localstate import Launch
from runners.machine import free_port
from runners.processes import boot_id

_RENDEZVOUS_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")


def keeper_order(
    spec: LaunchSpec, path: str, devices: Sequence[str], lock_fd: int, beside: Launch | None
) -> Mapping[str, Any]:
    """Everything that the keeper has to know, to be sent to it as JSON.

    Args:
        spec: What to start.
        path: The command's file.
        devices: `CUDA_VISIBLE_DEVICES` by rank.
        lock_fd: Descriptor of the lock that the keeper gives up once all workers run.
        beside: The launch that the workers join; None where they start a job of their own.

    Raises:
        RunnerError: Workers that join are not told how many there will be.
    """
    record = {
        "key": spec.idempotency_key,
        "run_id": spec.run_id,
        "attempt": spec.attempt,
        "attempt_dir": spec.attempt_dir,
        "group": spec.attempt_dir if beside is None else beside.group,
        "pool": spec.place.pool,
        "first_worker": spec.first_worker,
        "host": os.uname().nodename,
        "boot_id": boot_id(),
        "stop_grace_s": spec.stop_grace_s,
        "cores": _cores(spec),
        "gpus": [device or None for device in devices],
    }
    job = _own_job(spec) if beside is None else _joined_job(spec)
    return {
        "record": record,
        "path": path,
        "argv": list(spec.argv),
        "workdir": spec.workdir,
        "stop_grace_s": spec.stop_grace_s,
        "lock_fd": lock_fd,
        "workers": [
            {"env": _worker_env(spec, rank, device) | job[rank]}
            for rank, device in enumerate(devices)
        ],
    }


def _own_job(spec: LaunchSpec) -> list[dict[str, str]]:
    """By rank: how workers find each other that start together."""
    port, workers = str(free_port()), spec.resources.workers
    return [
        {
            "RANK": str(rank),
            "WORLD_SIZE": str(workers),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        for rank in range(workers)
    ]


def _joined_job(spec: LaunchSpec) -> list[dict[str, str]]:
    """By rank: what tells a worker that it joins a job at work."""
    size = str(wanted_size(spec))
    return [
        {"PLANNER_JOIN": "1", "RANK": str(spec.first_worker + rank), "WORLD_SIZE": size}
        for rank in range(spec.resources.workers)
    ]


def _worker_env(spec: LaunchSpec, rank: int, device: str) -> dict[str, str]:
    """The caller's part, and what a runner adds to every worker."""
    number, own_path = str(spec.first_worker + rank), spec.env.get("PYTHONPATH")
    env = {name: text for name, text in spec.env.items() if name not in _RENDEZVOUS_VARIABLES}
    env |= {
        "PLANNER_RUN_ID": spec.run_id,
        "PLANNER_ATTEMPT": str(spec.attempt),
        "PLANNER_WORKER": number,
        "PLANNER_EVENTS": f"{spec.attempt_dir}/events-{number}.ndjson",
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(spec.resources.workers),
        "OMP_NUM_THREADS": str(_cores(spec)),
        "CUDA_VISIBLE_DEVICES": device,
        "PYTHONPATH": f"{spec.stage_dir}{os.pathsep}{own_path}" if own_path else spec.stage_dir,
    }
    if spec.crew_dir is not None:
        env["PLANNER_CREW_DIR"] = spec.crew_dir
    return env


def _cores(spec: LaunchSpec) -> int:
    return max(1, spec.resources.vcpus_per_node // spec.resources.workers_per_node)
