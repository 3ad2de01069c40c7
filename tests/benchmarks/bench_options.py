"""10,000 options: totals made, scored, filtered and sorted; and the whole way to `Option` objects.

    python tests/benchmarks/bench_options.py

Prints milliseconds (medians of 10) and ratios to sorting the same quantiles with numpy. Target:
under 100 ms for scoring, filtering and sorting.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from planner.core.choose import Table, Terms, flips, front_of, score
from planner.core.distribution import LEVELS, Distribution, Z, add_independent
from planner.core.job import Goal
from planner.core.options import Candidate, build_options, rescore_options
from planner.core.prediction import Prediction
from planner.core.types import Knobs, Offer, PriceQuote, ResourceConfig, WorkLoad
from predictors.cost import CostRegressor
from predictors.interruptions import interrupted, ordered

N = 10_000
TARGET_MS = 100.0
RUNS = 10
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def median_ms(action: Callable[[], object], runs: int = RUNS) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def columns(rng: np.random.Generator) -> dict[str, np.ndarray]:
    z = np.asarray(Z)
    medians = rng.uniform(600, 36_000, (N, 1))
    return {
        "wait_s": rng.uniform(0, 600, (N, 1)) * np.exp(z * 0.8),
        "run_s": medians * np.exp(z * rng.uniform(0.02, 0.3, (N, 1))),
        "usd_per_h": rng.uniform(0.1, 30, N),
        "day_p90": rng.choice([1.0, 1.14], N),
        "interruptions_per_h": rng.choice([0.0, 0.05], N),
        "checkpoint_interval_s": np.full(N, 600.0),
    }


def totals(given: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Total times and costs, as the predictors make them."""
    run_s, _ = interrupted(
        given["run_s"],
        per_h=given["interruptions_per_h"],
        checkpoint_interval_s=given["checkpoint_interval_s"],
    )
    cost_usd = (
        CostRegressor()
        .fit({"run_s": [], "usd_per_h": []}, [])
        .predict_distribution(
            {
                "run_s": run_s,
                "usd_per_h": given["usd_per_h"],
                "p50_24h_usd_per_h": np.ones(N),
                "p90_24h_usd_per_h": given["day_p90"],
            }
        )
    )
    return ordered(add_independent(given["wait_s"], run_s)), cost_usd


def table(given: dict[str, np.ndarray], p_oom: np.ndarray) -> Table:
    total_s, cost_usd = totals(given)
    return Table(
        total_s=total_s,
        cost_usd=cost_usd,
        p_oom=p_oom,
        usd_per_h=given["usd_per_h"],
        place=np.arange(N) % 40,
        tie=np.arange(N),
    )


def candidates(given: dict[str, np.ndarray], p_oom: np.ndarray) -> list[Candidate]:
    made = []
    for i in range(N):
        shape = ResourceConfig(runner="fake", pool=f"p{i % 40}", market="local", nodes=1 + i)
        run = Distribution(quantiles=tuple(given["run_s"][i].tolist()), evidence="probe")
        price = PriceQuote(usd_per_h=float(given["usd_per_h"][i]), source="static", as_of=NOW)
        made.append(
            Candidate(
                resources=shape,
                knobs=Knobs(micro_batch=8, accumulation=1, global_batch=8),
                offer=Offer(resources=shape, price=price, wait_s=Distribution.exactly(0)),
                prediction=Prediction(
                    step_time_s=run,
                    run_s=run,
                    total_s=run,
                    cost_usd=run,
                    memory_bytes=run,
                    p_oom=float(p_oom[i]),
                    bottleneck="gpu",
                    evidence="probe",
                ),
            )
        )
    return made


def main() -> None:
    rng = np.random.default_rng(0)
    given = columns(rng)
    p_oom = rng.choice([0.0, 0.01, 0.4], N)
    terms = Terms(deadline_s=20_000, budget_usd=60)
    sort_ms = median_ms(lambda: np.sort(given["run_s"], axis=0))

    def whole() -> None:
        front_of(score(table(given, p_oom), terms))

    made = table(given, p_oom)
    scores = score(made, terms)
    core_ms = median_ms(whole)
    rows = [
        (f"score, filter, sort {N} options (target {TARGET_MS:.0f} ms)", core_ms),
        (
            "  of which: totals from wait, run, price, interruptions",
            median_ms(lambda: totals(given)),
        ),
        ("  of which: chances, feasibility, order", median_ms(lambda: score(made, terms))),
        ("  of which: front", median_ms(lambda: front_of(scores))),
        (
            "flips of the pick, each checked by choosing again",
            median_ms(lambda: flips(made, terms, scores), 3),
        ),
    ]
    listed = candidates(given, p_oom)
    work, goal = WorkLoad(samples=1000, epochs=1), Goal(deadline_s=20_000, budget_usd=60)
    options, _ = build_options(listed, work, goal, NOW)
    few = options[:200]
    rows += [
        (
            "200 options under another goal (target 50 ms)",
            median_ms(lambda: rescore_options(few, goal, NOW)),
        ),
        (
            f"{N} candidates to Option objects, flips included",
            median_ms(lambda: build_options(listed, work, goal, NOW), 3),
        ),
    ]
    print(f"reference: numpy sorts {N} x {len(LEVELS)} numbers in {sort_ms:.1f} ms")
    for name, value in rows:
        print(f"{name:<62} {value:8.1f} ms   {value / sort_ms:6.1f} x")


if __name__ == "__main__":
    main()
