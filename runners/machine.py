"""What this machine lets this process use: cores, memory, a free port."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: its affinity, cut by a container's quota; at least 1."""
    cores = len(os.sched_getaffinity(0))
    quota = _cpu_quota_cores()
    return max(1, cores if quota is None else min(cores, int(quota)))


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, cut by a container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (_number(_CGROUP / "memory.max"), _number(_CGROUP / "memory/memory.limit_in_bytes"))
    return min([total, *(limit for limit in limits if limit)])


def free_port() -> int:
    """A port of the loopback interface that nobody else is given for about a minute.

    A connection is made and closed from the listening side, which leaves the port in TIME_WAIT:
    the system then gives it to no one who asks for any port, yet a server that names it (with
    SO_REUSEADDR, as torch's rendezvous store does) can have it.
    """
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        port: int = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()
            client.recv(1)
    return port


def _cpu_quota_cores() -> float | None:
    """Cores allowed by cgroup v2 or v1; None without a limit."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        old_quota = _number(_CGROUP / "cpu/cpu.cfs_quota_us")
        old_period = _number(_CGROUP / "cpu/cpu.cfs_period_us")
        return old_quota / old_period if old_quota and old_period else None
    return None if quota == "max" else int(quota) / int(period)


def _number(path: Path) -> int | None:
    """The positive number in a file; None when there is no file, or it says that nothing limits."""
    try:
        value = int(path.read_text())
    except (OSError, ValueError):
        return None
    return value if value > 0 else None
