"""Step-time prediction against its peers, all in one run: error and interval coverage.

    python tests/benchmarks/bench_predictors.py --data PATH/TO/throughput

`--data` is a folder with `steptime_train.csv` (published measurements; columns in its README). It
is not part of the project; without it jobs are drawn from a law that none of the methods knows.

Task A1: from 3 probes (one GPU at a small and a large batch, two GPUs) to other single-node
placements. Task A2: from 6 (also two nodes at two batches, and four GPUs) to all placements.
Errors are mean absolute percentage errors by job, averaged over jobs.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from planner.core.distribution import I05, I95
from predictors.features import take
from predictors.residual import ResidualModel, features, fit_residual
from predictors.step_law import terms
from predictors.step_time import StepTimeRegressor

Table = dict[str, np.ndarray]
Method = Callable[[Table, np.ndarray, Table], np.ndarray]


@dataclass(frozen=True)
class Job:
    """Measured steps of one job on one kind of GPU: configurations and times in s."""

    name: str
    columns: Table
    step_s: np.ndarray


@dataclass(frozen=True)
class Split:
    """Rows of a job given as probes, and rows to predict."""

    job: Job
    probes: np.ndarray
    targets: np.ndarray


# ---- data ----------------------------------------------------------------------------------


def read_jobs(folder: Path) -> list[Job]:
    """Jobs of the published step times that ran on more than one GPU."""
    groups: dict[str, list[tuple[float, ...]]] = {}
    with (folder / "steptime_train.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["placement"] == "unconsolidated" or not row["num_nodes"]:
                continue
            workers, nodes = float(row["num_gpus"]), float(row["num_nodes"])
            placed = row["placement"]
            busiest = max(map(int, placed)) if placed.isdigit() else np.ceil(workers / nodes)
            name = f"{row['source']}/{row['model']}/{row['gpu_type']}"
            groups.setdefault(name, []).append(
                (workers, nodes, busiest, float(row["local_batch_size"]), float(row["step_time_s"]))
            )
    return [_job(name, rows) for name, rows in groups.items() if max(r[0] for r in rows) > 1]


def draw_jobs(count: int = 12, seed: int = 0) -> list[Job]:
    """Jobs from a law of its own: a power of the batch, and synchronisation that adds up."""
    rng = np.random.default_rng(seed)
    jobs = []
    for i in range(count):
        a, b, power = rng.lognormal(-4, 0.5), rng.lognormal(-5, 0.7), rng.uniform(0.85, 1.0)
        local, remote, load = rng.lognormal(-4, 0.8), rng.lognormal(-2.5, 0.8), rng.uniform(0, 0.4)
        rows = []
        for nodes, busiest in [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 4), (8, 4)]:
            for m in (8, 16, 32, 64, 128):
                compute = a + b * m**power
                sync = local * (busiest > 1) * np.log2(busiest + 1) + remote * (1 - 1 / nodes)
                step = max(compute, load * b * m * busiest) + 0.7 * sync
                rows.append((nodes * busiest, nodes, busiest, m, step * rng.lognormal(0, 0.02)))
        jobs.append(_job(f"drawn/{i}", rows))
    return jobs


def _job(name: str, rows: list[tuple[float, ...]]) -> Job:
    values = np.asarray(rows, dtype=float)
    names = ("workers", "nodes", "workers_per_node", "micro_batch")
    return Job(name, {n: values[:, i] for i, n in enumerate(names)}, values[:, 4])


# ---- tasks ---------------------------------------------------------------------------------


def split(job: Job, wanted: list[tuple[int, int, str]], *, single_node: bool) -> Split | None:
    """Probes by (GPUs, nodes, low or high batch); None when the job was not measured there."""
    c = job.columns
    probes: list[int] = []
    for workers, nodes, batch in wanted:
        here = np.flatnonzero((c["workers"] == workers) & (c["nodes"] == nodes))
        if not len(here):
            return None
        order = here[np.argsort(c["micro_batch"][here], kind="stable")]
        probes.append(int(order[0] if batch == "low" else order[-1]))
    keys = np.stack([c[n] for n in ("workers", "nodes", "workers_per_node", "micro_batch")], axis=1)
    probed = (keys[:, None, :] == keys[None, probes, :]).all(axis=2).any(axis=1)
    targets = np.flatnonzero(~probed & ((c["nodes"] == 1) | (not single_node)))
    return Split(job, np.asarray(probes), targets) if len(targets) else None


A1 = [(1, 1, "low"), (1, 1, "high"), (2, 1, "low")]
A2 = [*A1, (2, 2, "low"), (2, 2, "high"), (4, 1, "low")]


# ---- peers ---------------------------------------------------------------------------------


def _line(columns: Table, step_s: np.ndarray) -> tuple[float, float]:
    """Step time on one GPU as a line in the batch."""
    one = columns["workers"] == 1
    slope, base = np.polyfit(columns["micro_batch"][one], step_s[one], 1)
    return float(base), float(slope)


def linear_ideal(probes: Table, step_s: np.ndarray, asked: Table) -> np.ndarray:
    """Scaling without loss: the one-GPU line at the same batch per GPU."""
    base, slope = _line(probes, step_s)
    return base + slope * asked["micro_batch"]


def amdahl(probes: Table, step_s: np.ndarray, asked: Table) -> np.ndarray:
    """A serial share f of the one-GPU time of the whole batch: T1(wm) (f + (1 - f) / w)."""
    base, slope = _line(probes, step_s)

    def alone(c: Table) -> np.ndarray:
        return base + slope * c["micro_batch"] * c["workers"]

    many = probes["workers"] > 1
    x = (1 - 1 / probes["workers"][many]) * alone(probes)[many]
    y = step_s[many] - alone(probes)[many] / probes["workers"][many]
    f = float(np.clip((x @ y) / (x @ x), 0.0, 1.0))
    return alone(asked) * (f + (1 - f) / asked["workers"])


def ernest(probes: Table, step_s: np.ndarray, asked: Table) -> np.ndarray:
    """Ernest's terms with the batch, non-negative: 1, m, log w, w."""
    from scipy.optimize import nnls

    def design(c: Table) -> np.ndarray:
        w = c["workers"]
        return np.stack([np.ones(len(w)), c["micro_batch"], np.log2(w), w], axis=1)

    weights, _ = nnls(design(probes) / step_s[:, None], np.ones(len(step_s)))
    return design(asked) @ weights


