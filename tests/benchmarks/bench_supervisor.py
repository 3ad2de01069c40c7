"""What a supervisor costs: its share of one core and its memory, while a real run goes on.

    python -m tests.benchmarks.bench_supervisor [SECONDS]

Two workers do steps of 20 ms and log each of them, which is busier than most jobs. The share of
the first seconds (start and launch) is told apart, as it is paid once.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import psutil

from planner.core.job import Goal
from planner.services.runs.runlock import supervisor_pid
from tests.support.localruns import Desk

CPU_LIMIT, MEMORY_LIMIT_MB = 0.01, 150
SETTLE_S = 5.0


def main() -> int:
    """Run, measure, print; 1 when a limit is passed."""
    duration_s = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        goal = Goal(
            deadline_at=desk.now() + timedelta(hours=9), deadline_s=9 * 3600, budget_usd=100.0
        )
        steps = ("--steps", "1000000", "--step-s", "0.02", "--every", "1000")
        run_id = desk.launch(*steps, workers=2, run_s=2e4, goal=goal)
        pid = supervisor_pid(desk.run(run_id))
        assert pid is not None
        supervisor = psutil.Process(pid)
        time.sleep(SETTLE_S)
        start_s, first = sum(supervisor.cpu_times()[:2]), time.monotonic()
        time.sleep(duration_s)
        used_s, wall_s = sum(supervisor.cpu_times()[:2]) - start_s, time.monotonic() - first
        memory_mb = supervisor.memory_info().rss / 1e6
        desk.services.cancel(run_id, now=True)
        desk.rest(run_id)
    share = used_s / wall_s
    print(f"supervisor: {share:.2%} of one core (limit {CPU_LIMIT:.0%})")
    print(f"supervisor: {memory_mb:.0f} MB resident (limit {MEMORY_LIMIT_MB} MB)")
    print(f"supervisor: {start_s:.2f} s of CPU in its first {SETTLE_S:.0f} s")
    return int(share > CPU_LIMIT or memory_mb > MEMORY_LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
