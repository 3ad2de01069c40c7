"""Why a job failed, from its exit codes and the end of what it wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from planner.core.redact import redact
from runners.base import Status, WorkerState

TAIL_BYTES = 65536
LOG_LINES = 20
_LINE_CHARS = 400

_RANK_PREFIX = re.compile(r"^\[(default)?rank\d+\]:\s?")
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Warning|Exit|Interrupt|Fault)\b(:|$)")
_NOISE = re.compile(r"^(Traceback |During handling|The above exception|\s|\[W|\^|~|$)")
_OUT_OF_MEMORY = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError|\bMemoryError\b"
    r"|[Cc]an(no|')t allocate memory|std::bad_alloc|Unable to allocate .* for an array",
)
# What the other workers say after one of them died: true, but not the reason.
_ECHO = re.compile(
    r"Connection (closed by peer|reset|refused)|Broken pipe|NCCL|gloo|process group|socket", re.I
)
NEAR_CAPACITY = 0.85
"""A worker that was killed with so much of its memory in use was killed for it."""


def tail(path: Path, limit: int = TAIL_BYTES) -> str:
    """The end of a text file; empty when there is no such file."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - limit))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def log_lines(text: str, count: int = LOG_LINES) -> tuple[str, ...]:
    """The last lines, without secrets and each of bearable length."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return tuple(redact(line)[:_LINE_CHARS] for line in lines[-count:])


def last_error_line(stderr: str) -> str | None:
    """The line of a program's errors that says why, without secrets; None when it said nothing.

    The last line that names an exception; else the last one that is not a frame of a traceback.
    """
    lines = [_RANK_PREFIX.sub("", line.rstrip()) for line in stderr.splitlines()]
    named = [line for line in lines if _EXCEPTION.match(line) and "Warning" not in line[:40]]
    plain = [line for line in lines if not _NOISE.match(line)]
    for found in (named, plain):
        if found:
            return redact(found[-1])[:_LINE_CHARS]
    return None


def is_out_of_memory(stderr: str) -> bool:
    """Whether a program says that it ran out of memory, of the device or of the machine."""
    return _OUT_OF_MEMORY.search(stderr) is not None


def was_killed_for_memory(
    exit_codes: Sequence[int | None], peak_bytes: int | None, capacity_bytes: int | None
) -> bool:
    """Whether a worker got SIGKILL with nearly all of its memory in use."""
    if -9 not in exit_codes or not peak_bytes or not capacity_bytes:
        return False
    return peak_bytes >= NEAR_CAPACITY * capacity_bytes


def guilty_rank(status: Status, errors: Sequence[str] | Mapping[int, str]) -> int:
    """The worker to blame: one that failed with a reason of its own, not for another's death.

    Args:
        status: How the workers ended.
        errors: The end of each one's standard errors, by rank.
    """
    failed = [w for w in status.workers if w.exit_code or w.state == WorkerState.LOST]
    said = errors if isinstance(errors, Mapping) else dict(enumerate(errors))

    def blame(rank: int) -> tuple[bool, bool, int]:
        line = last_error_line(said[rank])
        return bool(line and _ECHO.search(line)), line is None, rank

    ranks = [w.rank for w in failed if w.rank in said]
    return min(ranks, key=blame, default=0)


def describe_exit(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "was lost"
    if code < 0:
        import signal

        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was ended by {name}"
    return f"ended with exit code {code}"
