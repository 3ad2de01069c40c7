"""What `planner estimate` takes when its probes are kept from before.

    python tests/benchmarks/bench_estimate.py

Probes the digits example once (about a minute), then measures the median of five whole commands,
against Python's own start, and says which heavy libraries such a command loads.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 5
TARGET_S = 2.5
HEAVY = ("torch", "sklearn", "xgboost", "pandas", "scipy", "textual")
EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def median_s(command: list[str]) -> float:
    taken = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def heavy_modules(arguments: list[str]) -> list[str]:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['planner', *{arguments!r}]\n"
        "from planner.cli.main import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return sorted(set(HEAVY) & {name.partition(".")[0] for name in ended.stderr.split()})


def main() -> None:
    subprocess.run([sys.executable, str(EXAMPLE / "prepare.py")], check=True)
    with tempfile.TemporaryDirectory() as state:
        arguments = ["-q", "--state-dir", state, "estimate", str(EXAMPLE / "job.toml")]
        arguments += ["--deadline", "10m", "--json"]
        command = [sys.executable, "-m", "planner", *arguments]
        first = subprocess.run(command, check=True, capture_output=True, text=True)
        probes = json.loads(first.stdout)["probes"]
        print(f"probes: {len(probes)}, {sum(p['wall_s'] for p in probes):.1f} s in all")
        reference_s = median_s([sys.executable, "-I", "-c", "pass"])
        cached_s = median_s(command)
        verdict = "ok" if cached_s <= TARGET_S else "OVER"
        print(
            f"planner estimate, probes kept   {cached_s:5.2f} s   {cached_s / reference_s:5.1f} x "
            f"python -I -c pass   target {TARGET_S} s   {verdict}"
        )
        print(f"it loads of {', '.join(HEAVY)}: {', '.join(heavy_modules(arguments)) or 'none'}")


if __name__ == "__main__":
    main()
