"""Who may write a run's journal: one process at a time, and how others can tell that it lives."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from planner.core.errors import PlannerError, StoreError
from planner.store.files import read_json, write_atomic
from planner.store.layout import RunDir


class SupervisedError(PlannerError):
    """The run has a living supervisor, which alone may change it."""

    default_code = "run.supervised"


@contextmanager
def held(run: RunDir, timeout_s: float = 0.0) -> Iterator[None]:
    """Hold the run's lock: the right to write its journal.

    The operating system gives the lock back when the process ends, however it ends.

    Raises:
        SupervisedError: Another process holds it.
        StoreError: The lock cannot be made.
    """
    lock = FileLock(run.lock)
    try:
        lock.acquire(timeout=timeout_s, poll_interval=0.05)
    except Timeout as error:
        raise SupervisedError(
            f"run {run.run_id} is looked after by another process",
            hint=f"planner attach {run.run_id}",
        ) from error
    except OSError as error:
        raise StoreError(
            f"cannot lock {run.lock}: {error}", hint="check the state directory"
        ) from error
    try:
        yield
    finally:
        lock.release()


def sign_in(run: RunDir) -> None:
    """Write down that this process is the run's supervisor. Raises `StoreError`."""
    pid = os.getpid()
    who = {"pid": pid, "create_time": _create_time(pid), "host": socket.gethostname()}
    write_atomic(run.supervisor, json.dumps(who))


def sign_out(run: RunDir) -> None:
    """This process is the run's supervisor no longer."""
    run.supervisor.unlink(missing_ok=True)


def supervisor_pid(run: RunDir) -> int | None:
    """The process id of the run's living supervisor on this machine; None when there is none."""
    try:
        who = read_json(run.supervisor)
        pid, created = int(who["pid"]), float(who["create_time"])
    except (StoreError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return pid if supervised_here(run) and _create_time(pid) == created else None


def supervised_here(run: RunDir) -> bool:
    """Whether the run's last supervisor was one of this machine; False when nobody knows."""
    try:
        return bool(read_json(run.supervisor)["host"] == socket.gethostname())
    except (StoreError, KeyError, TypeError):
        return False


def _create_time(pid: int) -> float | None:
    """When a process started: tells it from a later one of the same number. None for zombies."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