def nearest(probes: Table, step_s: np.ndarray, asked: Table) -> np.ndarray:
    """The step time of the nearest probe, distances in octaves."""
    names = ("workers_per_node", "nodes", "micro_batch")
    here = np.stack([np.log2(asked[n]) for n in names], axis=1)
    there = np.stack([np.log2(probes[n]) for n in names], axis=1)
    return step_s[((here[:, None] - there[None]) ** 2).sum(axis=2).argmin(axis=1)]


PEERS: dict[str, Method] = {
    "linear-ideal": linear_ideal,
    "Amdahl": amdahl,
    "Ernest (NNLS)": ernest,
    "nearest probe": nearest,
}


# ---- ours ----------------------------------------------------------------------------------


def fitted(case: Split, residual: ResidualModel | None = None) -> StepTimeRegressor:
    """The regressor on a case's probes."""
    model = StepTimeRegressor(residual=residual)
    return model.fit(take(case.job.columns, case.probes), case.job.step_s[case.probes])


def residual_from(cases: list[Split]) -> ResidualModel | None:
    """What the law misses of other jobs' targets, from the same kind of probes."""
    tables, misses, jobs = [], [], []
    for case in cases:
        model = fitted(case)
        columns = {
            **model.columns_,
            **take(case.job.columns, case.targets),
        }
        n = len(case.targets)
        columns = {k: v if len(v) == n else np.full(n, v[0]) for k, v in columns.items()}
        law = terms(model.theta_[:1], columns, model.scale_).step[0]
        tables.append(features(model.theta_[:1], columns, model.scale_))
        misses.append(np.log(case.job.step_s[case.targets] / law))
        jobs += [case.job.name] * n
    if not cases:
        return None
    return fit_residual(np.concatenate(tables), np.concatenate(misses), jobs)


def mape(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean absolute percentage error, %."""
    return float(100 * np.mean(np.abs(predicted / true - 1)))


def judge(cases: list[Split], *, by_job: bool) -> None:
    """Print one task's table."""
    errors: dict[str, list[float]] = {name: [] for name in PEERS}
    ours: dict[str, list[tuple[float, float, float]]] = {"step law": [], "step law + trees": []}
    learned = 0
    for case in cases:
        columns, step_s = case.job.columns, case.job.step_s
        probes, asked, true = (
            take(columns, case.probes),
            take(columns, case.targets),
            step_s[case.targets],
        )
        for name, method in PEERS.items():
            errors[name].append(mape(method(probes, step_s[case.probes], asked), true))
        residual = residual_from([c for c in cases if c is not case])
        learned += residual is not None
        for name, correction in (("step law", None), ("step law + trees", residual)):
            model = fitted(case, correction)
            q = model.predict_distribution(asked)
            inside = np.mean((q[:, I05] <= true) & (true <= q[:, I95]))
            width = np.median(q[:, I95] / q[:, I05])
            ours[name].append((mape(model.predict(asked), true), 100 * inside, width))
        if by_job:
            print(
                f"    {case.job.name:44s} n={len(true):5d}"
                f" law {ours['step law'][-1][0]:6.1f} %  inside {ours['step law'][-1][1]:5.1f} %"
            )
    print(
        f"  {'method':20s} {'MAPE %':>7s} {'inside 90 %':>12s} {'worst job':>10s} {'p95/p05':>8s}"
    )
    for name, values in errors.items():
        print(f"  {name:20s} {np.mean(values):7.1f} {'-':>12s} {'-':>10s} {'-':>8s}")
    for name, scores in ours.items():
        error, inside, width = np.mean(np.asarray(scores), axis=0)
        worst = min(s[1] for s in scores)
        print(f"  {name:20s} {error:7.1f} {inside:12.1f} {worst:10.1f} {width:8.2f}")
    if learned < len(cases):
        print(f"  (trees were learned for {learned} of {len(cases)} jobs; else they are absent)")


def main() -> None:
    """Run both tasks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with steptime_train.csv")
    parser.add_argument("--by-job", action="store_true", help="one line per job")
    args = parser.parse_args()
    real = args.data is not None and (args.data / "steptime_train.csv").is_file()
    jobs = read_jobs(args.data) if real else draw_jobs()
    print(f"step time: {len(jobs)} {'measured' if real else 'drawn'} jobs")
    for title, wanted, single in (("A1: 3 probes", A1, True), ("A2: 6 probes", A2, False)):
        started = time.perf_counter()
        cases = [c for job in jobs if (c := split(job, wanted, single_node=single))]
        rows = sum(len(c.targets) for c in cases)
        print(f"\n{title}, {len(cases)} jobs, {rows} rows to predict")
        judge(cases, by_job=args.by_job)
        print(f"  {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
