"""Starting the workers of one launch on this machine, once, all or none.

What was started is written to `launch.json` in the attempt folder by the keeper, before any worker
runs its command. A lock on the folder makes two launches of the same key wait for each other; a
launch that was cut short before that record existed is ended and done again.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL
from typing import Any

import platformdirs

from planner.core.errors import RunnerError
from runners import keeper
from runners.base import LaunchSpec
from runners.localorder import keeper_order
from runners.localplace import LocalSettings, usable_gpus
from runners.localstate import Launch
from runners.metrics import Nvml
from runners.processes import KEEPS_VARIABLE, marked_processes

_LOCK_TIMEOUT_S = 30.0
_INTERPRETER_VARIABLES = ("LD_LIBRARY_PATH",)
"""What this interpreter itself may need to start again as a keeper; no worker gets it from here."""
_LIFELINES: dict[str, subprocess.Popen[bytes]] = {}
"""Keepers of this process's launches, by attempt folder.

Here and not in a runner, since their standard input must stay open for as long as this process
lives: a runner that is thrown away must not take its workers along.
"""


def start_or_find(
    spec: LaunchSpec, settings: LocalSettings, nvml: Nvml, beside: Launch | None = None
) -> Mapping[str, Any]:
    """The record of this launch, started now unless it was before.

    Args:
        spec: What to start.
        settings: The place's.
        nvml: What knows the GPUs.
        beside: The launch that its workers join; None where they start a job of their own.

    Raises:
        RunnerError: Nothing was started; the text says why.
    """
    folder = Path(spec.attempt_dir)
    if not folder.is_dir():
        raise RunnerError(
            f"the attempt folder {folder} does not exist", hint="the caller has to make it"
        )
    with _locked(folder / "launch.lock") as lock_fd:
        record = read_record(folder)
        if record is not None:
            if record["key"] != spec.idempotency_key:
                raise RunnerError(
                    f"{folder} already holds another launch, {record['key']}",
                    hint="every launch needs an attempt folder of its own",
                )
            return record
        path = _check(spec, settings)
        _end_strays(str(folder))
        with _slots(spec, settings, beside), _devices(spec, settings, nvml) as devices:
            return _start(spec, keeper_order(spec, path, devices, lock_fd, beside))


def read_record(folder: Path) -> Mapping[str, Any] | None:
    """What was started in this attempt folder; None when nothing was.

    Raises:
        RunnerError: The record cannot be read.
    """
    try:
        record: dict[str, Any] = json.loads((folder / keeper.RECORD_NAME).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunnerError(
            f"cannot read {folder / keeper.RECORD_NAME}: {error}",
            hint="planner clean shows what may still run",
        ) from error
    return record


def reap_keeper(attempt_dir: str) -> None:
    """Wait for this process's keeper of that folder if it ended, so that no zombie is left."""
    process = _LIFELINES.get(attempt_dir)
    if process is None or process.poll() is None:
        return
    if process.stdin is not None:
        process.stdin.close()
    del _LIFELINES[attempt_dir]


def _check(spec: LaunchSpec, settings: LocalSettings) -> str:
    """The command's file, once everything that can be known before a start is known to be right."""
    workdir, resources = Path(spec.workdir), spec.resources
    if resources.nodes != 1:
        raise RunnerError(
            f"{resources.nodes} machines were asked for, and runner local has one",
            hint="ask for one node",
        )
    if settings.slots is not None and resources.workers > settings.slots:
        raise RunnerError(
            f"{resources.workers} workers do not fit the {settings.slots} slots of this machine",
            hint="raise slots in [[where]], or choose an option with fewer workers",
            code="environment.no_slot",
        )
    if not workdir.is_dir():
        raise RunnerError(
            f"the working folder {workdir} does not exist",
            hint="it is the folder of the job file; check workdir",
            code="environment.workdir",
        )
    if not spec.argv or any("\0" in text for text in spec.argv):
        raise RunnerError(
            "the command is empty or holds a null character", hint="check command in [job]"
        )
    return find_command(spec.argv[0], workdir, spec.env.get("PATH", os.defpath))


def find_command(name: str, workdir: Path, search_path: str) -> str:
    """The file that a command's first word stands for, as a shell would find it.

    Raises:
        RunnerError: There is no such file, or it cannot be executed.
    """
    if "/" in name:
        candidates = [workdir / name]
    else:
        candidates = [workdir / entry / name for entry in search_path.split(os.pathsep)]
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
    if any(candidate.is_file() for candidate in candidates):
        found = next(candidate for candidate in candidates if candidate.is_file())
        raise RunnerError(
            f"the command {name!r} cannot be run: {found} is not executable",
            hint=f"chmod +x {found}, or name its interpreter: python {name}",
            code="environment.command",
        )
    where = f"in {workdir}" if "/" in name else f"on PATH ({search_path})"
    raise RunnerError(
        f"the command {name!r} does not exist {where}",
        hint="check command in [job]; it is not run by a shell, so no aliases and no ~",
        code="environment.command",
    )


def _end_strays(attempt_dir: str) -> None:
    """End what a launch left that died before it had written down what it started."""
    for stray in marked_processes():
        if stray.attempt_dir == attempt_dir:
            stray.process.send(SIGKILL)


