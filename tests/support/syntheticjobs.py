"""Jobs whose true times are known: probes and whole runs drawn from a law, with a noisy machine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from planner.core.types import Knobs, ProbeResult, ResourceConfig, WorkLoad

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
GIB = 1 << 30


def configuration(
    workers: int = 1, micro_batch: int = 16, *, global_batch: int = 64, gpu: str | None = None
) -> tuple[ResourceConfig, Knobs]:
    """Workers on one local machine, the global batch kept by accumulation."""
    resources = ResourceConfig(
        runner="local",
        pool=gpu or "cpu",
        market="local",
        workers_per_node=workers,
        vcpus_per_node=workers,
        gpus_per_node=workers if gpu else 0,
        gpu=gpu,
        gpu_memory_bytes=16 * GIB if gpu else None,
        memory_bytes_per_node=24 * GIB,
    )
    knobs = Knobs(
        micro_batch=micro_batch,
        accumulation=max(1, global_batch // (workers * micro_batch)),
        global_batch=global_batch,
    )
    return resources, knobs


@dataclass(frozen=True, kw_only=True)
class SyntheticJob:
    """A small CPU job. Times in s, memory in bytes.

    `drift` is the standard deviation of the logarithm of the machine's speed from trial to trial.
    """

    fixed_s: float = 0.01
    per_sample_s: float = 0.012
    contention: float = 0.5
    sync_s: float = 0.03
    start_s: float = 6.0
    evaluation_per_sample_s: float = 0.004
    evaluation_fixed_s: float = 0.1
    checkpoint_s: float = 0.2
    fixed_bytes: float = 5e8
    bytes_per_sample: float = 4e6
    drift: float = 0.06
    speed: float = 1.0

    def step_s(self, workers: int, micro_batch: float, accumulation: int) -> float:
        """One optimiser step on a machine of usual speed."""
        one = (self.fixed_s + self.per_sample_s * micro_batch) * (
            1 + self.contention * (1 - 1 / workers)
        )
        return self.speed * (accumulation * one + self.sync_s * (workers > 1))

    def peak_bytes(self, micro_batch: float) -> float:
        """Peak memory of one worker."""
        return self.fixed_bytes + self.bytes_per_sample * micro_batch

    def probe(
        self,
        rng: np.random.Generator,
        workers: int = 1,
        micro_batch: int = 16,
        *,
        fingerprint: str = "f-synthetic",
        gpu: str | None = None,
        steps: int = 20,
    ) -> ProbeResult:
        """A trial on a tenth of the data, 54 other samples."""
        resources, knobs = configuration(workers, micro_batch, gpu=gpu)
        slow = float(np.exp(self.drift * rng.standard_normal()))
        step = slow * self.step_s(workers, micro_batch, knobs.accumulation)
        times = step * np.exp(0.05 * rng.standard_normal(steps))
        tail = slow * (self.evaluation_fixed_s + 27 * self.evaluation_per_sample_s)
        start, checkpoint = slow * self.start_s, slow * self.checkpoint_s
        return ProbeResult(
            id=f"p-{gpu or 'cpu'}-{workers}-{micro_batch}",
            fingerprint=fingerprint,
            resources=resources,
            knobs=knobs,
            state="ok",
            measured_at=NOON,
            steps=steps,
            warmup_steps=3,
            step_time_s=tuple(float(t) for t in times),
            loader_wait_s=0.0,
            start_s=start,
            tail_s=tail,
            tail_samples=54,
            checkpoint_s=checkpoint,
            peak_device_bytes=int(
                self.peak_bytes(micro_batch) * np.exp(0.01 * rng.standard_normal())
            ),
            capacity_bytes=24 * GIB // workers,
            slice_samples=128,
            samples=1257,
            rest_s=1.0,
            wall_s=float(start + times.sum() + 3 * step + tail + checkpoint + 1.0),
        )

    def run_s(
        self, rng: np.random.Generator, workers: int, micro_batch: int, work: WorkLoad
    ) -> float:
        """One real whole run, with a test at the end on half of the other samples."""
        _, knobs = configuration(workers, micro_batch)
        full, left = divmod(work.samples, knobs.global_batch)
        epoch = full * self.step_s(workers, micro_batch, knobs.accumulation)
        if left:
            passes = int(np.ceil(left / (workers * micro_batch)))
            epoch += self.step_s(workers, left / (workers * passes), passes)
        judged = work.tail_samples / 2 * self.evaluation_per_sample_s + self.evaluation_fixed_s
        total = self.start_s + work.epochs * (epoch + judged) + judged + 2 * self.checkpoint_s + 1
        return float(total * np.exp(self.drift * rng.standard_normal()))


WORK = WorkLoad(samples=1257, epochs=8, tail_samples=540, slice_fraction=0.1, fingerprint="f")
