"""What is thought of probes of language models: doubtful ones, and what predictions rest on."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from planner.core.distribution import I05, I95
from planner.core.prediction import Prediction
from planner.core.types import ProbeResult
from planner.services.estimating.doubtwarnings import doubt_warnings
from predictors.features import config_table
from predictors.job import Config
from predictors.language import language_rows, prior_regressor
from predictors.language_steps import LanguageSteps
from predictors.llm import bundled
from predictors.registry import job_predictor
from predictors.step_time import StepTimeRegressor
from tests.unit.test_predictors_language import (
    MODEL,
    TINY,
    WORK,
    configuration,
    cpu_probes,
    on_cpu_s,
    probe,
)

ASKED = [
    configuration(8, 4, gpu="A100"),
    configuration(4, 4, gpu="A100"),
    configuration(8, 4, tensor=2, gpu="A100"),
    configuration(8, 8, gpu="A100"),
]


def as_foreseen(asked: list[Config]) -> list[float]:
    rows = language_rows(config_table(asked), MODEL, "A100")
    return [float(s) for s in bundled().predict(rows)]


def probes_of(asked: list[Config], **slower: float) -> list[ProbeResult]:
    times = [s * slower.get(f"at_{i}", 1.0) for i, s in enumerate(as_foreseen(asked))]
    return [probe(config, s) for config, s in zip(asked, times, strict=True)]


def width(found: Prediction) -> float:
    return found.run_s.p95 / found.run_s.p05


def on_nodes(config: Config, nodes: int) -> Config:
    resources, knobs = config
    whole = knobs.global_batch * nodes
    return replace(resources, nodes=nodes), replace(knobs, global_batch=whole)


def trials(gpu: str, scale: float, job: str) -> list[ProbeResult]:
    found = [probe(configuration(1, m, gpu=gpu), scale * (0.1 + 0.02 * m)) for m in (4, 8, 16)]
    return [replace(p, fingerprint=job, id=f"{job}{gpu}{p.id}") for p in found]


def of_others(slow: str, fast: str) -> list[ProbeResult]:
    """Probes of four other jobs on two GPU types."""
    jobs = [f"h{i}" for i in range(4)]
    return [p for j in jobs for gpu, s in ((slow, 1.0), (fast, 0.4)) for p in trials(gpu, s, j)]


# ---- doubtful probes


@pytest.mark.parametrize("slow", [0, 2])
def test_a_slow_probe_is_told_and_widens_all_intervals(slow: int) -> None:
    usual = job_predictor(model=MODEL).fit(probes_of(ASKED)).predict(ASKED, WORK)
    rows = probes_of(ASKED, **{f"at_{slow}": 10.0})
    predictor = job_predictor(model=MODEL).fit(rows)
    doubts = predictor.doubts(ASKED)
    assert [p.id for p in doubts.slowed] == [rows[slow].id]
    assert not doubts.disagreeing
    for was, found, true in zip(
        usual, predictor.predict(ASKED, WORK), as_foreseen(ASKED), strict=True
    ):
        assert found.step_time_s.p50 == pytest.approx(true, rel=0.05)
        assert width(found) > 1.2 * width(was)
    assert "probe.outlier" in [w.code for w in doubt_warnings(doubts, ASKED)]


def test_of_two_probes_that_contradict_each_other_either_may_be_right() -> None:
    rows = probes_of(ASKED[:2], at_0=10.0)
    predictor = job_predictor(model=MODEL).fit(rows)
    assert {p.id for p in predictor.doubts(ASKED).disagreeing} == {p.id for p in rows}
    found, true = predictor.predict(ASKED, WORK)[0].step_time_s, as_foreseen(ASKED)[0]
    assert found.p05 < true < 5 * true < found.p95


def test_of_three_probes_two_may_have_been_slowed_alike() -> None:
    rows = probes_of(ASKED[:3], at_0=10.0, at_1=10.0)
    predictor = job_predictor(model=MODEL).fit(rows)
    doubts = predictor.doubts(ASKED)
    assert {p.id for p in doubts.disagreeing} == {p.id for p in rows}
    assert not doubts.slowed
    for found, true in zip(predictor.predict(ASKED, WORK), as_foreseen(ASKED), strict=True):
        assert found.step_time_s.p05 < true < found.step_time_s.p50


@pytest.mark.parametrize(
    "slowed", [[10.0], [1.0, 10.0], [10.0, 1.0, 1.0], [10.0, 10.0, 1.0]], ids=str
)
def test_the_law_itself_reaches_to_the_truth_whichever_probes_were_slowed(slowed) -> None:
    rows = language_rows(config_table(ASKED), MODEL, "A100")
    true = bundled().predict(rows)
    tried = language_rows(config_table(ASKED[: len(slowed)]), MODEL, "A100")
    model = bundled().adapt(tried, true[: len(slowed)] * slowed)
    found = model.predict_distribution(rows)
    assert np.all((found[:, I05] < true) & (true < found[:, I95]))
    drawn = np.exp(model.log_draws(rows, np.random.default_rng(0), size=4000))
    assert np.quantile(drawn, 0.05, axis=0) == pytest.approx(found[:, I05], rel=0.15)
    assert np.quantile(drawn, 0.95, axis=0) == pytest.approx(found[:, I95], rel=0.15)


def test_doubts_are_added_once() -> None:
    rows = probes_of(ASKED[:3], at_0=10.0)
    table = config_table(ASKED)
    times = [p.step_time_s[0] for p in rows]
    asked = language_rows(table, MODEL, "A100")
    alone = bundled().adapt({n: v[:3] for n, v in asked.items()}, times)
    steps = LanguageSteps(model=MODEL, gpu="A100", plain=StepTimeRegressor())
    steps.fit({n: v[:3] for n, v in table.items()}, times)
    for ours, theirs in zip(steps.log_moments(table), alone.log_moments(asked), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(("slower", "low"), [(1.0, 0.75), (10.0, 0.15)])
def test_a_single_probe_may_have_been_slowed(slower: float, low: float) -> None:
    predictor = job_predictor(model=MODEL).fit(probes_of(ASKED[:1], at_0=slower))
    (found,) = predictor.predict(ASKED[:1], WORK)
    assert found.step_time_s.p50 == pytest.approx(slower * as_foreseen(ASKED)[0], rel=0.1)
    assert found.run_s.p05 < low * found.run_s.p50
    assert found.run_s.p95 < 1.5 * found.run_s.p50


def test_draws_are_shaken_by_slow_probes_too() -> None:
    spreads = []
    for slower in (1.0, 10.0):
        predictor = job_predictor(model=MODEL).fit(probes_of(ASKED, at_1=slower))
        spreads.append(float(np.log(predictor.draws(ASKED[:1], WORK)).std()))
    assert spreads[1] > 1.2 * spreads[0]


def test_what_was_probed_is_not_far() -> None:
    for gpu in ("A100", None):
        rows = [
            probe(configuration(8, 1, gpu=gpu), 0.2),
            probe(configuration(8, 32, tensor=8, gpu=gpu), 0.9),
        ]
        asked = [(p.resources, p.knobs) for p in rows]
        assert job_predictor(model=MODEL).fit(rows).doubts(asked).far == ()


def test_doubts_do_not_depend_on_what_was_predicted_before() -> None:
    predictor = job_predictor(history=of_others("T4", "W9")).fit(trials("T4", 1.0, "own"))
    asked = [configuration(1, 8, gpu="W9")]
    first = predictor.doubts(asked)
    predictor.predict(asked, WORK)
    assert first == predictor.doubts(asked)
    assert first.unknown_gpus == ()


# ---- evidence


def test_across_nodes_the_fitted_law_is_no_transfer() -> None:
    asked = [on_nodes(ASKED[0], 16), on_nodes(ASKED[0], 1), ASKED[2]]
    found = job_predictor(model=MODEL).fit(probes_of(ASKED[:1])).predict(asked, WORK)
    assert [p.evidence for p in found] == ["prior", "probe", "transfer"]


def test_what_is_carried_over_is_no_better_founded_than_where_it_comes_from() -> None:
    predictor = job_predictor(history=of_others("T4", "V100"), model=MODEL).fit(
        trials("T4", 1.0, "own")
    )
    asked = [configuration(8, 8, tensor=4, pipeline=2, gpu=g) for g in ("T4", "V100")]
    asked.append(configuration(1, 8, gpu="V100"))
    assert [p.evidence for p in predictor.predict(asked, WORK)] == ["prior", "prior", "history"]


def test_another_number_of_micro_batches_was_not_probed() -> None:
    def staged(passes: int) -> Config:
        return configuration(4, 4, pipeline=4, accumulation=passes, gpu="A100")

    predictor = job_predictor(model=MODEL).fit([probe(staged(1), 0.3)])
    found = predictor.predict([staged(1), staged(64)], WORK)
    assert [p.evidence for p in found] == ["probe", "transfer"]


# ---- which probes count, and how


def test_without_a_model_probes_of_shared_replicas_do_not_count() -> None:
    asked = [configuration(1, 16), configuration(2, 8), configuration(2, 16)]
    found = job_predictor().fit(cpu_probes(16, 8, 4)).predict(asked, WORK)
    assert found == job_predictor().fit(cpu_probes()).predict(asked, WORK)
    assert found[0].step_time_s.p50 == pytest.approx(on_cpu_s(1, 16), rel=0.1)


def test_a_probe_that_the_model_as_described_cannot_have_does_not_count() -> None:
    rows = [probe(ASKED[0], 0.5), probe(configuration(3, 4, tensor=3, gpu="A100"), 0.5)]
    found = job_predictor(model=MODEL).fit(rows).predict(ASKED, WORK)
    assert found == job_predictor(model=MODEL).fit(rows[:1]).predict(ASKED, WORK)


def test_workers_that_are_no_whole_replicas_are_refused() -> None:
    predictor = job_predictor(model=MODEL).fit([probe(ASKED[0], 0.5)])
    resources, knobs = configuration(8, 4, tensor=4, gpu="A100")
    odd = (replace(resources, workers_per_node=6), knobs)
    with pytest.raises(ValueError, match="divide workers"):
        predictor.predict([odd], WORK)


def test_the_order_of_probes_does_not_matter() -> None:
    tried = [(configuration(1, 16), 0.1), (configuration(2, 8), 0.07), (configuration(4, 4), 0.05)]
    rows = [probe(config, s) for config, s in tried]
    asked = [configuration(2, 16), configuration(8, 16)]
    first, *others = (
        job_predictor().fit(list(order)).predict(asked, WORK) for order in permutations(rows)
    )
    assert all(found == first for found in others)


def test_machines_of_cpu_slots_have_a_network_of_their_own() -> None:
    rows = language_rows(config_table([on_nodes(configuration(2, 4, tensor=2), 2)]), TINY, "cpu")
    slow, fast = (prior_regressor(TINY, "cpu", rows) for _ in range(2))
    fast.network_gb_per_s = 100.0
    assert slow.network_gb_per_s == 1.0
    assert slow.predict(rows)[0] > fast.predict(rows)[0]
