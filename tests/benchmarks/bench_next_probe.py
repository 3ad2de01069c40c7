"""Which probe next: regret after so many probes, by what saves most for its price and by rivals.

    python tests/benchmarks/bench_next_probe.py [--data PATH/TO/throughput] [--jobs 4] [--probes 4]

Every method starts from planner's first few probes and tries one configuration after another: the
one that is expected to save most for its price (planner), the least certain one (variance, greedy
D-optimal), a fixed spread over the list (grid), or any (random). After each, planner picks an
option for every goal, and what that pick takes more than the best option really would is its
regret, in percent of the best; as far as it really misses the deadline more often than asked, it
has to be done again.
Methods but planner's look at no goal.

Jobs are drawn from laws that no predictor here knows; with `--data` they are the published step
times of a folder with the columns of `predictors.evaluate`. A trial has 3 % noise.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.syntheticjobs import NOON

from planner.core.choose import terms_of
from planner.core.distribution import Distribution
from planner.core.job import Goal, Place
from planner.core.nextprobe import verdict
from planner.core.options import Candidate, build_options, rescore_options, table_of
from planner.core.probevalue import Answer, Question, value_of_probing
from planner.core.types import (
    Knobs,
    Offer,
    Option,
    PriceQuote,
    ProbeResult,
    ResourceConfig,
    WorkLoad,
)
from planner.services.estimating.candidates import Trial, design
from predictors.evaluate.data import read
from predictors.job import ProbedJobPredictor

STEPS, START_S, USD_PER_WORKER_H = 35, 30.0, 0.5
DRIFT, MISSED = 0.08, 0.1
MOST_CONFIGURATIONS = 48
GOALS = (
    ("cost", None),
    ("time", None),
    ("cost", 0.25),
    ("cost", 0.5),
    ("cost", 0.75),
)
"""What is preferred, and where the deadline lies between the fastest and the cheapest option."""


@dataclass(frozen=True)
class Job:
    """Configurations of one job, and what a step of each really takes, s."""

    name: str
    trials: tuple[Trial, ...]
    step_s: np.ndarray
    work: WorkLoad

    def run_s(self) -> np.ndarray:
        """The whole run, without drift."""
        batches = np.asarray([t.knobs.global_batch for t in self.trials])
        full = np.floor(self.work.samples / batches)
        return START_S + self.work.epochs * np.maximum(full, 1) * self.step_s

    def usd(self) -> np.ndarray:
        """What the run costs."""
        return self.run_s() * np.asarray([t.offer.price.usd_per_h for t in self.trials]) / 3600

    def probe_s(self, i: int) -> float:
        """What a trial takes."""
        return float(START_S + STEPS * self.step_s[i])

    def probe(self, i: int, seed: int) -> ProbeResult:
        """A trial of a configuration, with noise of its own that is the same for every method."""
        rng = np.random.default_rng([seed, i])
        step = self.step_s[i] * np.exp(0.03 * rng.standard_normal())
        times = step * np.exp(0.03 * rng.standard_normal(STEPS - 5))
        trial = self.trials[i]
        return ProbeResult(
            id=f"p-{i}",
            fingerprint=self.name,
            resources=trial.resources,
            knobs=trial.knobs,
            state="ok",
            measured_at=NOON,
            steps=STEPS - 5,
            warmup_steps=5,
            step_time_s=tuple(times.tolist()),
            loader_wait_s=None,
            start_s=START_S - 1.0,
            rest_s=1.0,
            wall_s=self.probe_s(i),
        )


# ---- jobs ----------------------------------------------------------------------------------


def trial_of(nodes: int, busiest: int, micro: int, accumulation: int) -> Trial:
    """A configuration on GPUs at one price each."""
    workers = nodes * busiest
    resources = ResourceConfig(
        runner="bench",
        pool="gpu",
        market="local",
        nodes=nodes,
        workers_per_node=busiest,
        gpus_per_node=busiest,
        gpu="T4",
        gpu_memory_bytes=16 << 30,
        vcpus_per_node=busiest,
    )
    price = PriceQuote(usd_per_h=USD_PER_WORKER_H * workers, source="contract", as_of=NOON)
    return Trial(
        place=Place(runner="bench", pool="gpu"),
        offer=Offer(resources=resources, price=price, wait_s=Distribution.exactly(0.0)),
        knobs=Knobs(
            micro_batch=micro,
            accumulation=accumulation,
            global_batch=workers * micro * accumulation,
        ),
    )


def work_for(trials: Sequence[Trial], step_s: np.ndarray, hours: float) -> WorkLoad:
    """An epoch's samples such that ten epochs on the slowest configuration take so long."""
    rate = min(t.knobs.global_batch / s for t, s in zip(trials, step_s, strict=True))
    return WorkLoad(samples=int(rate * hours * 360), epochs=10, fingerprint="f")


