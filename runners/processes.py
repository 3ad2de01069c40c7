"""Processes of ours on this machine: which they are, whether they live, how to end them.

A bare process id is never trusted: ids are reused. A process is named by its id and its start in
clock ticks, within one boot of one machine. Every process of ours carries `PLANNER_RUN_ID` in its
environment, and so does every child that did not drop it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runners.keeper import start_ticks

KEEPS_VARIABLE = "PLANNER_KEEPS"
"""Marks a keeper: the attempt folder whose workers it keeps."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process of this boot, for ever distinct from later ones with the same number."""

    pid: int
    start_ticks: int

    def alive(self) -> bool:
        """Whether exactly this process still runs (a zombie does not)."""
        return start_ticks(self.pid) == self.start_ticks

    def send(self, number: signal.Signals) -> None:
        """Signal exactly this process; nothing happens when it is gone."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The descriptor holds the process, so that the number cannot be reused in between.
            if self.alive():
                signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A process that carries planner's mark.

    Attributes:
        attempt_dir: Folder of the launch that it belongs to; empty when it does not say.
        worker: Number of the worker that it is or descends from; None when it does not say.
        devices: Its `CUDA_VISIBLE_DEVICES`; empty without a GPU.
    """

    process: ProcessId
    run_id: str
    attempt_dir: str
    worker: int | None
    keeper: bool
    devices: tuple[str, ...]


def boot_id() -> str:
    """Identifies this boot of this machine (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def marked_processes() -> tuple[Marked, ...]:
    """All processes of this user, but for the caller's own, that carry planner's mark."""
    return tuple(found for pid in _own_pids() if (found := _marked(pid)) is not None)


def launch_processes(
    attempt_dir: str, workers: Iterable[ProcessId], numbers: Collection[int] | None = None
) -> frozenset[ProcessId]:
    """Everything alive that belongs to one launch, its keeper not included.

    That is: processes with the mark of its attempt folder, those in the session of a worker that
    still lives, and all descendants of both (a child that dropped its environment is found so).

    Args:
        attempt_dir: Folder of the launch.
        workers: Its workers, or some of them.
        numbers: Only what is marked with one of these worker numbers; None is the whole launch.
    """
    marks = {
        m.process
        for m in marked_processes()
        if m.attempt_dir == attempt_dir and not m.keeper
        if numbers is None or m.worker in numbers
    }
    alive = {w for w in workers if w.alive()}
    sessions = {w.pid for w in alive}
    table = {row.process.pid: row for row in _process_table()}
    found = {p.pid for p in marks | alive} | {
        pid for pid, row in table.items() if row.session in sessions
    }
    grew = True
    while grew:
        children = {pid for pid, row in table.items() if row.parent in found} - found
        found |= children
        grew = bool(children)
    return frozenset(marks | alive | {table[pid].process for pid in found if pid in table})


def command_line(process: ProcessId) -> str:
    """What the process was started as; empty when it is gone."""
    try:
        raw = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return raw.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class _Row:
    process: ProcessId
    parent: int
    session: int


def _own_pids() -> Iterator[int]:
    me, user = os.getpid(), os.geteuid()
    with os.scandir("/proc") as entries:
        for entry in entries:
            if not entry.name.isdigit() or int(entry.name) == me:
                continue
            try:
                owner = entry.stat().st_uid
            except FileNotFoundError:
                continue
            if owner == user:
                yield int(entry.name)


def _marked(pid: int) -> Marked | None:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # it just ended, or is not ours to look into: then it is not ours to end
    if b"PLANNER_RUN_ID=" not in raw:
        return None
    pairs = (item.partition(b"=") for item in raw.split(b"\0"))
    env = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
    ticks = start_ticks(pid)
    if ticks is None or "PLANNER_RUN_ID" not in env:
        return None
    keeps = env.get(KEEPS_VARIABLE, "")
    worker = env.get("PLANNER_WORKER", "")
    return Marked(
        process=ProcessId(pid, ticks),
        run_id=env["PLANNER_RUN_ID"],
        attempt_dir=keeps or os.path.dirname(env.get("PLANNER_EVENTS", "")),
        worker=int(worker) if worker.isdigit() else None,
        keeper=bool(keeps),
        devices=tuple(d for d in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if d),
    )


def _process_table() -> Iterator[_Row]:
    for pid in _own_pids():
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] not in (b"Z", b"X"):
            yield _Row(ProcessId(pid, int(fields[19])), int(fields[1]), int(fields[3]))
