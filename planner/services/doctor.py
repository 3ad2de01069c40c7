"""Checks of this machine and of the state directory, each with a fix when it is not well.

Checks only look, but for the state directory, which is made when it is missing: whether that works
is the question. None prints the value of an environment variable.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from planner.config.tomlfile import nearest
from planner.core.errors import PlannerError, UsageError
from planner.core.job import JobSpec
from planner.core.units import format_bytes
from planner.services.api import Check
from planner.store.layout import StateDir, file_system, on_network_disk

_DISTRIBUTION = "train-planner"
_OLDEST_PYTHON = (3, 11)
_SMALLEST_TERMINAL = (80, 24)
_LITTLE_SPACE_BYTES = 5_000_000_000
_NO_SPACE_BYTES = 200_000_000
_LITTLE_MEMORY_BYTES = 1_500_000_000
_JOB_FILE = Path("planner.toml")


def run_checks(
    state_dir: Path, only: Sequence[str] = (), job: JobSpec | None = None
) -> tuple[Check, ...]:
    """All checks, or those whose id or family (`state` of `state.space`) is in `only`.

    Args:
        state_dir: The state directory; it is made when it can be.
        only: Ids and families; empty takes all.
        job: The job whose script is checked; None takes `planner.toml` of the current folder.

    Raises:
        UsageError: `only` names no check.
    """
    checks: dict[str, Callable[[], Check]] = {
        "python": _python,
        "packages": _packages,
        "terminal": _terminal,
        "state.writable": lambda: _state_writable(state_dir),
        "state.space": lambda: _state_space(state_dir),
        "state.disk": lambda: _state_disk(state_dir),
        "clock": _clock,
        "cpu": _cpu,
        "gpu": _gpu,
        "job": lambda: _job(job),
        "leftovers": lambda: _leftovers(state_dir),
        "slurm": _slurm,
        "aws": _aws,
    }
    chosen = _chosen(tuple(checks), only)
    return tuple(_safely(name, check) for name, check in checks.items() if name in chosen)


def _chosen(names: tuple[str, ...], only: Sequence[str]) -> set[str]:
    families = {name.split(".")[0] for name in names}
    for wanted in only:
        if wanted not in names and wanted not in families:
            near = nearest(wanted, (*names, *families))
            meant = f"did you mean {near}? " if near else ""
            raise UsageError(
                f'there is no check "{wanted}"', hint=f"{meant}known: {', '.join(names)}"
            )
    return {n for n in names if not only or n in only or n.split(".")[0] in only}


def _safely(name: str, check: Callable[[], Check]) -> Check:
    """One check's answer; one that cannot be carried out has failed, the others still run."""
    try:
        return check()
    except PlannerError as exc:
        return Check(id=name, state="fail", text=exc.text, fix=exc.hint)
    except OSError as exc:
        return Check(id=name, state="fail", text=f"cannot be checked: {exc}", fix=None)


# ---- what planner runs in --------------------------------------------------------------------


def _python() -> Check:
    text = f"Python {platform.python_version()} ({platform.python_implementation()})"
    if sys.version_info < _OLDEST_PYTHON:
        fix = "install Python 3.11 or newer, and planner into that"
        return Check(id="python", state="fail", text=f"{text} is too old", fix=fix)
    return Check(id="python", state="ok", text=text)


def _packages() -> Check:
    try:
        needed = requires(_DISTRIBUTION) or []
    except PackageNotFoundError:
        fix = "make env, or install train-planner"
        text = "planner runs from a folder that was never installed"
        return Check(id="packages", state="warn", text=text, fix=fix)
    names = [_requirement_name(line) for line in needed if "extra ==" not in line]
    missing, found = [], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        fix = "install train-planner again"
        return Check(id="packages", state="fail", text=f"missing: {', '.join(missing)}", fix=fix)
    shown = f"{_DISTRIBUTION} {version(_DISTRIBUTION)}; {', '.join(found)}"
    return Check(id="packages", state="ok", text=shown)


def _requirement_name(line: str) -> str:
    end = next((i for i, char in enumerate(line) if char in " <>=!~;[("), len(line))
    return line[:end]


def _terminal() -> Check:
    if not sys.stdout.isatty():
        return Check(id="terminal", state="skip", text="output is not a terminal")
    columns, rows = shutil.get_terminal_size()
    # The app puts something of its own in the place of stdout, which has no encoding.
    named = getattr(sys.stdout, "encoding", None) or getattr(sys.__stdout__, "encoding", None)
    encoding = (named or "").lower().replace("-", "")
    colour = "no colour" if os.environ.get("NO_COLOR") else _colours(os.environ)
    text = f"{columns}x{rows}, {colour}, {named or 'unknown encoding'}"
    if os.environ.get("TERM") in ("dumb", ""):
        fix = "set TERM, for example to xterm-256color"
        return Check(id="terminal", state="warn", text=f"{text}, TERM is dumb", fix=fix)
    if columns < _SMALLEST_TERMINAL[0] or rows < _SMALLEST_TERMINAL[1]:
        fix = "make the window at least 80x24"
        return Check(id="terminal", state="warn", text=f"{text}: too small for the app", fix=fix)
    if encoding != "utf8":
        fix = "use a UTF-8 locale, or start planner with --ascii"
        return Check(id="terminal", state="warn", text=f"{text}: no Unicode", fix=fix)
    return Check(id="terminal", state="ok", text=text)


def _colours(environ: os._Environ[str]) -> str:
    if environ.get("COLORTERM") in ("truecolor", "24bit"):
        return "16 million colours"
    return "256 colours" if "256color" in environ.get("TERM", "") else "16 colours"


