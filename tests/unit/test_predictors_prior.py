"""Priors of the step law: learned from jobs in three levels, kept as JSON, else from physics."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.measurements import STEP_FIELDS, step_rows, write

from planner.core.distribution import I05, I50, I95
from predictors.conformal import width_factor
from predictors.features import table, take
from predictors.pooling import MeasuredJob, learn, pool, summarise
from predictors.prior import PriorSet, StepPrior, bundled, main, physics
from predictors.step_law import PARAMETERS, Scale, step
from predictors.step_time import StepTimeRegressor

TRUTH = dict(
    fixed=0.1,
    per_sample=0.9,
    contention=0.03,
    load=0.01,
    sharing=0.05,
    sync_local=0.1,
    local_growth=1.0,
    sync_remote=0.6,
    growth=0.37,
    latency=0.01,
    pair=0.4,
    beyond=1.0,
    crowd=0.25,
    overlap=1.0,
)
GROWTH, BEYOND = PARAMETERS.index("growth"), PARAMETERS.index("beyond")


def measured(gpu: str, number: int, **cluster: float) -> MeasuredJob:
    """A job of its own on a cluster that is told by the given parameters."""
    rng = np.random.default_rng(number)
    own = {
        name: TRUTH[name] * rng.lognormal(0, 0.3) for name in ("fixed", "sync_local", "sync_remote")
    }
    theta = np.log([{**TRUTH, **own, **cluster}[name] for name in PARAMETERS])
    shapes = [(n, p) for n in (1, 2, 3, 4, 8, 16) for p in (1, 2, 4)]
    columns = table(
        {
            "nodes": [float(n) for n, _ in shapes for _ in range(3)],
            "workers": [float(n * p) for n, p in shapes for _ in range(3)],
            "micro_batch": [8.0, 32.0, 64.0] * len(shapes),
        }
    )
    law = step(theta[None, :], columns, Scale(step_s=0.3, micro_batch=64.0))[0]
    noise = np.exp(0.02 * rng.standard_normal(len(law)))
    return MeasuredJob(model=f"m{number}", gpu=gpu, columns=columns, step_s=law * noise)


@pytest.fixture(scope="module")
def jobs() -> list[MeasuredJob]:
    flat = [measured("V100", i, growth=0.2, beyond=0.8) for i in range(4)]
    steep = [measured("A100", 10 + i, growth=1.4, beyond=1.2) for i in range(4)]
    return [*flat, *steep]


@pytest.fixture(scope="module")
def priors(jobs) -> PriorSet:
    return pool([summarise(job) for job in jobs])


def test_what_a_cluster_does_is_known_where_it_was_seen(priors) -> None:
    flat, steep, unseen = priors.of("V100"), priors.of("A100"), priors.of("H100")
    assert np.exp(flat.mean[BEYOND]) == pytest.approx(0.8, abs=0.1)
    assert np.exp(steep.mean[BEYOND]) == pytest.approx(1.2, abs=0.15)
    assert flat.mean[GROWTH] < unseen.mean[GROWTH] < steep.mean[GROWTH]
    for index in (GROWTH, BEYOND):
        assert unseen.covariance[index, index] > 1.5 * flat.covariance[index, index]


def test_parameters_that_go_together_in_jobs_tell_of_each_other() -> None:
    jobs = [
        measured("V100", i, fixed=0.1 * factor, sync_remote=0.6 * factor)
        for i, factor in enumerate((0.25, 0.5, 1.0, 2.0, 4.0))
    ]
    found = pool([summarise(job) for job in jobs]).of("V100").covariance
    fixed, remote = PARAMETERS.index("fixed"), PARAMETERS.index("sync_remote")
    assert found[fixed, remote] / np.sqrt(found[fixed, fixed] * found[remote, remote]) > 0.5


def test_a_new_job_on_a_seen_cluster_is_predicted_better_than_by_physics(priors) -> None:
    new = measured("V100", 99, growth=0.2, beyond=0.8)
    c = new.columns
    wanted = [(1, 1, 8), (1, 1, 64), (2, 1, 8), (2, 2, 8), (2, 2, 64), (4, 1, 8)]
    probes = [
        int(np.flatnonzero((c["workers"] == w) & (c["nodes"] == n) & (c["micro_batch"] == m))[0])
        for w, n, m in wanted
    ]
    far = c["nodes"] > 2
    errors = [
        np.abs(
            StepTimeRegressor(prior=prior)
            .fit(take(c, probes), new.step_s[probes])
            .predict(take(c, far))
            / new.step_s[far]
            - 1
        ).mean()
        for prior in (priors.of("V100"), physics())
    ]
    assert errors[0] < 0.06
    assert errors[0] < errors[1]


def test_jobs_of_one_worker_teach_nothing_and_none_teach_physics(jobs) -> None:
    alone = [
        MeasuredJob(
            model=job.model,
            gpu=job.gpu,
            columns=take(job.columns, job.columns["workers"] == 1),
            step_s=job.step_s[job.columns["workers"] == 1],
        )
        for job in jobs
    ]
    learned = learn(alone)
    assert not learned.seen
    assert learned.residual is None
    np.testing.assert_allclose(learned.of("V100").mean, physics().mean)


def test_learning_is_repeatable_and_survives_json(jobs) -> None:
    one, two = learn(jobs[:5]), learn(jobs[:5])
    kept = PriorSet.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False)))
    assert one.to_json() == two.to_json() == kept.to_json()
    assert 0.3 < one.of("V100").width_across < 2


def test_a_prior_of_another_law_is_refused() -> None:
    data = bundled().to_json()
    with pytest.raises(ValueError, match="not a prior of this law"):
        PriorSet.from_json({**data, "parameters": ["fixed"]})
    with pytest.raises(ValueError, match="not a prior of this law"):
        PriorSet.from_json({**data, "kind": "step_time/2"})
    with pytest.raises(ValueError, match="parameters: shape"):
        StepPrior.from_json({"mean": [0.0], "covariance": [[1.0]], "width": 1, "width_across": 1})


def test_the_shipped_prior_knows_gpus_by_any_of_their_names_and_leaves_cpus_to_physics() -> None:
    shipped = bundled()
    assert shipped.of("NVIDIA T4") is shipped.of("T4") is shipped.of("Tesla T4")
    assert shipped.of("Tesla P100-PCIE-16GB") is shipped.seen["P100"]
    assert shipped.of("something new") is shipped.unseen
    np.testing.assert_array_equal(shipped.of(None).mean, physics(on_cpu=True).mean)
    for prior in (shipped.unseen, *shipped.seen.values()):
        assert np.all(np.linalg.eigvalsh(prior.covariance) > 0)


def drawn(seed: int) -> tuple[dict, np.ndarray]:
    """A job on a cluster of another law: a ring over all workers, whose links nodes share."""
    rng = np.random.default_rng(seed)
    shapes = [(n, p) for n in (1, 2, 3, 4, 8) for p in (1, 2, 4, 8)]
    rows = np.asarray([(n * p, n, p, m) for n, p in shapes for m in (8.0, 16, 32, 64)])
    w, n, p, m = rows.T
    alone = rng.lognormal(-4, 0.5) + rng.lognormal(-5, 0.7) * m
    local, remote = alone.max() * rng.lognormal((-1.7, -0.8), 0.8)
    sync = np.where(n > 1, remote * (2 - 2 / w), local * (1 - 1 / p))
    names = ("workers", "nodes", "workers_per_node", "micro_batch")
    step_s = np.hypot(alone, sync) * rng.lognormal(0, 0.03, len(w))
    return dict(zip(names, rows.T, strict=True)), step_s


def test_jobs_on_clusters_of_another_law_lie_inside_the_intervals() -> None:
    errors, inside = [], []
    for seed in range(8):
        columns, step_s = drawn(seed)
        w, n, m = columns["workers"], columns["nodes"], columns["micro_batch"]
        probes = ((w == 1) | (w == 2) & (n == 2)) & np.isin(m, (8, 64))
        probes |= np.isin(w, (2, 4)) & (n == 1) & (m == 8)
        model = StepTimeRegressor(prior=bundled().unseen, residual=bundled().residual)
        model.fit(take(columns, probes), step_s[probes])
        q, true = model.predict_distribution(take(columns, ~probes)), step_s[~probes]
        errors.append(np.abs(q[:, I50] / true - 1).mean())
        inside.append(np.mean((q[:, I05] <= true) & (true <= q[:, I95])))
    assert np.mean(errors) < 0.2
    assert np.mean(inside) > 0.85
    assert min(inside) > 0.6


def test_loading_the_shipped_prior_imports_nothing_heavy() -> None:
    code = """
