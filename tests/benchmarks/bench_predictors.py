"""Step-time prediction against its peers, all in one run: error and interval coverage.

    python tests/benchmarks/bench_predictors.py --data PATH/TO/throughput

`--data` is a folder with `steptime_train.csv` (published measurements; columns in its README). It
is not part of the project; without it jobs are drawn from a law that none of the methods knows.

Task A1: from 3 probes (one GPU at a small and a large batch, two GPUs) to other single-node
placements. Task A2: from 6 (also two nodes at two batches, and four GPUs) to all placements.
Errors are mean absolute percentage errors by job, averaged over jobs.

Trees are learned from other models only (a model on another GPU is the same model), or with
`--hold-out gpu` from other GPU types only.

The shipped prior of the law was set by people who had seen the published jobs. Two further rows
tell what that is worth. "blind prior" knows no job: one guess for every share, and the plain ring.
"tuned on others" takes, for each job, the best of 24 priors drawn around the blind one by their
error on jobs of other models (or GPU types): nothing of what is predicted went into it.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np

from planner.core.distribution import I05, I95
from predictors import step_law
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

    @property
    def model(self) -> str:
        """What is trained: Pollux's cifar10 is a ResNet-18 as well."""
        model = self.name.split("/")[1]
        return {"cifar10": "ResNet-18"}.get(model, model)

    @property
    def gpu(self) -> str:
        """GPU type; drawn jobs are each on one of their own."""
        return self.name.rsplit("/", maxsplit=1)[1]


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
        jobs += [case.job.model] * n  # one job, whatever it ran on, as its fingerprint is one
    if not cases:
        return None
    return fit_residual(np.concatenate(tables), np.concatenate(misses), jobs)


# ---- held out ------------------------------------------------------------------------------

_CANDIDATES = 24
_BLIND = dict.fromkeys(step_law.PARAMETERS, 0.1) | {"per_sample": 0.9, "overlap": 1.0, "growth": 1}


def priors() -> list[np.ndarray]:
    """Medians of priors: the blind one, then others drawn around it by a factor of 3."""
    blind = np.asarray([_BLIND[name] for name in step_law.PARAMETERS])
    factors = np.random.default_rng(0).lognormal(0, np.log(3), (_CANDIDATES - 1, len(blind)))
    return [blind, *(blind * f for f in factors)]


@contextmanager
def prior_of(median: np.ndarray) -> Iterator[None]:
    """Use a prior with these medians; how wide it is stays the same."""
    sd = step_law.prior(on_cpu=False)[1]
    with mock.patch.object(step_law, "prior", lambda on_cpu: (np.log(median), sd)):
        yield


def others_of(case: Split, cases: list[Split], hold_out: str) -> list[Split]:
    """The cases that share neither model (or GPU) with one."""
    group = getattr(case.job, hold_out)
    return [c for c in cases if getattr(c.job, hold_out) != group]


def tuned_on(others: list[Split], error_of: Callable[[str, int], float]) -> int:
    """Number of the prior with the least mean error on some cases."""
    means = [np.mean([error_of(c.job.name, i) for c in others]) for i in range(_CANDIDATES)]
    return int(np.argmin(means))


def held_out(cases: list[Split], hold_out: str) -> dict[str, list[tuple[float, float, float]]]:
    """Error, coverage and width by job under the blind prior, and under one tuned on others."""
    by_name, drawn = {case.job.name: case for case in cases}, priors()

    @cache
    def scores(name: str, number: int) -> tuple[float, float, float]:
        with prior_of(drawn[number]):
            return score(by_name[name])

    found: dict[str, list[tuple[float, float, float]]] = {"blind prior": [], "tuned on others": []}
    for case in cases:
        found["blind prior"].append(scores(case.job.name, 0))
        others = others_of(case, cases, hold_out)
        if others:
            best = tuned_on(others, lambda name, number: scores(name, number)[0])
            found["tuned on others"].append(scores(case.job.name, best))
    return {name: rows for name, rows in found.items() if len(rows) == len(cases)}


def score(case: Split, residual: ResidualModel | None = None) -> tuple[float, float, float]:
    """Error (%), share inside the 90 % interval (%), and width p95/p05 on a case's targets."""
    asked, true = take(case.job.columns, case.targets), case.job.step_s[case.targets]
    model = fitted(case, residual)
    q = model.predict_distribution(asked)
    inside = np.mean((q[:, I05] <= true) & (true <= q[:, I95]))
    width = float(np.median(q[:, I95] / q[:, I05]))
    return mape(model.predict(asked), true), float(100 * inside), width


def mape(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean absolute percentage error, %."""
    return float(100 * np.mean(np.abs(predicted / true - 1)))


def judge(cases: list[Split], *, by_job: bool, hold_out: str) -> None:
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
        residual = residual_from(others_of(case, cases, hold_out))
        learned += residual is not None
        for name, correction in (("step law", None), ("step law + trees", residual)):
            ours[name].append(score(case, correction))
        if by_job:
            print(
                f"    {case.job.name:44s} n={len(true):5d}"
                f" law {ours['step law'][-1][0]:6.1f} %  inside {ours['step law'][-1][1]:5.1f} %"
            )
    ours |= {f"step law, {name}": rows for name, rows in held_out(cases, hold_out).items()}
    print(
        f"  {'method':26s} {'MAPE %':>7s} {'inside 90 %':>12s} {'worst job':>10s} {'p95/p05':>8s}"
    )
    for name, values in errors.items():
        print(f"  {name:26s} {np.mean(values):7.1f} {'-':>12s} {'-':>10s} {'-':>8s}")
    for name, scores in ours.items():
        error, inside, width = np.mean(np.asarray(scores), axis=0)
        worst = min(s[1] for s in scores)
        print(f"  {name:26s} {error:7.1f} {inside:12.1f} {worst:10.1f} {width:8.2f}")
    if learned < len(cases):
        print(f"  (trees were learned for {learned} of {len(cases)} jobs; else they are absent)")


def main() -> None:
    """Run both tasks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with steptime_train.csv")
    parser.add_argument("--by-job", action="store_true", help="one line per job")
    parser.add_argument("--hold-out", choices=("model", "gpu"), default="model")
    args = parser.parse_args()
    real = args.data is not None and (args.data / "steptime_train.csv").is_file()
    jobs = read_jobs(args.data) if real else draw_jobs()
    print(f"step time: {len(jobs)} {'measured' if real else 'drawn'} jobs")
    for title, wanted, single in (("A1: 3 probes", A1, True), ("A2: 6 probes", A2, False)):
        started = time.perf_counter()
        cases = [c for job in jobs if (c := split(job, wanted, single_node=single))]
        rows = sum(len(c.targets) for c in cases)
        print(f"\n{title}, {len(cases)} jobs, {rows} rows to predict")
        judge(cases, by_job=args.by_job, hold_out=args.hold_out)
        print(f"  {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