def draw_jobs(count: int, seed: int) -> list[Job]:
    """One batch kept by accumulation, on up to 8 nodes of 4; each from a law of its own."""
    rng = np.random.default_rng(seed)
    jobs = []
    for number in range(count):
        a, b, power = rng.lognormal(-4, 0.5), rng.lognormal(-5, 0.7), rng.uniform(0.75, 1.0)
        local, remote = rng.lognormal(-4, 0.9), rng.lognormal(-2.5, 0.9)
        load, cliff = rng.uniform(0, 0.4), int(rng.choice([16, 32, 64, 1024]))
        trials, steps = [], []
        for nodes, busiest in [(1, 1), (1, 2), (1, 4), (2, 4), (4, 4), (8, 4)]:
            for micro in (8, 16, 32, 64, 128):
                workers = nodes * busiest
                if 512 % (workers * micro):
                    continue
                passes = 512 // (workers * micro)
                slow = 1.25 if micro > cliff else 1.0  # a kernel that is chosen by the batch
                compute = (a + b * micro**power) * slow
                sync = local * (busiest > 1) * np.log2(busiest + 1) + remote * (1 - 1 / nodes)
                step = passes * max(compute, load * b * micro * busiest) + 0.7 * sync
                trials.append(trial_of(nodes, busiest, micro, passes))
                steps.append(step * rng.lognormal(0, 0.03))
        values = np.asarray(steps)
        work = work_for(trials, values, rng.uniform(2, 40))
        jobs.append(Job(f"drawn/{number}", tuple(trials), values, work))
    return jobs


def read_jobs(folder: Path, seed: int) -> list[Job]:
    """Published jobs with more than one worker; any batch may be chosen."""
    jobs = []
    rng = np.random.default_rng(seed)
    for job in read(folder).steps:
        c = job.columns
        shapes: dict[tuple[int, int, int], list[float]] = {}
        for row, step in enumerate(job.step_s):
            nodes, busiest = int(c["nodes"][row]), int(c["workers_per_node"][row])
            if int(c["workers"][row]) == nodes * busiest:
                key = (nodes, busiest, int(c["micro_batch"][row]))
                shapes.setdefault(key, []).append(float(step))
        if len(shapes) < 8 or max(n * b for n, b, _ in shapes) < 2:
            continue
        keys = sorted(shapes)
        if len(keys) > MOST_CONFIGURATIONS:
            few = rng.choice(len(keys), MOST_CONFIGURATIONS, replace=False)
            keys = [keys[i] for i in sorted(few)]
        trials = tuple(trial_of(*key, 1) for key in keys)
        steps = np.asarray([np.median(shapes[key]) for key in keys])
        jobs.append(Job(job.name, trials, steps, work_for(trials, steps, 20.0)))
    return jobs


# ---- asking planner ------------------------------------------------------------------------


