"""A job's memory on every kind of machine, from its probes: parts, evidence, odd probes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.core.distribution import I05, I50, I95
from planner.core.types import ProbeResult
from predictors.features import config_table
from predictors.job_memory import JobMemory, WorkerMemory, errors_of, rows_of, state_of
from tests.support.syntheticjobs import GIB, SyntheticJob, configuration

STATE = {"model_bytes": GIB, "gradient_bytes": GIB, "optimizer_bytes": 2 * GIB}
JOB = SyntheticJob(drift=0.0, fixed_bytes=3.2 * GIB, bytes_per_sample=0.1 * GIB)


def trial(micro_batch: int, *, gpu: str | None = "T4", workers: int = 1, **changes: Any):
    base = JOB.probe(np.random.default_rng(micro_batch), workers, micro_batch, gpu=gpu)
    base = replace(base, capacity_bytes=16 * GIB if gpu else None, **STATE)
    return replace(base, **changes)


def ask(
    memory: JobMemory, *micro_batches: int, gpu: str | None = "T4", workers: int = 1, **changes
):
    configs = [configuration(workers, m, gpu=gpu) for m in micro_batches]
    configs = [(replace(r, **changes), k) for r, k in configs]
    return memory.predict(configs, config_table(configs))


def medians(found: WorkerMemory) -> np.ndarray:
    return found.quantiles[:, I50]


@pytest.fixture(scope="module")
def fitted() -> JobMemory:
    return JobMemory([trial(16), trial(64)], seed=0)


def test_the_parts_are_named_and_add_up_to_the_peak(fitted) -> None:
    found = ask(fitted, 16, 32, 64)
    for parts, median in zip(found.parts, medians(found), strict=True):
        assert parts is not None
        sizes = (parts.weights_bytes, parts.optimizer_bytes, parts.gradients_bytes)
        assert sizes[:2] == (GIB, 2 * GIB)
        peak = sum(sizes) + parts.context_bytes + parts.activations_bytes
        assert peak == pytest.approx(median, rel=0.05)
    activations = [parts.activations_bytes for parts in found.parts]
    np.testing.assert_allclose(activations, np.asarray([1.6, 3.2, 6.4]) * GIB, rtol=0.2)


def test_sizes_that_no_probe_told_are_unknown_and_part_of_the_context() -> None:
    silent = {name: None for name in STATE}
    (parts,) = ask(JobMemory([trial(16, **silent), trial(64, **silent)], seed=0), 32).parts
    assert (parts.weights_bytes, parts.gradients_bytes, parts.optimizer_bytes) == (None,) * 3
    assert parts.context_bytes == pytest.approx(3.2 * GIB, rel=0.15)


def test_evidence_is_that_of_memory_not_of_time(fitted) -> None:
    assert ask(fitted, 16, 32).evidence == ["probe", "transfer"]
    assert ask(fitted, 16, workers=2).evidence == ["transfer"]  # buckets were never seen
    assert ask(fitted, 16, gpu="A100").evidence == ["transfer"]
    assert ask(fitted, 16, gpu=None).evidence == ["prior"]


def test_another_gpu_needs_as_much_within_a_wider_interval(fitted) -> None:
    here, there = ask(fitted, 32), ask(fitted, 32, gpu="A100")
    assert medians(there) == pytest.approx(medians(here), rel=0.02)
    width = [np.log(f.quantiles[0, I95] / f.quantiles[0, I05]) for f in (here, there)]
    assert width[1] > width[0]


def test_what_did_not_fit_into_a_small_gpu_may_fit_into_a_larger_one() -> None:
    oom = trial(256, state="oom", peak_device_bytes=None)
    memory = JobMemory([trial(16), trial(64), oom], seed=0)
    assert ask(memory, 256).p_oom[0] >= 0.97
    assert ask(memory, 256, gpu="A100", gpu_memory_bytes=80 * GIB).p_oom[0] < 0.05


def test_a_kind_of_machine_that_only_ever_ran_out_of_memory_is_not_tried_again() -> None:
    oom = trial(16, gpu="K80", state="oom", peak_device_bytes=None, capacity_bytes=12 * GIB)
    memory = JobMemory([trial(16), trial(64), oom], seed=0)
    found = ask(memory, 8, 16, 32, gpu="K80", gpu_memory_bytes=12 * GIB)
    assert found.p_oom[0] < 0.5
    assert np.all(found.p_oom[1:] >= 0.97)


def test_a_gpus_context_is_what_is_seen_from_outside_beside_the_allocator() -> None:
    large = {"reserved_device_bytes": 11 * GIB, "peak_outside_bytes": 14 * GIB}
    plain = JobMemory([trial(16), trial(64)], seed=0)
    beside = JobMemory([trial(16, **large), trial(64, **large)], seed=0)
    np.testing.assert_array_equal(medians(ask(beside, 96)), medians(ask(plain, 96)))
    assert ask(beside, 96).p_oom[0] > ask(plain, 96).p_oom[0]


def test_a_peak_that_only_the_outside_saw_holds_the_context_already() -> None:
    seen = [trial(m, peak_device_bytes=None, capacity_bytes=None) for m in (16, 64)]
    seen = [replace(p, peak_outside_bytes=int(JOB.peak_bytes(p.knobs.micro_batch))) for p in seen]
    peak = JOB.peak_bytes(32)
    fits = ask(JobMemory(seen, seed=0), 32, gpu_memory_bytes=int(1.12 * peak))
    assert fits.p_oom[0] < 0.2


@pytest.mark.parametrize("peak", [0, -5, float("nan"), float("inf"), None])
def test_a_peak_that_cannot_be_one_says_nothing(peak: Any, fitted) -> None:
    odd = trial(32, peak_device_bytes=peak, peak_outside_bytes=peak)
    memory = JobMemory([trial(16), trial(64), odd], seed=0)
    np.testing.assert_array_equal(medians(ask(memory, 32)), medians(ask(fitted, 32)))
    assert rows_of([odd]) == []


def test_without_any_peak_nothing_is_said() -> None:
    silent = trial(16, peak_device_bytes=None)
    lost = trial(16, state="oom", peak_device_bytes=None)
    for probes in ([], [silent], [lost]):
        found = ask(JobMemory(probes, seed=0), 16, 64)
        assert np.all(found.quantiles == 0)
        assert found.parts == [None, None]
        assert found.evidence == ["prior", "prior"]


@pytest.mark.parametrize("gpu", ["T4", None])
def test_what_ran_out_of_memory_is_known_to_without_any_peak(gpu: str | None) -> None:
    silent = {"peak_device_bytes": None, "peak_outside_bytes": None, "capacity_bytes": 16 * GIB}
    probes = [trial(8, gpu=gpu, **silent), trial(16, gpu=gpu, state="oom", **silent)]
    room = {"gpu_memory_bytes": 16 * GIB} if gpu else {"memory_bytes_per_node": 16 * GIB}
    found = ask(JobMemory(probes, seed=0), 8, 12, 16, 32, gpu=gpu, **room)
    np.testing.assert_array_equal(found.p_oom, [0.0, 0.0, 0.97, 0.97])
    assert set(found.evidence) == {"prior"}


def test_what_fitted_without_telling_its_peak_fits() -> None:
    probes = [trial(16), trial(64), trial(256, peak_device_bytes=None)]
    assert ask(JobMemory(probes[:2], seed=0), 256).p_oom[0] > 0.5
    assert ask(JobMemory(probes, seed=0), 256).p_oom[0] <= 0.03


def test_a_failed_probe_tells_no_sizes() -> None:
    assert state_of([trial(16, state="failed")]) is None
    assert state_of([trial(16, optimizer_bytes=None)]) is None
    known = state_of([trial(16, gradient_bytes=None)])
    assert known is not None
    assert known.gradients == known.weights == GIB  # as if all were trained


def test_errors_are_those_of_probes_left_out() -> None:
    probes: list[ProbeResult] = [trial(m) for m in (16, 32, 64)]
    assert max(errors_of(probes, seed=0)) < 0.15
    assert errors_of(probes[:1], seed=0) == []
