"""Bad or thin evidence of a job: never a confident, negative or shrinking time, and always told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from planner.core.distribution import I50
from planner.core.types import ProbeResult
from planner.services.estimating.doubtwarnings import doubt_warnings
from predictors.doubts import Doubts
from predictors.job import Config, ProbedJobPredictor
from predictors.registry import job_predictor
from tests.support.syntheticjobs import WORK, SyntheticJob, configuration

QUIET = SyntheticJob(drift=0.0)
USUAL = [(1, 16), (1, 64), (2, 32)]
NEAR = [configuration(1, 16), configuration(1, 32), configuration(2, 32)]


def probes(*shapes: tuple[int, int], gpu: str | None = None) -> list[ProbeResult]:
    rng = np.random.default_rng(0)
    return [QUIET.probe(rng, *shape, gpu=gpu) for shape in shapes]


def timed(probe: ProbeResult, *step_time_s: float) -> ProbeResult:
    return replace(probe, step_time_s=step_time_s)


def told(rows: Sequence[ProbeResult], configs: Sequence[Config] = NEAR) -> list[str]:
    predictor = job_predictor().fit(rows)
    predictor.predict(configs, WORK)
    return [w.code for w in doubt_warnings(predictor.doubts(configs), configs)]


def width(rows: Sequence[ProbeResult], config: Config) -> float:
    run_s = job_predictor().fit(rows).predict([config], WORK)[0].run_s
    return float(np.log(run_s.p95 / run_s.p05))


def test_good_probes_near_what_is_asked_raise_no_doubt() -> None:
    assert told(probes(*USUAL)) == []


def test_one_probe_alone_is_told_and_less_certain_than_three() -> None:
    assert told(probes((1, 16))) == ["probe.only_one"]
    other = configuration(2, 32)
    assert width(probes((1, 16)), other) > 1.5 * width(probes(*USUAL), other)


def test_probes_at_one_batch_are_told_where_others_are_asked_and_leave_those_open() -> None:
    rows = probes((1, 16), (2, 16))
    assert told(rows) == ["probe.one_batch"]
    assert told(rows, [configuration(1, 16), configuration(2, 16)]) == []
    both = probes((1, 16), (2, 16), (1, 64))
    assert width(rows, configuration(1, 64)) > 1.3 * width(both, configuration(1, 64))


def test_a_slowed_probe_is_told_by_its_shape() -> None:
    *good, last = probes(*USUAL, (2, 16), (1, 32))
    rows = [*good, timed(last, *(10 * t for t in last.step_time_s))]
    assert told(rows) == ["probe.outlier"]
    (warning,) = doubt_warnings(job_predictor().fit(rows).doubts(NEAR), NEAR)
    assert "Steps of 1 worker x 32 took much longer" in warning.text


def test_probes_that_contradict_each_other_are_told() -> None:
    one, two = probes((1, 16), (1, 64))
    assert told([one, timed(two, *(10 * t for t in two.step_time_s))]) == ["probe.disagree"]
    rows = [
        timed(p, *(f * t for t in p.step_time_s))
        for p, f in zip(probes(*USUAL, (2, 16), (1, 32)), (1, 3, 1, 3, 0.3), strict=True)
    ]
    assert "probe.disagree" in told(rows)
    assert width(rows, NEAR[0]) > 1.5 * width(probes(*USUAL), NEAR[0])


@pytest.mark.parametrize("bad", [nan, inf, -inf, 0.0, -0.2])
def test_times_that_cannot_be_are_told_and_do_not_count(bad: float) -> None:
    first, *others = probes(*USUAL)
    mixed = timed(first, bad, *first.step_time_s, bad)
    assert told([mixed, *others]) == ["probe.bad_times"]
    clean, dirty = (job_predictor().fit([p, *others]).predict(NEAR, WORK) for p in (first, mixed))
    assert dirty == clean
    silent = timed(first, bad, bad)
    assert told([silent, *others]) == ["probe.bad_times"]
    clean, dirty = (job_predictor().fit([p, *others]) for p in (timed(first), silent))
    assert dirty.predict(NEAR, WORK) == clean.predict(NEAR, WORK)


@pytest.mark.parametrize("field", ["start_s", "tail_s", "checkpoint_s", "loader_wait_s", "rest_s"])
@pytest.mark.parametrize("bad", [nan, inf, -5.0])
def test_other_times_that_cannot_be_are_taken_for_unseen(field: str, bad: float) -> None:
    first, *others = probes(*USUAL)
    found = job_predictor().fit([replace(first, **{field: bad}), *others]).predict(NEAR, WORK)
    unseen = job_predictor().fit([replace(first, **{field: None}), *others]).predict(NEAR, WORK)
    assert found == unseen


def test_a_gpu_that_nobody_knows_is_told_and_open_by_a_factor_of_five() -> None:
    unknown, known = (configuration(1, 16, gpu=gpu) for gpu in ("Foo 9000", "A100"))
    rows = probes(*USUAL, gpu="T4")
    assert told(rows, [unknown]) == ["machine.unknown_gpu"]
    assert told(rows, [known]) == []
    step = job_predictor().fit(rows).predict([unknown], WORK)[0].step_time_s
    assert step.p95 / step.p50 > 5
    assert step.p50 / step.p05 > 5
    assert told(probes(*USUAL), [known]) == ["machine.unknown_gpu"]


def test_what_is_far_beyond_the_probes_is_told_and_uncertain() -> None:
    resources, knobs = configuration(8, 512, global_batch=32768)
    far = (replace(resources, nodes=16), replace(knobs, accumulation=1))
    assert told(probes(*USUAL), [*NEAR, far]) == ["model.far_from_probes"]
    assert job_predictor().fit(probes(*USUAL)).doubts([*NEAR, far]).far == (3,)
    assert width(probes(*USUAL), far) > 3 * width(probes(*USUAL), NEAR[1])


def test_the_text_says_what_how_many_and_what_to_do() -> None:
    doubts = Doubts(single=True, only_batch=None, unknown_gpus=("X1", "Y2"), far=(0, 1))
    configs = [configuration(4, 128), configuration(8, 64)]
    one, unknown, far = doubt_warnings(doubts, configs)
    assert all(w.hint for w in (one, unknown, far))
    assert "X1 and Y2" in unknown.text
    assert "2 options are far" in far.text
    assert "up to 8 workers, micro-batches of 64 to 128" in far.text


# ---- whatever the probes say


def shapes() -> st.SearchStrategy[tuple[int, int, int, int]]:
    return st.tuples(
        st.sampled_from([1, 2, 4]),
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from([1, 2, 8, 64, 1024]),
        st.sampled_from([1, 2, 7]),
    )


def placed(nodes: int, workers: int, micro_batch: int, passes: int, gpu: str | None) -> Config:
    resources, knobs = configuration(workers, micro_batch, gpu=gpu)
    batch = nodes * workers * micro_batch * passes
    return (
        replace(resources, nodes=nodes),
        replace(knobs, accumulation=passes, global_batch=batch),
    )


TIMES = st.lists(st.floats(-6, 4).map(lambda x: 10.0**x), min_size=1, max_size=4)
TRIALS = st.lists(st.tuples(shapes(), TIMES), min_size=1, max_size=6)


def probed(
    trials: Sequence[tuple[tuple[int, int, int, int], list[float]]], gpu: str | None
) -> ProbedJobPredictor:
    made = []
    for i, (shape, times) in enumerate(trials):
        resources, knobs = placed(*shape, gpu)
        base = QUIET.probe(np.random.default_rng(0), 1, 16, gpu=gpu)
        made.append(
            replace(base, id=f"p-{i}", resources=resources, knobs=knobs, step_time_s=tuple(times))
        )
    return ProbedJobPredictor().fit(made)


@settings(deadline=None, max_examples=12)
@given(TRIALS, shapes(), st.sampled_from([None, "T4"]))
@example([((1, 1, 1, 1), [1e-6]), ((4, 8, 1024, 1), [1e4])], (1, 8, 64, 1), None)
def test_times_are_positive_and_grow_with_work_whatever_the_probes_say(
    trials: list[tuple[tuple[int, int, int, int], list[float]]],
    shape: tuple[int, int, int, int],
    gpu: str | None,
) -> None:
    predictor = probed(trials, gpu)
    config = placed(*shape, gpu)
    batch = config[1].global_batch

    def run_s(config: Config, **work: float) -> np.ndarray:
        (found,) = predictor.predict([config], replace(WORK, **work))
        quantiles = np.asarray([found.step_time_s.quantiles, found.run_s.quantiles])
        assert np.all(np.isfinite(quantiles))
        assert np.all(quantiles > 0)
        assert np.all(np.diff(quantiles, axis=1) >= 0)
        return quantiles

    few = run_s(config, samples=3 * batch)
    for more in (
        run_s(config, samples=4 * batch + batch // 2),
        run_s(config, samples=3 * batch, epochs=17),
    ):
        assert np.all(more[1] >= few[1] * (1 - 1e-9))
    larger = run_s(placed(*shape[:3], shape[3] + 1, gpu), samples=3 * batch)
    # Outer quantiles may come closer: what workers cost each other, and its error, weighs less.
    assert larger[0, I50] >= few[0, I50] * (1 - 1e-9)
