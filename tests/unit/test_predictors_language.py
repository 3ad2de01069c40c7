"""Language models in the predictor of one job: steps and memory however replicas are spread."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.distribution import LEVELS
from planner.core.job import LanguageModel
from planner.core.types import Knobs, ProbeResult, ResourceConfig, WorkLoad
from predictors.features import by_replica, config_table
from predictors.job import ProbedJobPredictor
from predictors.job_memory import JobMemory
from predictors.language import language_rows, prior_regressor, stage_parameters
from predictors.language_memory import LanguageMemory
from predictors.llm import bundled
from predictors.registry import job_predictor

MODEL = LanguageModel(hidden=1024, layers=16, heads=16, sequence=1024, vocabulary=50304)
TINY = LanguageModel(hidden=64, layers=4, heads=4, sequence=64, vocabulary=256)
WORK = WorkLoad(samples=20_000, epochs=2)
GB = 10**9


def configuration(
    workers: int,
    micro_batch: int,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    accumulation: int = 1,
    gpu: str | None = None,
) -> tuple[ResourceConfig, Knobs]:
    shape = ResourceConfig(
        runner="local",
        pool="gpu" if gpu else "cpu",
        market="local",
        workers_per_node=workers,
        vcpus_per_node=workers,
        gpus_per_node=workers if gpu else 0,
        gpu=gpu,
        gpu_memory_bytes=40 * GB if gpu else None,
        memory_bytes_per_node=None if gpu else 32 * GB,
    )
    replicas = workers // (tensor * pipeline)
    knobs = Knobs(
        micro_batch=micro_batch,
        accumulation=accumulation,
        global_batch=micro_batch * accumulation * replicas,
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
    )
    return shape, knobs


def probe(config: tuple[ResourceConfig, Knobs], step_s: float, **changes: object) -> ProbeResult:
    resources, knobs = config
    layout = (resources.workers, knobs.micro_batch, knobs.tensor_parallel, knobs.pipeline_parallel)
    base = ProbeResult(
        id=f"p-{layout}-{knobs.accumulation}",
        fingerprint="f-gpt",
        resources=resources,
        knobs=knobs,
        state="ok",
        measured_at=datetime(2026, 1, 1, tzinfo=UTC),
        steps=20,
        step_time_s=tuple(step_s * np.linspace(0.98, 1.02, 20)),
        start_s=3.0,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def on_cpu_s(workers: int, micro_batch: int, accumulation: int = 1, tensor: int = 1) -> float:
    """Steps of a made-up job: sharing a replica halves the computing, and costs an exchange."""
    return accumulation * (0.001 + 0.003 * micro_batch / tensor + 0.004 * (tensor > 1))


def cpu_probes(*tensor_two: int) -> list[ProbeResult]:
    usual = [
        probe(configuration(w, m, accumulation=a), on_cpu_s(w, m, a))
        for w, m, a in ((1, 16, 1), (2, 8, 1), (1, 4, 4))
    ]
    shared = [probe(configuration(2, m, tensor=2), on_cpu_s(2, m, tensor=2)) for m in tensor_two]
    return usual + shared


# ---- steps


def test_batches_are_those_of_replicas() -> None:
    columns = config_table([configuration(8, 4, tensor=2, pipeline=2, accumulation=3)])
    rows = language_rows(columns, MODEL, "A100")
    assert [rows[n][0] for n in ("num_gpus", "tp", "dp", "pp")] == [8, 2, 2, 2]
    assert (rows["global_batch_size"][0], rows["micro_batch_size"][0]) == (24, 4)
    replicas = by_replica(columns)
    assert (replicas["workers"][0], replicas["workers_per_node"][0]) == (2, 2)


def test_without_a_model_nothing_changes() -> None:
    found = ProbedJobPredictor().fit(cpu_probes()).predict([configuration(2, 8)], WORK)
    same = ProbedJobPredictor(model=None).fit(cpu_probes()).predict([configuration(2, 8)], WORK)
    assert found == same
    with_model = job_predictor(model=TINY).fit(cpu_probes()).predict([configuration(2, 8)], WORK)
    assert with_model == found, "on CPU slots a replica on each worker keeps its law"


def test_what_is_not_tried_is_wide_and_says_so() -> None:
    asked = [configuration(2, 16, tensor=2), configuration(2, 4, pipeline=2, accumulation=4)]
    untried = job_predictor(model=TINY).fit(cpu_probes()).predict(asked, WORK)
    assert [p.evidence for p in untried] == ["prior", "prior"]
    assert all(p.step_time_s.p95 > 2 * p.step_time_s.p05 for p in untried)
    assert untried[0].step_time_s.p05 < on_cpu_s(2, 16, tensor=2) < untried[0].step_time_s.p95


def test_a_probe_of_a_way_to_spread_settles_it() -> None:
    asked = [configuration(2, 16, tensor=2), configuration(2, 4, tensor=2, accumulation=4)]
    tried = job_predictor(model=TINY).fit(cpu_probes(16)).predict(asked, WORK)
    assert [p.evidence for p in tried] == ["probe", "transfer"]
    assert tried[0].step_time_s.p50 == pytest.approx(on_cpu_s(2, 16, tensor=2), rel=0.1)
    assert tried[0].step_time_s.p95 < 1.6 * tried[0].step_time_s.p05
    assert tried[1].step_time_s.p05 < on_cpu_s(2, 4, 4, tensor=2) < tried[1].step_time_s.p95


def test_probes_of_one_way_alone_are_enough_for_an_answer() -> None:
    shared = [p for p in cpu_probes(16, 4) if p.knobs.tensor_parallel == 2]
    predictor = job_predictor(model=TINY).fit(shared)
    found = predictor.predict([configuration(2, 16, tensor=2), configuration(1, 16)], WORK)
    assert [p.evidence for p in found] == ["probe", "prior"]
    assert predictor.card().time_mape is not None


def test_on_gpus_of_the_fitted_type_the_law_of_language_models_tells_all_steps() -> None:
    asked = [
        configuration(w, m, tensor=t, pipeline=p, accumulation=64 // (m * w // (t * p)), gpu="A100")
        for w, m, t, p in ((8, 4, 1, 1), (8, 8, 2, 1), (8, 4, 1, 4), (8, 4, 2, 2), (4, 2, 4, 1))
    ]
    rows = language_rows(config_table(asked), MODEL, "A100")
    truth = bundled().predict(rows)
    probes = [probe(asked[i], float(truth[i])) for i in (0, 3)]
    found = job_predictor(model=MODEL).fit(probes).predict(asked, WORK)
    assert [p.step_time_s.p50 for p in found] == pytest.approx(list(truth), rel=0.05)
    assert [p.evidence for p in found] == ["probe", "transfer", "transfer", "probe", "transfer"]


@pytest.mark.parametrize("name", ["A100", "NVIDIA A100-SXM4-40GB"])
def test_gpus_are_known_by_whatever_name_they_go(name: str) -> None:
    here, other = (configuration(8, 4, tensor=t, gpu=name) for t in (1, 2))
    (found,) = job_predictor(model=MODEL).fit([probe(here, 0.5)]).predict([other], WORK)
    assert found.evidence == "transfer"


def test_across_nodes_nothing_was_fitted() -> None:
    shape, knobs = configuration(8, 4, gpu="A100")
    two = (replace(shape, nodes=2), replace(knobs, tensor_parallel=8, global_batch=8))
    predictor = job_predictor(model=MODEL).fit([probe((shape, knobs), 0.5)])
    assert [p.evidence for p in predictor.predict([two], WORK)] == ["prior"]


def test_joint_draws_are_as_wide_as_the_intervals() -> None:
    asked = [configuration(2, 8), configuration(2, 16, tensor=2)]
    predictor = job_predictor(model=TINY).fit(cpu_probes())
    drawn = np.log(predictor.draws(asked, WORK)).std(axis=0)
    assert drawn.shape == (2,)
    assert drawn[1] > 3 * drawn[0], "what was not tried is what a probe could tell of"


def test_a_smaller_vocabulary_has_less_of_a_head() -> None:
    rows = language_rows(config_table([configuration(8, 4, gpu="A100")]), MODEL, "A100")
    small = replace(MODEL, vocabulary=1024)
    times = [float(prior_regressor(m, "A100", rows).predict(rows)[0]) for m in (small, MODEL)]
    assert times[0] < times[1]
    assert prior_regressor(MODEL, "A100", rows).predict(rows) == pytest.approx(
        bundled().predict(rows)
    )


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.sampled_from([2, 8]))
def test_quantiles_are_positive_and_in_order(tensor: int, pipeline: int, micro_batch: int) -> None:
    (found,) = FITTED.predict(
        [configuration(16, micro_batch, tensor=tensor, pipeline=pipeline, accumulation=4)], WORK
    )
    for quantiles in (found.step_time_s.quantiles, found.run_s.quantiles):
        assert min(quantiles) > 0
        assert list(quantiles) == sorted(quantiles)


FITTED = job_predictor(model=TINY).fit(cpu_probes(16))


# ---- memory


def gpu_probe(micro_batch: int, *, tensor: int = 1, **more: object) -> ProbeResult:
    """A worker of a job with 4 GB of state and 1 GB of activations a sample, shared by `tensor`."""
    held = {"model_bytes": GB, "gradient_bytes": GB, "optimizer_bytes": 2 * GB}
    peak = (4 * GB + micro_batch * GB) // tensor
    config = configuration(max(tensor, 1), micro_batch, tensor=tensor, gpu="A100")
    values = {name: size // tensor for name, size in held.items()}
    more = {"peak_device_bytes": peak, "capacity_bytes": 40 * GB, **values, **more}
    return probe(config, 0.1, **more)


def peaks(memory: LanguageMemory | JobMemory, *asked: tuple[ResourceConfig, Knobs]) -> list[float]:
    found = memory.predict(asked, config_table(asked)).quantiles
    return [float(row[len(LEVELS) // 2]) / GB for row in found]


def test_workers_hold_their_share_of_state_and_activations() -> None:
    memory = LanguageMemory([gpu_probe(4), gpu_probe(16)], MODEL, seed=0)
    asked = [configuration(4, 8, tensor=t, gpu="A100") for t in (1, 2, 4)]
    one, two, four = peaks(memory, *asked)
    assert one > 1.5 * two > 2 * four
    found = memory.predict(asked, config_table(asked))
    assert found.evidence == ["transfer", "prior", "prior"]
    lows, highs = np.log(found.quantiles[:, 1]), np.log(found.quantiles[:, -2])
    assert np.all((highs - lows)[1:] > (highs - lows)[0]), "nothing was measured there"


def test_stages_hold_the_activations_of_several_micro_batches() -> None:
    memory = LanguageMemory([gpu_probe(4), gpu_probe(16)], MODEL, seed=0)
    asked = [configuration(2, 8, pipeline=2, accumulation=a, gpu="A100") for a in (1, 2, 8)]
    one, two, eight = peaks(memory, *asked)
    assert one < two == eight


def test_a_replica_alone_has_no_buckets_over_however_many_workers() -> None:
    memory = LanguageMemory([gpu_probe(4), gpu_probe(16)], MODEL, seed=0)
    asked = [configuration(w, 8, tensor=t, gpu="A100") for w, t in ((1, 1), (2, 1), (2, 2), (4, 2))]
    found = memory.predict(asked, config_table(asked)).parts
    buckets = [made_of.synchronisation_bytes for made_of in found if made_of]
    assert [b > 0 for b in buckets] == [False, True, False, True]


def test_replicas_not_workers_tell_whether_a_peak_was_measured() -> None:
    memory = LanguageMemory([gpu_probe(m, tensor=2) for m in (4, 16)], MODEL, seed=0)
    asked = [configuration(w, 4, tensor=2, gpu="A100") for w in (2, 4)]
    assert memory.predict(asked, config_table(asked)).evidence == ["probe", "transfer"]


def test_a_peak_that_was_measured_goes_before_shares() -> None:
    odd = gpu_probe(8, tensor=2, peak_device_bytes=9 * GB)
    memory = LanguageMemory([gpu_probe(4), gpu_probe(16), odd], MODEL, seed=0)
    asked = [configuration(2, m, tensor=2, gpu="A100") for m in (8, 16)]
    assert peaks(memory, *asked)[0] == pytest.approx(9, rel=0.1)
    assert memory.predict(asked, config_table(asked)).evidence == ["probe", "transfer"]


def test_of_one_way_alone_memory_is_that_of_any_job() -> None:
    trials = [gpu_probe(4), gpu_probe(16)]
    asked = [configuration(1, 8, gpu="A100")]
    plain, own = JobMemory(trials, seed=0), LanguageMemory(trials, MODEL, seed=0)
    assert peaks(own, *asked) == peaks(plain, *asked)


UNTOLD = {"model_bytes": None, "gradient_bytes": None, "optimizer_bytes": None}


def lost(micro_batch: int, *, tensor: int = 1, **more: object) -> ProbeResult:
    more = {"state": "oom", "step_time_s": (), "peak_device_bytes": None, **UNTOLD, **more}
    return gpu_probe(micro_batch, tensor=tensor, **more)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("measured", [(), (4,)])
def test_what_ran_out_of_memory_spread_like_that_is_not_tried_again(
    told: bool, measured: tuple[int, ...]
) -> None:
    sizes = {} if told else UNTOLD
    here = [gpu_probe(m, **sizes) for m in (4, 8)]
    there = [gpu_probe(m, tensor=2, **sizes) for m in measured]
    asked = [configuration(2, m, tensor=2, gpu="A100") for m in (2, 4, 32, 64)]
    free = LanguageMemory([*here, *there], MODEL, seed=0)
    memory = LanguageMemory([*here, *there, lost(32, tensor=2)], MODEL, seed=0)
    assert free.predict(asked, config_table(asked)).p_oom[2] < 0.5
    found = memory.predict(asked, config_table(asked))
    assert max(found.p_oom[:2]) < 0.05
    assert min(found.p_oom[2:]) >= 0.97
    assert peaks(memory, *asked)[2] > 36, "the peak lies above what was there, less the context"
    assert found.evidence[2] == ("transfer" if measured else "prior")


def test_what_ran_out_of_memory_needs_more_also_where_the_optimiser_took_most() -> None:
    flat = [gpu_probe(m, tensor=2, peak_device_bytes=p * GB) for m, p in ((4, 13), (8, 13))]
    memory = LanguageMemory([*flat, lost(2)], MODEL, seed=0)
    small, same, double = peaks(memory, *(configuration(1, m, gpu="A100") for m in (1, 2, 4)))
    assert small < 38 < same < 60
    assert same < double < 120


def test_what_fitted_spread_like_that_fits() -> None:
    silent = gpu_probe(64, tensor=2, peak_device_bytes=None)
    asked = [configuration(2, m, tensor=2, gpu="A100") for m in (64, 128)]
    memory = LanguageMemory([gpu_probe(4), gpu_probe(16), silent], MODEL, seed=0)
    fits, not_tried = memory.predict(asked, config_table(asked)).p_oom
    assert fits <= 0.03 < not_tried


def test_what_fails_with_fewer_micro_batches_at_once_fails_with_more() -> None:
    failed = [
        probe(c, 0.1, state="oom", step_time_s=(), capacity_bytes=40 * GB)
        for c in [configuration(2, 32, pipeline=2, accumulation=2, gpu="A100")]
    ]
    asked = [configuration(2, 32, pipeline=2, accumulation=a, gpu="A100") for a in (1, 2, 8)]
    for base in ([], [gpu_probe(2), gpu_probe(4, peak_device_bytes=7 * GB)]):
        found = LanguageMemory([*base, *failed], MODEL, seed=0).predict(asked, config_table(asked))
        assert found.p_oom[0] < 0.97 <= min(found.p_oom[1:])


def test_state_of_unknown_size_grows_for_those_who_hold_more_of_it() -> None:
    told = {4: 26 * GB, 8: 30 * GB}
    trials = [gpu_probe(m, tensor=2, peak_device_bytes=p, **UNTOLD) for m, p in told.items()]
    asked = [configuration(4, 1, gpu="A100"), configuration(4, 4, tensor=4, gpu="A100")]
    memory = LanguageMemory(trials, MODEL, seed=0)
    alone, four = peaks(memory, *asked)
    assert alone > 40
    assert 13 < four < 26, "the context stays whole: an upper bound"
    assert memory.predict(asked, config_table(asked)).p_oom[0] > 0.5


def test_memory_does_not_depend_on_what_else_is_asked_or_when() -> None:
    odd = probe(configuration(2, 4, pipeline=2, gpu="A100"), 0.1, peak_device_bytes=20 * GB)
    trials = [gpu_probe(4), gpu_probe(16), odd]
    asked = [configuration(2, 4, pipeline=2, accumulation=a, gpu="A100") for a in (1, 4)]
    both = peaks(LanguageMemory(trials, MODEL, seed=0), *asked)
    turned = peaks(LanguageMemory(trials, MODEL, seed=0), *reversed(asked))
    alone = peaks(LanguageMemory(trials, MODEL, seed=0), asked[1])
    assert both == [*reversed(turned)]
    assert both[1:] == alone
    assert alone[0] > both[0] > 19, "what was measured of one counts for the other"
    backwards = peaks(LanguageMemory(trials[::-1], MODEL, seed=0), *asked)
    assert backwards == pytest.approx(both, rel=0.02)


def test_a_peak_on_a_gpu_that_no_other_way_was_tried_on_counts() -> None:
    odd = gpu_probe(8, tensor=2, peak_device_bytes=16 * GB)
    odd = replace(odd, resources=replace(odd.resources, gpu="H100"))
    asked = [configuration(2, 8, tensor=2, gpu="H100")]
    memory = LanguageMemory([gpu_probe(4), gpu_probe(16), odd], MODEL, seed=0)
    assert peaks(memory, *asked)[0] == pytest.approx(16, rel=0.1)


def test_errors_of_memory_are_those_within_a_way_to_spread() -> None:
    ways = [[gpu_probe(m, tensor=t) for m in (4, 8, 16)] for t in (1, 4)]
    each = [job_predictor(model=MODEL).fit(w).card().memory_mape for w in ways]
    both = job_predictor(model=MODEL).fit([*ways[0], *ways[1]]).card().memory_mape
    assert both == pytest.approx(np.mean([e for e in each if e is not None]))


def test_nothing_measured_is_nothing_known() -> None:
    silent = probe(configuration(1, 4), 0.1)
    found = LanguageMemory([silent], MODEL, seed=0).predict(
        [configuration(2, 4, tensor=2)], config_table([configuration(2, 4, tensor=2)])
    )
    assert (list(found.evidence), list(found.parts), found.p_oom[0]) == (["prior"], [None], 0.0)


def test_parameters_of_a_stage() -> None:
    whole = stage_parameters(MODEL, 1, 1)
    assert whole == pytest.approx(12 * 16 * 1024**2 * (1 + 13 / 12288) + 50304 * 1024)
    assert stage_parameters(MODEL, 2, 1) == whole / 2
    assert stage_parameters(MODEL, 1, 16) > whole / 16, "the first stage holds the vocabulary"