import sys
from predictors.prior import bundled
bundled().of("T4")
print([m for m in ("sklearn", "xgboost", "scipy", "pandas", "torch") if m in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_intervals_widen_when_held_out_rows_fell_outside_and_few_jobs_say_little() -> None:
    scores = [np.abs(np.random.default_rng(i).standard_normal(200)) for i in range(8)]
    assert width_factor(scores, 8) == pytest.approx(1.0, abs=0.05)
    assert width_factor([2 * s for s in scores], 8) == pytest.approx(2 ** (8 / 10), rel=0.05)
    assert width_factor([2 * s for s in scores], 1) < 1.3
    assert width_factor([0.5 * s for s in scores], 8) < 0.75
    assert width_factor([], 0) == 1.0


def test_every_job_counts_the_same_whatever_its_number_of_rows() -> None:
    good, bad = np.full(5, 0.1), np.full(5000, 8.0)
    assert width_factor([good] * 19 + [bad], 20) < 1.0


def test_the_command_learns_from_a_folder_and_refuses_one_without_measurements(
    tmp_path: Path, capsys
) -> None:
    rows = [
        row
        for model, slow in (("one", 0.1), ("two", 0.3))
        for row in step_rows(lambda w, n, p, m, s=slow: 0.1 + 0.01 * m + s * (n > 1), model=model)
    ]
    write(tmp_path / "steps.csv", STEP_FIELDS, rows)
    out = tmp_path / "prior.json"
    assert main(["--data", str(tmp_path), "--out", str(out)]) == 0
    learned = PriorSet.from_json(json.loads(out.read_text(encoding="utf-8")))
    assert learned.seen
    (tmp_path / "empty").mkdir()
    assert main(["--data", str(tmp_path / "empty"), "--out", str(out)]) != 0
    assert "no measurements" in capsys.readouterr().err
