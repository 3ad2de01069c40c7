"""How often a real run falls into its own 90 % interval.

    python tests/benchmarks/bench_coverage.py [--runs 10]

Plans and runs the digits example again and again, each time with new probes, and prints predicted
and real time of each. Intervals learn from the runs before, as they do for a user. Two to four
minutes a run; target: 8 of 10.
Other programs on the machine during a run are part of what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
JOB = [str(EXAMPLE / "job.toml"), "--deadline", "10m"]


def planner(state: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "planner", "-q", "--state-dir", state, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def newest_report(state: str) -> dict[str, Any]:
    reports = sorted(Path(state).glob("runs/*/report.json"), key=lambda path: path.stat().st_mtime)
    report: dict[str, Any] = json.loads(reports[-1].read_text())
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    subprocess.run([sys.executable, str(EXAMPLE / "prepare.py")], check=True)
    inside = 0
    errors = []
    print("run  predicted s  90 % interval    real s  inside  test accuracy  load average")
    with tempfile.TemporaryDirectory() as state:
        for number in range(1, runs + 1):
            planner(state, "estimate", *JOB, "--fresh")
            planner(state, "run", *JOB, "--budget", "1", "--yes", "--name", f"run{number}")
            report = newest_report(state)
            time_s = report["time_s"]
            interval = time_s["interval"]
            inside += bool(time_s["within"])
            errors.append(abs(time_s["error"]))
            print(
                f"{number:3d}  {time_s['predicted']['p50']:11.1f}  "
                f"[{interval['lo']:5.1f} - {interval['hi']:5.1f}]  {time_s['real']:6.1f}  "
                f"{'yes' if time_s['within'] else 'no':>6}  "
                f"{report['metrics']['test_accuracy']:13.4f}  {os.getloadavg()[0]:12.2f}",
                flush=True,
            )
    errors.sort()
    verdict = "ok" if inside >= 0.8 * runs else "UNDER"
    print(f"inside: {inside} of {runs}   target 8 of 10   {verdict}")
    print(f"median absolute error of the time: {errors[len(errors) // 2]:.1%}")


if __name__ == "__main__":
    main()