def _clock() -> Check:
    now = datetime.now(UTC)
    made = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    zone = datetime.now().astimezone().tzname()
    text = f"{now:%Y-%m-%d %H:%M} UTC, zone {zone}"
    if now < made:
        fix = "set the clock (timedatectl set-ntp true): deadlines and prices depend on it"
        return Check(id="clock", state="fail", text=f"{text} is before planner was made", fix=fix)
    return Check(id="clock", state="ok", text=text)


# ---- the state directory ---------------------------------------------------------------------


def _state_writable(state_dir: Path) -> Check:
    StateDir(state_dir).require_writable()
    return Check(id="state.writable", state="ok", text=str(state_dir))


def _state_space(state_dir: Path) -> Check:
    free = shutil.disk_usage(_existing(state_dir)).free
    text = f"{format_bytes(free)} free"
    fix = "planner clean, or --state-dir on a larger disk"
    if free < _NO_SPACE_BYTES:
        return Check(id="state.space", state="fail", text=f"{text}: no checkpoint fits", fix=fix)
    if free < _LITTLE_SPACE_BYTES:
        return Check(id="state.space", state="warn", text=f"{text}: few checkpoints fit", fix=fix)
    return Check(id="state.space", state="ok", text=text)


def _state_disk(state_dir: Path) -> Check:
    kind = file_system(state_dir) or "unknown"
    if on_network_disk(state_dir):
        text = (
            f"on a network file system ({kind}): the index then keeps a rollback journal instead "
            "of a write-ahead log, and a supervisor is seen as alive from its own machine only"
        )
        fix = "--state-dir on a local disk is faster and safer"
        return Check(id="state.disk", state="warn", text=text, fix=fix)
    return Check(id="state.disk", state="ok", text=f"local file system ({kind})")


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


# ---- what jobs run on ------------------------------------------------------------------------


def _cpu() -> Check:
    import psutil

    from runners.machine import memory_bytes, usable_cores

    cores, memory = usable_cores(), memory_bytes()
    free = psutil.virtual_memory().available
    text = (
        f"{cores} CPU slot{'s' if cores != 1 else ''}, {format_bytes(memory)} of memory, "
        f"{format_bytes(free)} free"
    )
    if free < _LITTLE_MEMORY_BYTES:
        return Check(id="cpu", state="warn", text=text, fix="end what uses the memory")
    return Check(id="cpu", state="ok", text=text)


def _gpu() -> Check:
    from runners.metrics import Nvml, visible

    nvml = Nvml()
    gpus = nvml.gpus()
    if not gpus:
        reason = nvml.unavailable or "NVML names none"
        if Path("/proc/driver/nvidia/version").exists():
            fix = "nvidia-smi shows more; a driver that was just updated needs a restart"
            text = f"a driver is loaded, but no GPU can be used: {reason}"
            return Check(id="gpu", state="fail", text=text, fix=fix)
        text = f"no GPU here ({reason}): jobs run on CPU slots"
        return Check(id="gpu", state="skip", text=text)
    shown = ", ".join(f"{gpu.name} {format_bytes(gpu.memory_bytes)}" for gpu in gpus)
    if not visible(gpus, os.environ):
        fix = "unset CUDA_VISIBLE_DEVICES"
        text = f"{shown}, all hidden by CUDA_VISIBLE_DEVICES"
        return Check(id="gpu", state="warn", text=text, fix=fix)
    return Check(id="gpu", state="ok", text=f"{shown}, driver {_driver_version()}")


def _driver_version() -> str:
    try:
        first = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return "unknown"
    return next((word for word in first.split() if word[:1].isdigit()), "unknown")


def _job(job: JobSpec | None) -> Check:
    from planner.config.command import script_path
    from planner.config.jobfile import load_job

    if job is None and _JOB_FILE.is_file():
        job = load_job(_JOB_FILE, datetime.now(UTC))
    if job is None:
        return Check(id="job", state="skip", text=f"no {_JOB_FILE} in this folder")
    script = script_path(job.command, Path(job.workdir))
    if script is None:
        text = f"{job.name}: the command names no Python script in {job.workdir}"
        return Check(id="job", state="warn", text=text, fix="check the command of the job file")
    if job.tier == 0:
        fix = "three lines make it tier 1: docs/training-script.md"
        text = f"{job.name}: {script.name} is tier 0: no exact progress, no resume in mid-epoch"
        return Check(id="job", state="warn", text=text, fix=fix)
    return Check(id="job", state="ok", text=f"{job.name}: {script.name} is tier 1")


def _leftovers(state_dir: Path) -> Check:
    from planner.services.clean import leftovers

    found = leftovers(state_dir, leaked_only=True)
    if found:
        text = f"still running without an owner: {', '.join(one.text for one in found)}"
        return Check(id="leftovers", state="warn", text=text, fix="planner clean --leaked --yes")
    return Check(id="leftovers", state="ok", text="nothing of planner's runs without an owner")


def _slurm() -> Check:
    return _optional("slurm", "submitit", command="sbatch")


def _aws() -> Check:
    return _optional("aws", "boto3", command=None)


def _optional(extra: str, module: str, *, command: str | None) -> Check:
    """Whether an extra could be used; no runner of this version needs it."""
    has_module = find_spec(module) is not None
    has_command = command is None or shutil.which(command) is not None
    parts = [f"{module} is {'there' if has_module else 'not installed'}"]
    if command is not None:
        parts.append(f"{command} is {'there' if has_command else 'not on PATH'}")
    return Check(id=extra, state="skip", text=f"{'; '.join(parts)}; no runner uses it yet")
