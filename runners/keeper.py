"""The keeper: a small parent of one launch's workers, run as a program of its own.

    python -I -S keeper.py        (started by runners.local; standard library only)

It reads one line of JSON from standard input (what to start), starts all workers or none, writes
down what it started, answers with one line of JSON on standard output, and stays to record how
each worker ends. Standard input doubles as a lifeline: when it closes, whoever launched is gone,
and the workers are told to checkpoint and leave. Why it exists: docs/decisions/002.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from typing import Any

EXITS_NAME = "exits"
RECORD_NAME = "launch.json"
EXIT_WIDTH = 32
"""Bytes of one record in the file of exit codes: written in place, so a full disk loses none."""
_PR_SET_PDEATHSIG = 1
_NOT_STARTED = 127


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is none, or a zombie.

    Together with the boot's id it tells a process from a later one of the same number (proc(5)).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def main() -> int:
    """Start, answer, keep. The exit status tells nothing: the files do."""
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return 1  # whoever launched ended before it had said what to start
    order: dict[str, Any] = json.loads(line)
    lock = int(order["lock_fd"])
    os.set_inheritable(lock, False)
    try:
        exits, pids = _start(order)
    except OSError as error:
        _answer({"error": f"{error.strerror or error}", "path": error.filename})
        return 1
    os.close(lock)
    _answer({"started": True})
    Keeper(pids, exits, grace_s=float(order["stop_grace_s"])).run()
    return 0


def _answer(answer: dict[str, Any]) -> None:
    """One line to whoever launched. That it is gone shows on the lifeline, not here."""
    try:
        os.write(1, json.dumps(answer).encode() + b"\n")
    except BrokenPipeError:
        return


def _start(order: dict[str, Any]) -> tuple[int, list[int]]:
    """Start all workers or none; the open file of exit codes and the process ids by rank."""
    folder = order["record"]["attempt_dir"]
    workers = order["workers"]
    exits = os.open(f"{folder}/{EXITS_NAME}", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    blank = (b" " * (EXIT_WIDTH - 1) + b"\n") * len(workers)
    if os.write(exits, blank) < len(blank):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{folder}/{EXITS_NAME}")
    gate_read, gate_write = os.pipe()
    trouble_read, trouble_write = os.pipe()
    pids: list[int] = []
    try:
        for rank, worker in enumerate(workers):
            pid = os.fork()
            if pid == 0:
                os.close(gate_write)
                _become_worker(order, rank, worker, gate_read, trouble_write)
            pids.append(pid)
        os.close(trouble_write)
        _write_record(order["record"], pids)
        os.write(gate_write, b"g" * len(pids))
        trouble = _read_all(trouble_read)  # ends once every worker runs its command or gave up
        if trouble:
            what = json.loads(trouble.splitlines()[0])
            raise OSError(*what["what"], what["path"])
    except OSError:
        _undo(f"{folder}/{RECORD_NAME}", pids)
        raise
    finally:
        for fd in (gate_read, gate_write, trouble_read):
            os.close(fd)
    return exits, pids


def _become_worker(
    order: dict[str, Any], rank: int, worker: dict[str, Any], gate: int, trouble: int
) -> None:
    """In the child: cut the ties to this process, wait for the gate, run the command."""
    record, keeper = order["record"], os.getppid()
    output = f"{record['attempt_dir']}/worker-{record['first_worker'] + rank}"
    try:
        os.setsid()
        # SIGTERM when the keeper dies; if it died before this line, its death went unnoticed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != keeper or os.read(gate, 1) == b"":
            os._exit(_NOT_STARTED)
        # Ignored signals would stay ignored in the command; Python ignores these two itself.
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        append = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        for fd, path, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, f"{output}.out", append),
            (2, f"{output}.err", append),
        ):
            os.dup2(os.open(path, flags, 0o644), fd)
        os.chdir(order["workdir"])
        os.execve(order["path"], order["argv"], worker["env"])  # noqa: S606  no shell is the point
    except (OSError, ValueError) as error:
        what = (error.errno, error.strerror) if isinstance(error, OSError) else (0, str(error))
        text = {"what": what, "path": getattr(error, "filename", None)}
        os.write(trouble, json.dumps(text).encode() + b"\n")
    finally:
        os._exit(_NOT_STARTED)


def _write_record(record: dict[str, Any], pids: list[int]) -> None:
    """What was started, as a whole or not at all, before any worker runs its command."""
    path = f"{record['attempt_dir']}/{RECORD_NAME}"
    me = os.getpid()
    full = record | {
        "keeper": [me, start_ticks(me)],
        "workers": [[pid, start_ticks(pid)] for pid in pids],
    }
    beside = f"{path}.{me}.tmp"
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(full, file)
    os.rename(beside, path)


def _undo(record: str, pids: Iterable[int]) -> None:
    for pid in pids:
        _signal_group(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    for path in (record, f"{record}.{os.getpid()}.tmp"):
        if os.path.exists(path):
            os.unlink(path)


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 4096):
        parts.append(part)
    return b"".join(parts)


def _signal_group(pid: int, number: int) -> None:
    """Signal a child that was not waited for yet, and its group once it leads one."""
    for tell in (os.killpg, os.kill):
        try:
            tell(pid, number)
        except ProcessLookupError:
            continue
        return


class Keeper:
    """Waits for workers and for the end of whoever launched them."""

    def __init__(self, pids: list[int], exits: int, grace_s: float) -> None:
        self._running = {pid: rank for rank, pid in enumerate(pids)}
        self._exits = exits
        self._grace_s = grace_s
        self._kill_at_s: float | None = None
        self._told_to_end = False

    def run(self) -> None:
        """Record exits until no worker is left."""
        wake_read, wake_write = os.pipe()
        for fd in (wake_read, wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._end)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        watched = [0, wake_read]
        while True:
            self._reap()
            if not self._running:
                return
            ready = select.select(watched, (), (), self._timeout_s())[0]
            if wake_read in ready:
                os.read(wake_read, 4096)
            if 0 in ready and os.read(0, 4096) == b"":
                watched.remove(0)
                self._told_to_end = True
            self._wind_down()

    def _end(self, *_: object) -> None:
        self._told_to_end = True

    def _timeout_s(self) -> float | None:
        return None if self._kill_at_s is None else max(0.0, self._kill_at_s - time.monotonic())

    def _wind_down(self) -> None:
        """With nobody left to watch them: SIGTERM to the workers, and force after the grace."""
        if not self._told_to_end:
            return
        now_s = time.monotonic()
        if self._kill_at_s is None:
            self._kill_at_s = now_s + self._grace_s
            for pid in self._running:
                os.kill(pid, signal.SIGTERM)
        elif now_s >= self._kill_at_s:
            self._kill_at_s = now_s + 1.0
            for pid in self._running:
                _signal_group(pid, signal.SIGKILL)

    def _reap(self) -> None:
        for pid, rank in tuple(self._running.items()):
            look = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if os.waitid(os.P_PID, pid, look) is None:
                continue
            if self._told_to_end:  # nobody will release what the worker left behind
                _signal_group(pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            text = f"{code} {time.time():.3f}".ljust(EXIT_WIDTH - 1) + "\n"
            os.pwrite(self._exits, text.encode(), rank * EXIT_WIDTH)
            del self._running[pid]


if __name__ == "__main__":
    sys.exit(main())