@dataclass
class Planner:
    """What planner makes of the probes of one job; remembered by which were made."""

    job: Job
    seed: int
    known: dict[frozenset[int], tuple[ProbedJobPredictor, list[Option]]] = field(
        default_factory=dict
    )

    def of(self, made: Sequence[int]) -> tuple[ProbedJobPredictor, list[Option]]:
        """The fitted predictor, and options in the order of the job's configurations."""
        key = frozenset(made)
        if key not in self.known:
            probes = [self.job.probe(i, self.seed) for i in sorted(key)]
            predictor = ProbedJobPredictor(saves=False, seed=self.seed).fit(probes)
            configs = [(t.resources, t.knobs) for t in self.job.trials]
            predictions = predictor.predict(configs, self.job.work)
            candidates = [
                Candidate(resources=r, knobs=k, offer=t.offer, prediction=p)
                for t, (r, k), p in zip(self.job.trials, configs, predictions, strict=True)
            ]
            found, _ = build_options(candidates, self.job.work, Goal(), NOON)
            by_config = {(o.resources, o.knobs): o for o in found}
            self.known[key] = (predictor, [by_config[c] for c in configs])
        return self.known[key]

    def pick(self, made: Sequence[int], goal: Goal) -> int:
        """The configuration that is picked, or the least bad one."""
        _, options = self.of(made)
        ranked, _ = rescore_options(options, goal, NOON)
        return [o.id for o in options].index(ranked[0].id)

    def value(self, made: Sequence[int], goal: Goal) -> tuple[Answer, list[int]]:
        """What planner says of the next probe, and which rows could be tried."""
        predictor, options = self.of(made)
        left = [i for i in range(len(options)) if i not in made]
        probe_s = np.asarray([self.job.probe_s(i) for i in left])
        rates = np.asarray([options[i].price.usd_per_h for i in left])
        question = Question(
            table=table_of(options),
            terms=terms_of(goal, NOON),
            run_s=predictor.draws([(o.resources, o.knobs) for o in options], self.job.work),
            mean_run_s=np.asarray([o.run_s.mean for o in options]),
            probed=np.asarray(left),
            probe_s=probe_s,
            probe_usd=probe_s * rates / 3600,
        )
        return value_of_probing(question), left

    def variance(self, made: Sequence[int]) -> int:
        """The least certain configuration."""
        predictor, options = self.of(made)
        drawn = predictor.draws([(o.resources, o.knobs) for o in options], self.job.work)
        spread = np.log(drawn).std(axis=0)
        spread[list(made)] = -1
        return int(np.argmax(spread))


# ---- judging -------------------------------------------------------------------------------


def goals_of(job: Job) -> list[Goal]:
    """The goals, their deadlines between the fastest option's time and the cheapest one's."""
    run_s, usd = job.run_s(), job.usd()
    fast, cheap = run_s.min(), run_s[np.argmin(usd)]
    found = []
    for prefer, at in GOALS:
        # No later than this, drift and all: the fastest option can just keep the tightest one.
        deadline = None if at is None else float(1.3 * fast * (max(cheap / fast, 1.5)) ** at)
        found.append(Goal(prefer=prefer, deadline_s=deadline))
    return found


def regret(job: Job, goal: Goal, pick: int) -> tuple[float, bool]:
    """Regret of a pick in percent of the best option, and whether it really misses.

    Times are known here but for the machine's drift, so that an option keeps the deadline with a
    chance; below the confidence asked for, so much of the pick has to be done again.
    """
    run_s = job.run_s()
    value = run_s if goal.prefer == "time" else job.usd()
    miss = np.zeros(len(run_s))
    if goal.deadline_s is not None:
        slack = np.log(goal.deadline_s / run_s) / DRIFT
        kept = np.asarray([NormalDist().cdf(z) for z in slack])
        miss = np.clip((goal.confidence - kept) / goal.confidence, 0.0, 1.0)
    best = int(np.lexsort((value, miss))[0])
    again = max(miss[pick] - miss[best], 0.0)
    lost = again * value[pick] + (1 - again) * max(value[pick] - value[best], 0.0)
    return float(100 * lost / value[best]), bool(again > MISSED)


def first_probes(job: Job) -> list[int]:
    """Planner's first design."""
    return [job.trials.index(t) for t in design(job.trials)]


