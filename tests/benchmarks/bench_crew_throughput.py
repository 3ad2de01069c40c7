"""Training of two workers that planner joins, against DistributedDataParallel.

    python -m tests.benchmarks.bench_crew_throughput [WINDOWS]

The same network, data and global batch over gloo on the CPU, one thread a worker. Both jobs run at
the same time and take turns of some seconds, the other one stopped, so that whatever else the
machine does meets both alike; the ratio is that of neighbouring turns.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.bench_adjust import NETS, NetJob, stage, variables
from tests.support.netbench import SCRIPT
from tests.support.sdkbench import Bench

WINDOWS = 8
WINDOW_S = {"small": 3.0, "resnet18": 8.0}
TARGET = 0.97


class PlainJob:
    """The same training with DistributedDataParallel, without planner."""

    def __init__(self, folder: Path, net: str) -> None:
        script = folder / "plain.py"
        script.write_text(SCRIPT)
        self.logs = [folder / f"plain-{rank}.txt" for rank in range(2)]
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(script)],
                env={
                    "PATH": os.environ["PATH"],
                    "PLAIN": "1",
                    "NET": net,
                    "BATCH": str(NETS[net]),
                    "EPOCHS": "100000",
                    "SEEN": str(self.logs[rank]),
                    "RANK": str(rank),
                    "WORLD_SIZE": "2",
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": "29571",
                    "OMP_NUM_THREADS": "1",
                },
                start_new_session=True,
            )
            for rank in range(2)
        ]

    def steps(self) -> int:
        """Steps that rank 0 has done."""
        return len(self.logs[0].read_text().splitlines()) if self.logs[0].exists() else 0


def turn(processes: list[subprocess.Popen[str]], number: signal.Signals) -> None:
    """Stop a job, or let it go on."""
    for process in processes:
        os.killpg(process.pid, number)


def rates(net: str, folder: Path, windows: int) -> tuple[list[float], list[float]]:
    """Steps a second of planner's job and of the plain one, turn by turn."""
    bench = Bench(Path(tempfile.mkdtemp(dir=folder)), folder / "stage")
    ours = NetJob(bench, SCRIPT, PLANNER_CHECKPOINT_INTERVAL_S=3600, **variables(net))
    plain = PlainJob(folder, net)
    found: tuple[list[float], list[float]] = ([], [])
    try:
        ours.start(2)
        ours.until_steps(20)
        while plain.steps() < 20:
            time.sleep(0.1)
        jobs = [list(ours.processes.values()), plain.processes]
        counts = [lambda: len(ours.seen_path(0).read_text().splitlines()), plain.steps]
        turn(jobs[1], signal.SIGSTOP)
        for _ in range(windows):
            for mine in (0, 1):
                turn(jobs[1 - mine], signal.SIGSTOP)
                turn(jobs[mine], signal.SIGCONT)
                time.sleep(0.3)
                began, began_s = counts[mine](), time.perf_counter()
                time.sleep(WINDOW_S[net])
                found[mine].append((counts[mine]() - began) / (time.perf_counter() - began_s))
    finally:
        for process in (*ours.processes.values(), *plain.processes):
            process.kill()
            process.wait()
    return found


def main() -> None:
    """Print a line for each network."""
    windows = int(sys.argv[1]) if len(sys.argv) > 1 else WINDOWS
    with stage() as folder:
        for net in WINDOW_S:
            ours, plain = rates(net, folder, windows)
            ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
            verdict = "ok" if ratio >= TARGET else "MISSED"
            print(
                f"{net:10} {statistics.median(ours):7.2f} steps/s, plain "
                f"{statistics.median(plain):7.2f} steps/s, ratio {ratio:.3f} >={TARGET} {verdict}"
            )


if __name__ == "__main__":
    main()
