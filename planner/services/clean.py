"""What planner left behind, and its removal.

Only planner's own is ever listed: processes that carry the mark of a launch inside this state
directory, and folders at their known places in it. Whatever is in use is left out: a run that has
not ended, a run with a living supervisor, the work folder of a probe that still runs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from planner.core.clock import Clock, SystemClock
from planner.core.errors import CleanupError, PlannerError
from planner.core.types import TERMINAL_STATES
from planner.core.units import DAY_S, HOUR_S, format_bytes
from planner.services.runs.runlock import held, supervisor_pid
from planner.services.runs.shelf import RunShelf
from planner.store.layout import StateDir
from runners.base import Leftover
from runners.processes import Marked, marked_processes
from runners.registry import get_runner, runner_names

KEPT_S = 30 * DAY_S
"""Ended runs and slices are offered for removal after so long, unless the caller says otherwise."""

_FRESH_S = HOUR_S  # a folder without an owner may be about to get one
_FOLDERS = {"run": "runs", "slice": "slices", "probe work": "probes/work"}


def leftovers(
    state_dir: Path,
    *,
    leaked_only: bool = False,
    older_than_s: float | None = None,
    clock: Clock | None = None,
) -> tuple[Leftover, ...]:
    """What may be removed: processes without an owner, and folders older than `older_than_s`.

    Args:
        state_dir: The state directory; it need not exist.
        leaked_only: Only what runs or bills without a run that owns it.
        older_than_s: Age of folders; None takes 30 days for ended runs and slices, and an hour
            for the work of probes that did not tidy up.
        clock: Time.

    Raises:
        StoreError: The state directory cannot be read.
        PlannerError: A runner could not say what it left.
    """
    found = list(_leaked(state_dir))
    if not leaked_only and state_dir.is_dir():
        now = (clock or SystemClock()).now()
        kept = timedelta(seconds=KEPT_S if older_than_s is None else older_than_s)
        fresh = timedelta(seconds=_FRESH_S if older_than_s is None else older_than_s)
        found += _ended_runs(state_dir, now - kept, clock or SystemClock())
        found += _slices(state_dir, now - kept)
        found += _probe_work(state_dir, now - fresh)
    return tuple(found)


def clean(state_dir: Path, chosen: Sequence[Leftover], *, clock: Clock | None = None) -> None:
    """Remove leftovers. One that came into use since it was listed is left alone, and said.

    Raises:
        CleanupError: Something is still there; the text names each with its reason. All others
            were removed.
    """
    current = {(one.kind, one.id) for one in leftovers(state_dir, older_than_s=0, clock=clock)}
    failed: list[str] = []
    for one in chosen:
        try:
            if one.kind in _FOLDERS:
                if _folder(state_dir, one).exists() and (one.kind, one.id) not in current:
                    raise CleanupError("it is in use now")
                _remove_folder(state_dir, one)
            else:
                _remove_elsewhere(one)
        except (OSError, PlannerError) as exc:
            failed.append(f"{one.kind} {one.id}: {exc}")
    if failed:
        raise CleanupError(
            f"{len(failed)} of {len(chosen)} could not be removed: {'; '.join(failed)}",
            hint="planner clean lists what is left",
        )


def size_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
    return total


# ---- processes, and whatever else a runner started ----------------------------------------------


def _leaked(state_dir: Path) -> Iterator[Leftover]:
    marked = {f"{m.process.pid}:{m.process.start_ticks}": m for m in marked_processes()}
    kept_dirs = {m.attempt_dir for m in marked.values() if m.keeper}
    for name in runner_names():
        for one in get_runner(name).leftovers():
            if _is_leaked(state_dir, one, marked.get(one.id), kept_dirs):
                yield one


def _is_leaked(state_dir: Path, one: Leftover, process: Marked | None, kept_dirs: set[str]) -> bool:
    """Whether it belongs to this state directory and nobody looks after it."""
    if process is not None and not _inside(state_dir, process.attempt_dir):
        return False
    if one.run_id is None:
        return False
    run = state_dir / "runs" / one.run_id
    if run.is_dir():
        return supervisor_pid(StateDir(state_dir).run(one.run_id)) is None
    # A probe's keeper ends its workers when the estimate that launched it is gone.
    return process is not None and process.attempt_dir not in kept_dirs


def _inside(state_dir: Path, folder: str) -> bool:
    return bool(folder) and Path(folder).resolve().is_relative_to(state_dir.resolve())


def _remove_elsewhere(one: Leftover) -> None:
    for name in runner_names():
        runner = get_runner(name)
        if any((other.kind, other.id) == (one.kind, one.id) for other in runner.leftovers()):
            runner.remove(one)


# ---- folders ------------------------------------------------------------------------------------


def _ended_runs(state_dir: Path, before: datetime, clock: Clock) -> Iterator[Leftover]:
    shelf = RunShelf(StateDir(state_dir), clock)
    known = shelf.summaries()
    for run in known:
        ended = run.ended_at or run.created_at
        if run.state not in TERMINAL_STATES or ended >= before or shelf.alive(run.id):
            continue
        folder = state_dir / "runs" / run.id
        what = f"{run.name}, {run.state}, with checkpoints and output: {_size(folder)}"
        yield Leftover(kind="run", id=run.id, run_id=run.id, text=what, since=ended)
    names = {run.id for run in known}
    for folder, since in _folders(state_dir, "run"):
        if folder.name not in names and since < before and not (folder / "journal.ndjson").exists():
            what = f"never started: {_size(folder)}"
            yield Leftover(kind="run", id=folder.name, run_id=folder.name, text=what, since=since)


def _slices(state_dir: Path, before: datetime) -> Iterator[Leftover]:
    if any(_inside(state_dir, process.attempt_dir) for process in marked_processes()):
        return  # one of them may read a slice
    for folder, since in _folders(state_dir, "slice"):
        if since < before:
            what = f"slice of a data set, made again when needed: {_size(folder)}"
            yield Leftover(kind="slice", id=folder.name, run_id=None, text=what, since=since)


def _probe_work(state_dir: Path, before: datetime) -> Iterator[Leftover]:
    busy = [Path(process.attempt_dir).resolve() for process in marked_processes()]
    for folder, since in _folders(state_dir, "probe work"):
        if since < before and not any(path.is_relative_to(folder.resolve()) for path in busy):
            what = f"files of a probe that was cut off: {_size(folder)}"
            yield Leftover(kind="probe work", id=folder.name, run_id=None, text=what, since=since)


def _folders(state_dir: Path, kind: str) -> Iterator[tuple[Path, datetime]]:
    """Real folders at the place of a kind, and when each last changed."""
    place = state_dir / _FOLDERS[kind]
    if not place.is_dir():
        return
    for folder in sorted(place.iterdir()):
        if folder.is_dir() and not folder.is_symlink():
            yield folder, datetime.fromtimestamp(folder.stat().st_mtime, UTC)


def _folder(state_dir: Path, one: Leftover) -> Path:
    """The folder of a leftover.

    Raises:
        CleanupError: It would not be a folder of its kind inside the state directory.
    """
    place = state_dir.resolve() / _FOLDERS[one.kind]
    folder = place / one.id
    plain = one.id not in ("", ".", "..") and "/" not in one.id and "\0" not in one.id
    if not plain or folder.is_symlink() or place.resolve() != place:
        raise CleanupError(f"{folder} is not a folder of planner's")
    return folder


def _remove_folder(state_dir: Path, one: Leftover) -> None:
    folder = _folder(state_dir, one)
    if not folder.exists():
        return
    if one.kind == "run":
        # With the lock held nobody can resume the run while its files go.
        with held(StateDir(state_dir).run(one.id)):
            shutil.rmtree(folder)
    else:
        shutil.rmtree(folder)


def _size(folder: Path) -> str:
    return format_bytes(size_bytes(folder))