def judge(jobs: Sequence[Job], count: int, seed: int) -> None:
    """Print regret by method after each probe, and where planner's stop rule would end."""
    names = ("planner", "variance", "grid", "random")
    lost = {name: np.zeros((len(jobs), len(GOALS), count + 1)) for name in names}
    missed = {name: np.zeros_like(lost[name]) for name in names}
    spent = {name: np.zeros_like(lost[name]) for name in names}
    stops, stopped_lost, stopped_usd, said, real = [], [], [], [], []
    for number, job in enumerate(jobs):
        asked, start = Planner(job, seed), first_probes(job)
        rng = np.random.default_rng([seed, number])
        spread = [i for i in _spread_order(len(job.trials)) if i not in start]
        shuffled = [int(i) for i in rng.permutation(len(job.trials)) if i not in start]
        listed = {"grid": spread, "random": shuffled}
        for g, goal in enumerate(goals_of(job)):
            for name in names:
                made, usd, stop = list(start), 0.0, None
                for k in range(count + 1):
                    loss, miss = regret(job, goal, asked.pick(made, goal))
                    lost[name][number, g, k], missed[name][number, g, k] = loss, miss
                    spent[name][number, g, k] = usd
                    if k == count or len(made) == len(job.trials):
                        lost[name][number, g, k:], missed[name][number, g, k:] = loss, miss
                        spent[name][number, g, k:] = usd
                        break
                    if name == "planner":
                        answer, left = asked.value(made, goal)
                        if k == 0:
                            said.append(100 * answer.regret / answer.takes)
                            real.append(loss)
                        if stop is None and verdict(answer) != "worth":
                            stop = (k, loss, usd)
                        chosen = left[answer.best]
                    elif name == "variance":
                        chosen = asked.variance(made)
                    else:
                        chosen = listed[name][k]
                    made.append(chosen)
                    rate = job.trials[chosen].offer.price.usd_per_h
                    usd += job.probe_s(chosen) * rate / 3600
                if name == "planner":
                    k, loss, usd = stop or (count, loss, usd)
                    stops.append(k)
                    stopped_lost.append(loss)
                    stopped_usd.append(usd)
    print(f"  {'regret, % of the best':24s}" + "".join(f"{f'+{k}':>8s}" for k in range(count + 1)))
    for name in names:
        print(f"  {name:24s}" + "".join(f"{v:8.2f}" for v in lost[name].mean(axis=(0, 1))))
    for name in names:
        label = f"{name}, missed %"
        print(f"  {label:24s}" + "".join(f"{100 * v:8.1f}" for v in missed[name].mean(axis=(0, 1))))
    for name in names:
        label = f"{name}, spent $"
        print(f"  {label:24s}" + "".join(f"{v:8.3f}" for v in spent[name].mean(axis=(0, 1))))
    print(
        f"  planner's stop rule: {np.mean(stops):.1f} probes beyond the first (at most"
        f" {max(stops)}), ${np.mean(stopped_usd):.3f}, regret {np.mean(stopped_lost):.2f} %"
    )
    print(
        f"  expected regret before: {np.mean(said):.2f} % said, {np.mean(real):.2f} % real,"
        f" rank correlation {_rank_correlation(said, real):.2f}"
    )
    for g, (prefer, at) in enumerate(GOALS):
        title = prefer if at is None else f"{prefer}, deadline {at:g}"
        shown = "".join(
            f"   {n} {lost[n][:, g, 0].mean():.1f} -> {lost[n][:, g, min(3, count)].mean():.1f}"
            for n in names
        )
        print(f"    {title:20s}{shown}")


def _spread_order(n: int) -> list[int]:
    """Ends, middle, quarters, ...: every prefix is spread over the list."""
    parts = [i / 64 for i in range(65)]
    parts.sort(key=lambda x: (len(f"{x:.6f}".rstrip("0")), x))
    order = [round(x * (n - 1)) for x in parts] + list(range(n))
    return list(dict.fromkeys(order))


def _rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    ranks = [np.argsort(np.argsort(v)) for v in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def main() -> None:
    """Judge drawn jobs, and published ones when there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with measured step times")
    parser.add_argument("--jobs", type=int, default=4, help="so many are drawn")
    parser.add_argument("--probes", type=int, default=4, help="so many beyond the first ones")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sources = [("drawn", draw_jobs(args.jobs, args.seed))]
    if args.data is not None:
        sources.append(("measured", read_jobs(args.data, args.seed)))
    for title, jobs in sources:
        began = time.perf_counter()
        sizes = [len(job.trials) for job in jobs]
        print(f"{len(jobs)} {title} jobs, {min(sizes)} to {max(sizes)} options, {len(GOALS)} goals")
        judge(jobs, args.probes, args.seed)
        print(f"  ({time.perf_counter() - began:.0f} s)")


if __name__ == "__main__":
    main()
