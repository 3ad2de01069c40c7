"""What starting planner costs, as multiples of starting Python.

    python tests/benchmarks/bench_startup.py

Medians of 10 runs each. Targets: `planner --help` 15 times `python -I -c pass`, the first frame of
the terminal app 60 times. Byte code is cached, as in any installation. The first frame has come
when the bar with the names of the tabs was written to the terminal.
"""

from __future__ import annotations

import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

RUNS = 10
HEAVY = ("torch", "sklearn", "xgboost", "boto3", "submitit", "textual", "pandas")
LEAVE = "PLANNER_TUI_EXIT_AFTER_FIRST_FRAME"
LAST_TAB = b"History"
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def median_s(measure: Callable[[], float]) -> float:
    measure()  # fills the caches
    return statistics.median(measure() for _ in range(RUNS))


def until_the_end_s(command: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=ENVIRONMENT
    )
    return time.perf_counter() - start


def until_the_first_frame_s(command: Sequence[str], environment: dict[str, str]) -> float:
    """Start on a pseudo-terminal and read what is drawn; the app leaves by itself."""
    start = time.perf_counter()
    pid, master = pty.fork()
    if pid == 0:
        os.execve(command[0], list(command), environment)
    drawn, first_s = b"", None
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other side is closed
            break
        drawn += part
        if first_s is None and LAST_TAB in drawn:
            first_s = time.perf_counter() - start
        if not part:
            break
    os.close(master)
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0 or first_s is None:
        raise SystemExit(f"{' '.join(command)}: no first frame in {drawn[-2000:]!r}")
    return first_s


def heavy_modules(arguments: Sequence[str]) -> list[str]:
    """Which heavy libraries a call of planner loads."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['planner', *{list(arguments)!r}]\n"
        "from planner.cli.main import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return sorted(set(HEAVY) & {name.partition(".")[0] for name in ended.stderr.split()})


def show(name: str, seconds: float, reference_s: float, target: float) -> None:
    ratio = seconds / reference_s
    verdict = "ok" if ratio <= target else "OVER"
    print(f"{name:<38} {seconds * 1000:7.1f} ms  {ratio:5.1f} x  target {target:4.0f} x  {verdict}")


def main() -> None:
    python, planner = [sys.executable], [sys.executable, "-m", "planner"]
    reference_s = median_s(lambda: until_the_end_s([*python, "-I", "-c", "pass"]))
    print(f"{'python -I -c pass':<38} {reference_s * 1000:7.1f} ms    1.0 x")
    help_s = median_s(lambda: until_the_end_s([*planner, "--help"]))
    show("planner --help", help_s, reference_s, 15)
    with tempfile.TemporaryDirectory() as state:
        environment = {**ENVIRONMENT, LEAVE: "1", "TERM": "xterm-256color"}
        environment["PLANNER_STATE_DIR"] = state
        live_s = median_s(lambda: until_the_first_frame_s(planner, environment))
        demo_s = median_s(lambda: until_the_first_frame_s([*planner, "--demo"], environment))
    show("first frame of planner", live_s, reference_s, 60)
    show("first frame of planner --demo", demo_s, reference_s, 60)
    print(f"planner --help loads of {', '.join(HEAVY)}: {heavy_modules(['--help']) or 'none'}")


if __name__ == "__main__":
    main()
