"""Domain values for tests: small, plain, every number easy to check by head."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from planner.core.distribution import Distribution
from planner.core.job import Goal, JobSpec
from planner.core.options import Candidate, build_options
from planner.core.types import (
    EstimateResult,
    Knobs,
    ModelCard,
    Offer,
    PriceQuote,
    ProbeResult,
    ResourceConfig,
    Warning_,
    WorkLoad,
)
from tests.support.predicted import prediction

NOW = datetime(2025, 3, 14, 11, 40, tzinfo=UTC)
WORK = WorkLoad(samples=1437, epochs=10, tail_samples=360, slice_fraction=0.1, fingerprint="f:1")


def resources(workers: int = 1, *, pool: str = "cpu", runner: str = "local") -> ResourceConfig:
    return ResourceConfig(
        runner=runner,
        pool=pool,
        market="local",
        workers_per_node=workers,
        vcpus_per_node=workers,
        memory_bytes_per_node=8 * 10**9,
    )


def knobs(micro_batch: int = 16, *, workers: int = 1, global_batch: int = 64) -> Knobs:
    return Knobs(
        micro_batch=micro_batch,
        accumulation=global_batch // (workers * micro_batch),
        global_batch=global_batch,
    )


def price(usd_per_h: float = 0.1, *, hazard: float | None = None) -> PriceQuote:
    return PriceQuote(
        usd_per_h=usd_per_h,
        source="contract" if usd_per_h else "free",
        as_of=NOW,
        interruptions_per_h=hazard,
    )


def candidate(
    run_s: float = 300.0,
    usd_per_h: float = 0.1,
    *,
    workers: int = 1,
    micro_batch: int = 16,
    spread: float = 0.05,
    p_oom: float = 0.0,
    wait_s: float = 0.0,
    pool: str = "cpu",
    hazard: float | None = None,
) -> Candidate:
    shape = resources(workers, pool=pool)
    run = Distribution.lognormal(run_s, spread, evidence="probe")
    offer = Offer(
        resources=shape,
        price=price(usd_per_h, hazard=hazard),
        wait_s=Distribution.exactly(wait_s),
    )
    return Candidate(
        resources=shape,
        knobs=knobs(micro_batch, workers=workers),
        offer=offer,
        prediction=prediction(
            run,
            offer,
            step_time_s=run.scaled(1 / 230),
            memory_bytes=Distribution.lognormal(9e8, 0.03, evidence="probe"),
            p_oom=p_oom,
            bottleneck="gpu",
        ),
    )


def three_candidates() -> list[Candidate]:
    """Slow and cheap, middling, fast and dear; each with another worker count."""
    return [
        candidate(900, 0.05, workers=1),
        candidate(500, 0.12, workers=2),
        candidate(300, 0.30, workers=4),
    ]


def goal(
    deadline_s: float | None = None,
    budget_usd: float | None = None,
    *,
    prefer: str = "cost",
    confidence: float = 0.9,
) -> Goal:
    return Goal(
        deadline_s=deadline_s,
        deadline_at=None if deadline_s is None else NOW + timedelta(seconds=deadline_s),
        budget_usd=budget_usd,
        confidence=confidence,
        prefer=prefer,  # type: ignore[arg-type]
    )


def job(name: str = "digits") -> JobSpec:
    return JobSpec(
        name=name,
        command=("python", "train.py", "--data", "{data}"),
        workdir="/nowhere",
        samples=1437,
        epochs=10,
        global_batch=64,
        tier=1,
    )


def probe(state: str = "ok", *, error: str | None = None, workers: int = 1) -> ProbeResult:
    ok = state == "ok"
    return ProbeResult(
        id=f"p-{state}-{workers}",
        fingerprint=WORK.fingerprint,
        resources=resources(workers),
        knobs=knobs(workers=workers),
        state=state,  # type: ignore[arg-type]
        measured_at=NOW,
        steps=30 if ok else 0,
        warmup_steps=5,
        step_time_s=(0.10, 0.11, 0.12) * 10 if ok else (),
        loader_wait_s=0.011 if ok else None,
        peak_device_bytes=900_000_000 if ok else None,
        wall_s=12.5,
        cost_usd=0.0003,
        error=error,
    )


def estimate(
    asked: Goal | None = None,
    candidates: list[Candidate] | None = None,
    probes: tuple[ProbeResult, ...] | None = None,
) -> EstimateResult:
    asked = asked or Goal()
    given = three_candidates() if candidates is None else candidates
    options, recommendation = build_options(given, WORK, asked, NOW)
    return EstimateResult(
        id="e-0000001",
        created_at=NOW,
        seed=0,
        job=job(),
        work=WORK,
        goal=asked,
        recommendation=recommendation,
        options=options,
        probes=(probe(),) if probes is None else probes,
        probe_cost_usd=0.0003,
        model=ModelCard(id="m-test", n_train=1),
        warnings=(Warning_(code="model.prior_only", text="No probe ended well.", hint=None),)
        if not options
        else (),
    )


def all_failed() -> EstimateResult:
    """What comes of an estimate whose every probe failed."""
    return estimate(candidates=[], probes=(probe("failed", error="exit code 1"), probe("oom")))
