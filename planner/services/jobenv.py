"""What a worker is started with: its argument vector and its whole environment.

Both are built from the job and from nothing else, so that a run does not depend on what happens
to be exported in the shell that launched it. The variables are those of
docs/training-script.md, "Environment of a worker".
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from planner.config.command import PLACEHOLDERS
from planner.core.errors import ConfigError, UsageError
from planner.core.job import JobSpec
from planner.core.types import Knobs, ResourceConfig

BASIC_VARIABLES = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "SHELL",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
)
"""Passed on from the caller's environment when set there."""

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_PYTHON = re.compile(r"python(3(\.\d+)?)?")
# A tool installed on its own (pipx, uv tool) lives in an environment without the user's packages.
_ISOLATED_TOOL_MARKS = ("pipx_metadata.json", "uv-receipt.toml")


def render_argv(
    job: JobSpec,
    *,
    resources: ResourceConfig,
    knobs: Knobs,
    run_id: str,
    data: str | None,
    checkpoint_dir: str,
    output_dir: str,
) -> tuple[str, ...]:
    """The command with its placeholders filled in: one element for each of the template's.

    A value stays inside its argument whatever characters it holds: nothing is split again, no
    shell reads it, and braces within a value are left alone. Braces that do not enclose a plain
    name (`{"lr": 0.1}`) are ordinary text.

    Args:
        job: Its command is the template.
        resources: Gives `{workers}`.
        knobs: Give the batch sizes, `{loader_workers}`, `{precision}` and what workers share.
        run_id: Run or probe.
        data: The data set or its slice; None when the job has none.
        checkpoint_dir: Absolute folder of the checkpoints.
        output_dir: Absolute folder for whatever else the script keeps.

    Raises:
        ConfigError: The template names an unknown placeholder, or `{data}` without a data set.
    """
    values = {
        "data": data,
        "epochs": str(job.epochs),
        "micro_batch": str(knobs.micro_batch),
        "global_batch": str(knobs.global_batch),
        "workers": str(resources.workers),
        "loader_workers": str(knobs.loader_workers),
        "run_id": run_id,
        "checkpoint": checkpoint_dir,
        "output": output_dir,
        "seed": str(job.seed),
        "precision": knobs.precision,
        "tensor_parallel": str(knobs.tensor_parallel),
        "pipeline_parallel": str(knobs.pipeline_parallel),
    }
    where = job.source or "the command"
    return tuple(
        _PLACEHOLDER.sub(lambda found: _value_of(found.group(1), values, where), argument)
        for argument in job.command
    )


def _value_of(name: str, values: Mapping[str, str | None], where: str) -> str:
    if name not in values:
        near = difflib.get_close_matches(name, PLACEHOLDERS, n=1)
        meant = f"Did you mean {{{near[0]}}}? " if near else ""
        known = " ".join(f"{{{p}}}" for p in PLACEHOLDERS)
        raise ConfigError(
            f"{where}: unknown placeholder {{{name}}} in job.command",
            hint=f"{meant}Known are {known}.",
        )
    value = values[name]
    if value is None:
        raise ConfigError(
            f"{where}: job.command uses {{{name}}}, but the job names no {name}",
            hint=f'Add {name} = "..." under [job], or take {{{name}}} out of the command.',
        )
    return value


def uses_placeholder(job: JobSpec, *names: str) -> bool:
    """Whether the command template names any of these placeholders."""
    found = {name for argument in job.command for name in _PLACEHOLDER.findall(argument)}
    return not found.isdisjoint(names)


def worker_env(
    job: JobSpec,
    *,
    resources: ResourceConfig,
    knobs: Knobs,
    run_id: str,
    attempt: int,
    control: str,
    checkpoint_dir: str,
    output_dir: str,
    probe_steps: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The complete environment of a worker, but for what the runner adds.

    It holds the basic variables, those that the job names under `env`, and planner's own; never
    anything else. Batch sizes that are not known (0) are left out: the script then keeps its own.

    Args:
        job: Names the variables to pass on.
        resources: The shape that is started.
        knobs: Batch sizes (0 when not known), loader workers, checkpoint interval, and what
            workers share.
        run_id: Run or probe; every process carries it.
        attempt: Counts the launches of this run, from 1.
        control: Path of the control file; it may not exist yet.
        checkpoint_dir: Absolute folder of the checkpoints.
        output_dir: Absolute folder for whatever else the script keeps.
        probe_steps: Optimiser steps of a probe; None in a run.
        environ: The caller's environment; None takes this process's.

    Raises:
        UsageError: A variable that the job names is not set.
    """
    caller = os.environ if environ is None else environ
    env = _passed_on(job, caller) | {
        "PLANNER_RUN_ID": run_id,
        "PLANNER_ATTEMPT": str(attempt),
        "PLANNER_CONTROL": control,
        "PLANNER_CHECKPOINT_DIR": checkpoint_dir,
        "PLANNER_CHECKPOINT_INTERVAL_S": f"{knobs.checkpoint_interval_s:g}",
        "PLANNER_OUTPUT_DIR": output_dir,
        "PLANNER_SEED": str(job.seed),
    }
    batches = {"GLOBAL": knobs.global_batch, "MICRO": knobs.micro_batch}
    env |= {f"PLANNER_{name}_BATCH": str(size) for name, size in batches.items() if size > 0}
    if job.loader_workers is not None or knobs.loader_workers > 0:
        env["PLANNER_LOADER_WORKERS"] = str(knobs.loader_workers)
    if job.model is not None:
        env["PLANNER_TENSOR_PARALLEL"] = str(knobs.tensor_parallel)
        env["PLANNER_PIPELINE_PARALLEL"] = str(knobs.pipeline_parallel)
    if probe_steps is not None:
        env["PLANNER_PROBE_STEPS"] = str(probe_steps)
    return env


def _passed_on(job: JobSpec, caller: Mapping[str, str]) -> dict[str, str]:
    """What a worker gets of the caller's environment. Raises `UsageError`."""
    missing = [name for name in job.env if name not in caller]
    if missing:
        names = ", ".join(missing)
        where = job.source or f"job {job.name}"
        verb = "is" if len(missing) == 1 else "are"
        raise UsageError(
            f"{where} passes {names} on to the workers, but {names} {verb} not set",
            hint=f"export {missing[0]}=... before calling planner, or drop it from env in [job].",
            code="usage.env_missing",
        )
    env = {name: caller[name] for name in (*BASIC_VARIABLES, *job.env) if name in caller}
    return env | {"PATH": search_path(job.command, caller)}


def search_path(command: tuple[str, ...], caller: Mapping[str, str]) -> str:
    """PATH of the workers.

    With a command that starts with `python`, and no virtual environment active in the caller's
    shell, the folder of planner's own interpreter comes first, so that `.venv/bin/planner run`
    uses the packages of `.venv`; a planner that was installed as an isolated tool (pipx, uv tool)
    leaves PATH alone.
    """
    path = caller.get("PATH", os.defpath)
    in_environment = "VIRTUAL_ENV" in caller or "CONDA_PREFIX" in caller
    isolated = any((Path(sys.prefix) / mark).exists() for mark in _ISOLATED_TOOL_MARKS)
    if not command or not _PYTHON.fullmatch(command[0]) or in_environment or isolated:
        return path
    # Not resolved: the interpreter of a virtual environment is often a link out of it.
    folder = str(Path(sys.executable).parent)
    return path if path.split(os.pathsep)[0] == folder else folder + os.pathsep + path
