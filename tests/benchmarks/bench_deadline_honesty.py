"""How often options meet their deadline, against how often planner says so.

    python tests/benchmarks/bench_deadline_honesty.py PATH/TO/throughput [--hold-out gpu] [--seed 0]

The jobs are the published ones of `predictors.evaluate`, each with the probes of a protocol, and
priors learned without its model (or its GPU type as well). A whole run is so many samples that the
median option takes an hour, and a minute that is no steps. The machine drifts between probe and run
by as much as planner assumes at first. Options are measured placements that were not probed, at
0.5 $ an hour and GPU; of repeated measurements one is drawn. Deadlines are drawn over the range of
the predicted medians, as logarithms.

Printed: of all options by what was said, the share that met the deadline; and of the picks, which
are the cheapest options said to meet it with 90 %. Jobs count the same. Options of one job share
their errors, so the 90 % intervals are from a bootstrap over whole jobs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from planner.core.distribution import I50, Z, mean, prob_below
from predictors.conformal import PRIOR_DRIFT_SIGMA, Calibration
from predictors.evaluate import ours
from predictors.evaluate.data import read
from predictors.evaluate.tasks import Case, cases

BINS = (0.0, 0.05, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
TASKS = ("A1", "A2", "A3")
CONFIDENCE, USD_PER_GPU_H, RUN_H, OTHER_S = 0.9, 0.5, 1.0, 60.0
MOST_OPTIONS, RESAMPLES = 100, 1000


@dataclass(frozen=True)
class Offer:
    """Options of a job: predicted quantiles and true totals, s, and $ an hour."""

    job: str
    total_s: np.ndarray
    true_s: np.ndarray
    usd_per_h: np.ndarray


def offers(case: Case, rng: np.random.Generator, count: int) -> Iterator[Offer]:
    """Draws of which options there are, and of the machine's drift."""
    asked = case.question.asked
    centre, low, high = ours.step_model(case.question).log_moments(asked)
    z = np.asarray(Z)
    step_s = np.exp(centre[:, None] + np.where(z < 0, low[:, None], high[:, None]) * z)
    batch = asked["workers"] * asked["micro_batch"]
    steps = RUN_H * 3600 * np.median(batch / case.true_s) / batch
    names = ("workers", "nodes", "workers_per_node", "micro_batch")
    table = np.stack([asked[name] for name in names], axis=1)
    _, of = np.unique(table, axis=0, return_inverse=True)
    for _ in range(count):
        order = rng.permutation(len(of))
        _, first = np.unique(of[order], return_index=True)
        rows = rng.permutation(order[first])[:MOST_OPTIONS]
        drift = np.exp(PRIOR_DRIFT_SIGMA * rng.standard_normal())
        run_s = OTHER_S + steps[rows, None] * step_s[rows]
        yield Offer(
            job=case.question.job,
            total_s=Calibration().widen(run_s),
            true_s=drift * (OTHER_S + steps[rows] * case.true_s[rows]),
            usd_per_h=asked["workers"][rows] * USD_PER_GPU_H,
        )


def outcomes(offer: Offer, at_s: float) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Under a deadline: what is said of each option, whether it meets it, and the pick."""
    said = prob_below(offer.total_s, at_s)
    usd = np.where(said >= CONFIDENCE, mean(offer.total_s) * offer.usd_per_h, np.inf)
    pick = int(np.argmin(usd)) if np.isfinite(usd.min()) else None
    return said, offer.true_s <= at_s, pick


@dataclass(frozen=True)
class Said:
    """Of one job: what was said of options, and whether they met the deadline."""

    said: np.ndarray
    met: np.ndarray

    def within(self, low: float, high: float) -> tuple[float, float, float]:
        """Share of all that was said in a bin: how much, what was said, and what was met."""
        here = (self.said >= low) & ((self.said < high) | (high == BINS[-1]))
        n = max(len(self.said), 1)
        return here.sum() / n, self.said[here].sum() / n, self.met[here].sum() / n


def judge(found: Sequence[Offer], rng: np.random.Generator, deadlines: int) -> list[Said]:
    """All options of one job, and its picks."""
    everything: list[tuple[np.ndarray, np.ndarray]] = []
    picks: list[tuple[float, bool]] = []
    for offer in found:
        middle = np.log(offer.total_s[:, I50])
        for at_s in np.exp(rng.uniform(middle.min(), middle.max(), deadlines)):
            said, met, pick = outcomes(offer, float(at_s))
            everything.append((said, met))
            if pick is not None:
                picks.append((float(said[pick]), bool(met[pick])))
    said, met = (np.concatenate(column) for column in zip(*everything, strict=True))
    picked = np.asarray(picks, dtype=float).reshape(-1, 2)
    return [Said(said, met), Said(picked[:, 0], picked[:, 1])]


def show(title: str, jobs: Sequence[Said], low: float, high: float, seed: int) -> None:
    """One row: said and met, an interval over jobs, the worst job, and how many jobs."""
    parts = np.asarray([job.within(low, high) for job in jobs])
    parts = parts[parts[:, 0] > 0]
    if not len(parts):
        return
    drawn = np.random.default_rng(seed).integers(0, len(parts), (RESAMPLES, len(parts)))
    sums = parts[drawn].sum(axis=1)
    bounds = np.quantile(sums[:, 2] / sums[:, 0], (0.05, 0.95))
    weight, said, met = parts.sum(axis=0)
    worst = (parts[:, 2] / parts[:, 0]).min()
    print(
        f"  {title:22s}{100 * said / weight:7.1f}{100 * met / weight:7.1f}"
        f"   [{100 * bounds[0]:5.1f}, {100 * bounds[1]:5.1f}]{100 * worst:8.1f}"
        f"{len(parts):6d}{100 * weight / len(jobs):8.1f}"
    )


def main() -> None:
    """Judge, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder with measured step times")
    parser.add_argument("--hold-out", choices=("model", "gpu"), default="model")
    parser.add_argument("--draws", type=int, default=40, help="of options and drift")
    parser.add_argument("--deadlines", type=int, default=10, help="for each draw")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.data is None:
        print("needs a folder with measured step times", file=sys.stderr)
        return
    known = read(args.data)
    for task in TASKS:
        rng = np.random.default_rng(args.seed)
        found = [
            judge(list(offers(case, rng, args.draws)), rng, args.deadlines)
            for case in cases(task, known, known, args.hold_out)
        ]
        everything, picks = ([job[i] for job in found] for i in (0, 1))
        title = f"{task}, P(deadline)"
        print(f"{title:24s}{'said':>7s}{'met':>7s}   90 % interval{'worst':>9s}  jobs  of all")
        for low, high in pairwise(BINS):
            show(f"{100 * low:.0f} to {100 * high:.0f} %", everything, low, high, args.seed)
        show("said 90 % or more", everything, CONFIDENCE, 1.0, args.seed)
        show("said 85 to 95 %", everything, 0.85, 0.95, args.seed)
        show("the pick", picks, 0.0, 1.0, args.seed)
        show("the pick, 90 to 95 %", picks, CONFIDENCE, 0.95, args.seed)


if __name__ == "__main__":
    main()
