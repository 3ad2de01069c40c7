"""A recorded session with round, invented numbers: the same on every machine and every day."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from planner.core.distribution import Distribution
from planner.core.events import Event, EventType
from planner.core.job import AdjustPolicy, Goal, JobSpec, Place
from planner.core.options import Candidate, build_options
from planner.core.plan import Plan
from planner.core.types import (
    EstimateResult,
    Knobs,
    ModelCard,
    Offer,
    Option,
    PriceQuote,
    ProbeResult,
    ResourceConfig,
    Warning_,
    WorkLoad,
)
from planner.demo.recording import RecordedLine, RecordedRun, Recording, Source
from planner.services.api import Check
from planner.store.codec import datetime_text
from tests.support.predicted import prediction

NOW = datetime(2026, 3, 14, 9, 30, tzinfo=UTC)
GOAL = Goal(deadline_s=170.0, budget_usd=1.0, confidence=0.9, prefer="cost")
WORK = WorkLoad(samples=1280, epochs=10, tail_samples=270, fingerprint="f:demo")
STEPS = 200
JOB = JobSpec(
    name="digits",
    command=("python", "train.py", "--data", "{data}", "--batch-size", "{micro_batch}"),
    workdir=".",
    data="data/digits",
    samples=1280,
    epochs=10,
    global_batch=64,
    checkpoint_interval_s=60.0,
    tier=1,
    places=(Place(runner="local", pool="cpu", settings={"slots": 2, "usd_per_slot_h": 0.5}),),
    goal=GOAL,
    source="job.toml",
    adjust=AdjustPolicy(allow=("workers", "micro_batch", "checkpoint_interval")),
)
SHAPES = ((1, 64), (1, 32), (1, 8), (2, 32), (2, 8))
PROBED = ((1, 64), (2, 32), (1, 8))


def step_s(workers: int, micro_batch: int) -> float:
    """Seconds of an optimiser step of 64 samples."""
    accumulation = 64 // workers // micro_batch
    return accumulation * (0.02 + 0.01 * micro_batch) + (0.06 if workers > 1 else 0.0)


def _resources(workers: int) -> ResourceConfig:
    return ResourceConfig(
        runner="local",
        pool="cpu",
        market="local",
        workers_per_node=workers,
        vcpus_per_node=workers,
        memory_bytes_per_node=workers * 8 * 10**9,
    )


def _knobs(workers: int, micro_batch: int) -> Knobs:
    return Knobs(
        micro_batch=micro_batch,
        accumulation=64 // workers // micro_batch,
        global_batch=64,
        checkpoint_interval_s=60.0,
    )


def _memory(micro_batch: int) -> float:
    return 6e8 + micro_batch * 5e6


def _candidate(workers: int, micro_batch: int) -> Candidate:
    evidence = "probe" if (workers, micro_batch) in PROBED else "transfer"
    sigma = 0.03 if evidence == "probe" else 0.08
    step = step_s(workers, micro_batch)
    resources = _resources(workers)
    price = PriceQuote(usd_per_h=0.5 * workers, source="contract", as_of=NOW)
    offer = Offer(resources=resources, price=price, wait_s=Distribution.exactly(0.0))
    return Candidate(
        resources=resources,
        knobs=_knobs(workers, micro_batch),
        offer=offer,
        prediction=prediction(
            Distribution.lognormal(step * STEPS + 16, sigma, evidence),  # type: ignore[arg-type]
            offer,
            step_time_s=Distribution.lognormal(step, sigma, evidence),  # type: ignore[arg-type]
            memory_bytes=Distribution.lognormal(_memory(micro_batch), 0.03, "probe"),
            p_oom=0.002,
            bottleneck="gpu" if workers == 1 else "network",
        ),
    )


def _probe(workers: int, micro_batch: int) -> ProbeResult:
    step = step_s(workers, micro_batch)
    return ProbeResult(
        id=f"p-{workers}x{micro_batch}",
        fingerprint="f:demo",
        resources=_resources(workers),
        knobs=_knobs(workers, micro_batch),
        state="ok",
        measured_at=NOW,
        steps=30,
        warmup_steps=5,
        step_time_s=(step,) * 30,
        loader_wait_s=step * 0.06,
        start_s=4.0,
        checkpoint_s=0.3,
        checkpoint_bytes=134_000_000,
        peak_device_bytes=int(_memory(micro_batch)),
        peak_outside_bytes=int(_memory(micro_batch)),
        slice_samples=128,
        samples=1280,
        wall_s=6 + 35 * step,
        cost_usd=(6 + 35 * step) * 0.5 * workers / 3600,
    )


def sample_estimate() -> EstimateResult:
    """Five options, two of them on the front, one infeasible; three probes; one warning."""
    options, pick = build_options([_candidate(*shape) for shape in SHAPES], WORK, GOAL, NOW)
    probes = tuple(_probe(*shape) for shape in PROBED)
    return EstimateResult(
        id="e-sample1",
        created_at=NOW,
        seed=0,
        job=JOB,
        work=WORK,
        goal=GOAL,
        recommendation=pick,
        options=options,
        probes=probes,
        probe_cost_usd=sum(probe.cost_usd for probe in probes),
        model=ModelCard(id="m-1", n_train=3),
        warnings=(
            Warning_(
                code="memory.resident",
                text="Memory is the resident memory of one worker, as there is no GPU.",
            ),
        ),
    )


class _Journal:
    """Events and lines of one invented run."""

    def __init__(self, run_id: str, option: Option, created_at: datetime) -> None:
        self.run_id, self.option, self.created_at = run_id, option, created_at
        self.events: list[Event] = []
        self.lines: list[RecordedLine] = []
        self.rate_usd_per_s = option.price.usd_per_h / 3600

    def add(self, at_s: float, kind: EventType, data: Mapping[str, Any]) -> None:
        """One event."""
        self.events.append(
            Event(
                seq=len(self.events),
                ts=self.created_at + timedelta(seconds=at_s),
                type=kind,
                data=data,
                run_id=self.run_id,
            )
        )

    def say(self, at_s: float, source: str, text: str) -> None:
        """One line."""
        rank = 0 if source == "train" else None
        self.lines.append(RecordedLine(at_s=at_s, source=source, rank=rank, text=text))

    def spent(self, at_s: float) -> int:
        """Micro-dollars spent by then."""
        return round(at_s * self.rate_usd_per_s * 1e6)


def sample_run(
    run_id: str, option: Option, created_at: datetime, *, slowness: float = 1.0
) -> RecordedRun:
    """A run of ten epochs, slower in its fourth, with a warning of the guard and its end."""
    journal = _Journal(run_id, option, created_at)
    workers, micro_batch = option.resources.workers, option.knobs.micro_batch
    step = step_s(workers, micro_batch) * slowness
    journal.add(
        0,
        "run.created",
        {"name": "digits", "state": "planned", "budget_microusd": 1_000_000},
    )
    journal.add(0.2, "run.provisioning", {"attempt": 1, "state": "provisioning"})
    journal.add(
        0.4, "resource.acquired", {"usd_per_h": option.price.usd_per_h, "source": "contract"}
    )
    journal.say(0.4, "planner", f"acquired {workers} cpu at ${option.price.usd_per_h}/h")
    journal.add(4, "run.started", {"state": "running"})
    journal.say(4, "train", "resnet18: 11.2 M parameters, 1280 images")
    at_s, done = 4.0, 0
    for epoch in range(10):
        for _ in range(STEPS // 10):
            slow = 1.4 if epoch == 3 else 1.0
            at_s, done = at_s + step * slow, done + 1
            if done % 4 == 0:
                _progress(journal, at_s, done, epoch, step=step, slow=slow)
        at_s += 1.0
        accuracy = 1 - 0.9 * math.exp(-(epoch + 1) / 2.5)
        journal.add(at_s, "run.metric", {"values": {"val_accuracy": round(accuracy, 4)}})
        journal.say(at_s, "train", f"epoch {epoch + 1:>2}/10  val accuracy {accuracy:.3f}")
        if epoch % 3 == 2:
            data = {"step": done, "bytes": 134_000_000, "duration_s": 0.3, "reason": "interval"}
            journal.add(at_s, "run.checkpoint", data)
            journal.say(at_s, "planner", f"checkpoint of step {done} written, 134 MB in 0.3s")
        if epoch == 3:
            _warn(journal, at_s, step * 1.4)
    journal.say(at_s + 0.5, "train", "test accuracy 0.972")
    journal.add(at_s + 1, "resource.released", {"spent_microusd": journal.spent(at_s + 1)})
    journal.add(
        at_s + 1.2,
        "run.finished",
        {"state": "done", "spent_microusd": journal.spent(at_s + 1), "step": done, "progress": 1.0},
    )
    plan = Plan(
        run_id=run_id,
        name="digits",
        job=JOB,
        option=option,
        work=WORK,
        goal=GOAL,
        estimate_id="e-sample1",
        created_at=created_at,
        max_usd_per_h=option.price.usd_per_h,
        budget_microusd=1_000_000,
    )
    return RecordedRun(plan=plan, events=tuple(journal.events), log=tuple(journal.lines))


def _progress(
    journal: _Journal, at_s: float, done: int, epoch: int, *, step: float, slow: float
) -> None:
    left_s = (STEPS - done) * step + (10 - epoch) * 1.0
    spread = 0.03 + 0.1 / (1 + done / 8)
    journal.add(
        at_s,
        "run.progress",
        {
            "step": done,
            "steps_total": STEPS,
            "epoch": epoch,
            "epochs": 10.0,
            "progress": done / STEPS,
            "samples_per_s": 64 / (step * slow),
            "loader_wait": 0.06 if slow == 1 else 0.31,
            "cpu": 0.96 if slow == 1 else 0.7,
            "memory_bytes": _memory(journal.option.knobs.micro_batch),
            "eta_s": list(Distribution.lognormal(left_s + 0.01, spread, "probe").quantiles),
            "spent_microusd": journal.spent(at_s),
        },
    )
    loss = 2.3 * math.exp(-done / 50) + 0.05
    journal.add(at_s, "run.metric", {"values": {"loss": round(loss, 4)}})


def _warn(journal: _Journal, at_s: float, slow_step_s: float) -> None:
    why = "P(on time) fell to 0.86, below the 0.90 asked for"
    journal.add(at_s, "guard.warning", {"code": "deadline.unlikely", "text": why})
    journal.add(
        at_s,
        "decision.applied",
        {
            "id": "d1",
            "at": datetime_text(journal.created_at + timedelta(seconds=at_s)),
            "action": "warn of the deadline",
            "why": why,
            "mode": "guarded",
            "observation": {"p_deadline": 0.86, "samples_per_s": 64 / slow_step_s, "gpu": None},
            "alternatives": [["hold", 0.71, "chosen"], ["stop", None, "blocked: not asked for"]],
        },
    )


CHECKS = (
    Check(id="python", state="ok", text="Python 3.11.7"),
    Check(id="state.writable", state="ok", text="state folder is writable"),
    Check(id="state.space", state="ok", text="41.2 GB free"),
    Check(id="gpu", state="warn", text="no GPU found: jobs run on CPU slots", fix="none needed"),
    Check(id="leftovers", state="ok", text="nothing of ours is left over"),
)


def sample_recording() -> Recording:
    """The session: the pick's run is played; one more of it and one of a faster option are past."""
    estimate = sample_estimate()
    pick = estimate.option(estimate.recommendation.option_id or "")
    assert pick is not None
    other = next(o for o in estimate.options if o.resources.workers != pick.resources.workers)
    return Recording(
        source=Source(
            recorded_on="2026-03-14",
            machine="2 cores",
            command="planner run job.toml",
            planner_version="0.1.0",
        ),
        job=JOB,
        checks=CHECKS,
        estimate=estimate,
        runs=(
            sample_run("r-8k2m", pick, NOW),
            sample_run("r-7f3k", other, NOW, slowness=1.01),
            sample_run("r-6c1a", pick, NOW, slowness=1.3),
        ),
    )