@contextmanager
def _slots(spec: LaunchSpec, settings: LocalSettings, beside: Launch | None) -> Iterator[None]:
    """Hold the slots that units of one group share at a place, until the new workers count."""
    if beside is None or settings.slots is None:
        yield
        return
    with _locked(Path(beside.group) / "grow.lock"):
        taken = _live_workers(spec.run_id, beside.group, spec.place.pool)
        if spec.resources.workers + taken > settings.slots:
            raise RunnerError(
                f"{spec.resources.workers} more workers do not fit the {settings.slots} slots of "
                f"this machine: {taken} of this run are there",
                hint="raise slots in [[where]], or ask for fewer workers",
                code="environment.no_slot",
            )
        yield


def _live_workers(run_id: str, group: str, pool: str) -> int:
    """Workers of a group of units that run at one place, as the units' keepers wrote them down."""
    keepers = (m for m in marked_processes() if m.keeper and m.run_id == run_id)
    records = (read_record(Path(m.attempt_dir)) for m in keepers)
    launches = (Launch.of(record) for record in records if record is not None)
    return sum(
        worker.alive()
        for launch in {found.attempt_dir: found for found in launches}.values()
        if (launch.group, launch.pool) == (group, pool)
        for worker in launch.workers
    )


@contextmanager
def _devices(spec: LaunchSpec, settings: LocalSettings, nvml: Nvml) -> Iterator[Sequence[str]]:
    """`CUDA_VISIBLE_DEVICES` by rank. GPUs stay reserved until the workers' processes show them."""
    workers = spec.resources.workers
    if spec.resources.gpus_per_node == 0:
        yield [""] * workers
        return
    runtime = platformdirs.user_runtime_path("train-planner", ensure_exists=True)
    with _locked(runtime / "gpus.lock"):
        taken = {device for process in marked_processes() for device in process.devices}
        wanted = [g for g in usable_gpus(settings, nvml) if g.name == spec.resources.gpu]
        free = [g.uuid for g in wanted if g.uuid not in taken]
        if len(free) < workers:
            raise RunnerError(
                f"{workers} free GPUs ({spec.resources.gpu}) are needed; of {len(wanted)} here, "
                f"{len(wanted) - len(free)} are used by other runs",
                hint="wait for them to end (planner status), or choose fewer workers",
                code="environment.no_slot",
            )
        yield free[:workers]


def _start(spec: LaunchSpec, order: Mapping[str, Any]) -> Mapping[str, Any]:
    folder = spec.attempt_dir
    process = _run_keeper(spec, order["lock_fd"])
    answer = _give_order(process, order)
    if "started" in answer:
        _LIFELINES[folder] = process
        started = read_record(Path(folder))
        if started is not None:
            return started
        answer = {"error": f"{keeper.RECORD_NAME} was removed from {folder}"}
    process.kill()
    process.wait()
    _end_strays(folder)
    (Path(folder) / keeper.RECORD_NAME).unlink(missing_ok=True)
    named = f" ({answer['path']})" if answer.get("path") else ""
    raise RunnerError(
        f"the workers could not be started: {answer['error']}{named}",
        hint=_start_hint(str(answer["error"])),
        code="environment.start",
    )


def _run_keeper(spec: LaunchSpec, lock_fd: int) -> subprocess.Popen[bytes]:
    env = {name: os.environ[name] for name in _INTERPRETER_VARIABLES if name in os.environ}
    env |= {
        "PLANNER_RUN_ID": spec.run_id,
        "PLANNER_ATTEMPT": str(spec.attempt),
        KEEPS_VARIABLE: spec.attempt_dir,
    }
    try:
        with open(f"{spec.attempt_dir}/keeper.err", "ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=env,
                cwd="/",
                pass_fds=(lock_fd,),
                start_new_session=True,
            )
    except OSError as error:
        raise RunnerError(
            f"the workers could not be started: {error}", hint=_start_hint(str(error))
        ) from error


def _give_order(process: subprocess.Popen[bytes], order: Mapping[str, Any]) -> Mapping[str, Any]:
    """Tell the keeper what to start, over a pipe: an environment may hold secrets."""
    if process.stdin is None or process.stdout is None:
        raise RunnerError("the keeper was started without pipes")
    with process.stdout:
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
    answer: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
    return answer or {"error": f"the keeper ended early, see {order['record']['attempt_dir']}"}


def _start_hint(error: str) -> str:
    if "Exec format error" in error:
        return "a script needs a first line that names its interpreter, or: python script.py"
    if "No space left" in error:
        return "free some space in the state directory, or choose another with --state-dir"
    return "nothing was left running; see keeper.err in the attempt folder"


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold an exclusive lock on a file, made when missing. A keeper may inherit and go on with it.

    Raises:
        RunnerError: It cannot be opened, or stays locked.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise RunnerError(
            f"cannot open {path}: {error.strerror}", hint="check the disk and its permissions"
        ) from error
    try:
        until_s = time.monotonic() + _LOCK_TIMEOUT_S
        while not _try_lock(fd):
            if time.monotonic() > until_s:
                raise RunnerError(
                    f"{path} has been locked by another launch for {_LOCK_TIMEOUT_S:.0f} s",
                    hint="planner clean shows what runs",
                )
            time.sleep(0.02)
        yield fd
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
