"""Time and memory of predicting one job's steps, beside two peers in the same run.

    python tests/benchmarks/bench_predictors.py

Ten probes, 5,000 configurations, each method in a fresh process: the median of five rounds of fit
and predict (s, and s of the processor), and the largest resident memory of the process (MB), which
holds the imports as well. How good predictions are, `python -m predictors.evaluate` tells.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROUNDS, CONFIGURATIONS = 5, 5000
MOST_S, MOST_MB, MOST_LOAD_S = 0.5, 300, 0.05
METHODS = ("planner", "pollux", "gaussian_process")

Table = dict[str, np.ndarray]


def drawn() -> tuple[Table, np.ndarray, Table]:
    """Ten probes of a job, their times (s), and configurations to predict."""
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 2), (2, 1), (1, 4), (2, 4)]
    rows = np.asarray([(n * p, n, p, m) for n, p in shapes for m in (8, 64)], dtype=float)
    w, n, p, m = rows.T
    step_s = 0.05 + 0.01 * m + 0.02 * np.log2(p) + 0.3 * (n > 1) * (2 - 2 / w)
    nodes = 2.0 ** rng.integers(0, 6, CONFIGURATIONS)
    busiest = rng.integers(1, 9, CONFIGURATIONS).astype(float)
    asked = {
        "workers": nodes * busiest,
        "nodes": nodes,
        "workers_per_node": busiest,
        "micro_batch": rng.integers(4, 128, CONFIGURATIONS).astype(float),
    }
    return dict(zip(asked, rows.T, strict=True)), step_s, asked


def method(name: str) -> Callable[[Table, np.ndarray, Table], object]:
    """Fit and predict, as a function of probes, their times and what is asked."""
    if name == "planner":
        from predictors.prior import bundled
        from predictors.step_time import StepTimeRegressor

        def ours(probes: Table, step_s: np.ndarray, asked: Table) -> object:
            shipped = bundled()
            model = StepTimeRegressor(prior=shipped.of("T4"), residual=shipped.residual)
            return model.fit(probes, step_s).predict_distribution(asked)

        return ours
    from predictors.evaluate.data import Measurements
    from predictors.evaluate.peers import PEERS
    from predictors.evaluate.tasks import Question

    def peer(probes: Table, step_s: np.ndarray, asked: Table) -> object:
        question = Question(
            task="A2",
            job="drawn",
            gpu="T4",
            probes=probes,
            probe_s=step_s,
            probe_sync_s=np.full(len(step_s), np.nan),
            asked=asked,
            training=Measurements(),
        )
        return PEERS[name](question)

    return peer


def measure(name: str) -> dict[str, float]:
    """Times (s) and memory (MB) of one method in this process."""
    probes, step_s, asked = drawn()
    run = method(name)
    load_s = 0.0
    if name == "planner":
        from predictors.prior import bundled

        started = time.perf_counter()
        bundled()
        load_s = time.perf_counter() - started
    run(probes, step_s, asked)  # imports
    walls, cpus = [], []
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        run(probes, step_s, asked)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "wall_s": float(np.median(walls)),
        "cpu_s": float(np.median(cpus)),
        "memory_mb": peak_mb,
        "load_s": load_s,
    }


def main() -> int:
    """Measure every method; 1 where planner's own is over a limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, help="measure this one here, print JSON")
    args = parser.parse_args()
    if args.method:
        print(json.dumps(measure(args.method)))
        return 0
    print(f"{'method':18s} {'wall s':>8s} {'cpu s':>8s} {'MB':>6s}")
    found: dict[str, dict[str, float]] = {}
    for name in METHODS:
        command = [sys.executable, str(Path(__file__)), "--method", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = found[name] = json.loads(done.stdout)
        print(f"{name:18s} {row['wall_s']:8.3f} {row['cpu_s']:8.3f} {row['memory_mb']:6.0f}")
    ours = found["planner"]
    print(f"loading the shipped prior: {1000 * ours['load_s']:.1f} ms")
    within = ours["cpu_s"] < MOST_S and ours["memory_mb"] < MOST_MB and ours["load_s"] < MOST_LOAD_S
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
