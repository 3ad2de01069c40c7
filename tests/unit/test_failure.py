"""Why a job failed, told from what it left."""

from __future__ import annotations

import pytest

from planner.services.failure import (
    describe_exit,
    guilty_rank,
    is_out_of_memory,
    last_error_line,
    log_lines,
    was_killed_for_memory,
)
from runners.base import Status, WorkerState, WorkerStatus

TRACEBACK = """\
/lib/x.py:3: UserWarning: something old
Traceback (most recent call last):
  File "train.py", line 3, in <module>
    import nothing_like_this
ModuleNotFoundError: No module named 'nothing_like_this'
"""


@pytest.mark.parametrize(
    ("stderr", "line"),
    [
        (TRACEBACK, "ModuleNotFoundError: No module named 'nothing_like_this'"),
        (TRACEBACK + "[W socket.cpp:697] shutting down\n", TRACEBACK.splitlines()[-1]),
        ("[rank1]: RuntimeError: boom\n", "RuntimeError: boom"),
        ("torch.cuda.OutOfMemoryError: CUDA out of memory.\n",) * 1
        + ("torch.cuda.OutOfMemoryError: CUDA out of memory.",),
        (
            "train.py: error: unrecognized arguments: --x\n",
            "train.py: error: unrecognized arguments: --x",
        ),
        ("KeyboardInterrupt\n", "KeyboardInterrupt"),
        ("", None),
        ("\n  \n", None),
    ],
)
def test_the_line_that_says_why(stderr: str, line: str | None) -> None:
    assert last_error_line(stderr) == line


def test_secrets_are_not_repeated() -> None:
    said = "ValueError: HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz0123456789 was refused\n"
    assert "hf_abcdefghij" not in (last_error_line(said) or "")
    assert "hf_abcdefghij" not in "".join(log_lines(said))


@pytest.mark.parametrize(
    "said",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "RuntimeError: CUDA error: out of memory",
        "MemoryError",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 4096 bytes.",
        "OSError: [Errno 12] Cannot allocate memory",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.28 TiB for an array",
    ],
)
def test_words_of_a_program_that_ran_out_of_memory(said: str) -> None:
    assert is_out_of_memory(f"Traceback\n{said}\n")


def test_other_words_are_no_out_of_memory() -> None:
    assert not is_out_of_memory("ValueError: memory bank must be 2-D\nMemory: 3 GB free\n")


def test_a_kill_counts_as_out_of_memory_only_near_the_capacity() -> None:
    assert was_killed_for_memory((-9,), 95, 100)
    assert not was_killed_for_memory((-9,), 50, 100)
    assert not was_killed_for_memory((1,), 95, 100)
    assert not was_killed_for_memory((-9,), None, 100)


def ended(*codes: int) -> Status:
    return Status(
        workers=tuple(
            WorkerStatus(rank=r, state=WorkerState.EXITED, exit_code=c) for r, c in enumerate(codes)
        )
    )


def test_the_worker_that_failed_is_blamed_and_not_its_echo() -> None:
    echo = "RuntimeError: [gloo/transport/tcp/pair.cc] Connection closed by peer\n"
    assert guilty_rank(ended(1, 1), [echo, "ValueError: bad image\n"]) == 1
    assert guilty_rank(ended(1, -9), [echo, ""]) == 1
    assert guilty_rank(ended(0, 1), ["ValueError: harmless\n", "KeyError: 'x'\n"]) == 1


def test_log_lines_are_the_last_and_short() -> None:
    lines = log_lines("\n".join(["x" * 1000, *map(str, range(50))]), 5)
    assert lines == ("45", "46", "47", "48", "49")
    assert len(log_lines("x" * 10_000)[0]) <= 400


@pytest.mark.parametrize(
    ("code", "words"),
    [(1, "exit code 1"), (-9, "SIGKILL"), (-200, "signal 200"), (None, "lost")],
)
def test_exits_in_words(code: int | None, words: str) -> None:
    assert words in describe_exit(code)
