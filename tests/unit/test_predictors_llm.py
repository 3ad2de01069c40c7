"""`LlmRegressor`: iterations of language models by tensor, data and pipeline parallelism."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.distribution import I05, I50, I95
from predictors import llm_law
from predictors.base import DistributionRegressor
from predictors.llm import LlmRegressor, bundled
from predictors.llm_belief import Belief
from predictors.llm_law import COLUMNS, PARAMETERS, PARTS
from predictors.llm_rows import llm_rows

Rows = dict[str, np.ndarray]
SMALL = (1024, 16)
LARGE = (2048, 16)


def layouts(gpus: int, most_pp: int = 4) -> Iterator[tuple[int, int, int]]:
    for tp in (1, 2, 4, 8):
        for pp in (1, 2, 4, 8):
            if tp * pp <= gpus and pp <= most_pp:
                yield tp, gpus // tp // pp, pp


def rows(
    shapes: Sequence[tuple[int, int]],
    depths: Sequence[int],
    gpus: Sequence[int] = (4, 8),
    sequences: int = 8,
    seq_len: int = 1024,
) -> Rows:
    """Every layout of every model at micro-batches of 1 and 2, `sequences` a replica."""
    found = [
        (n, max(n // 8, 1), sequences * dp, b, hidden, heads, depth, seq_len, tp, dp, pp)
        for hidden, heads in shapes
        for depth in depths
        for n in gpus
        for tp, dp, pp in layouts(n)
        for b in (1, 2)
    ]
    return dict(zip(COLUMNS, np.asarray(found, float).T, strict=True))


def one(**changes: float) -> Rows:
    """One row: a model of 3.6 billion parameters on 64 GPUs."""
    usual = (64, 8, 512, 1, 3072, 32, 32, 2048, 2, 32, 1)
    row = dict(zip(COLUMNS, usual, strict=True)) | changes
    if "num_gpus" not in changes:
        row["num_gpus"] = row["tp"] * row["dp"] * row["pp"]
        row["num_nodes"] = max(row["num_gpus"] // 8, 1)
    return {name: np.asarray([float(value)]) for name, value in row.items()}


def parts(c: Rows, network_gb_per_s: float = 50.0) -> dict[str, float]:
    full, _ = llm_rows(c, gpu="A100", network_gb_per_s=network_gb_per_s)
    found = llm_law.parts(llm_law.prior()[0], full)[:, 0]
    return dict(zip(PARTS, found.tolist(), strict=True))


def truth(c: Rows, seed: int = 3) -> np.ndarray:
    """Seconds under a law and misfits drawn from what is believed before any row is seen."""
    full, _ = llm_rows(c, gpu="A100", network_gb_per_s=50.0)
    shapes = rows((SMALL, LARGE), (12, 16, 24), gpus=(2, 4, 8, 16, 64))
    all_rows = {n: np.concatenate([shapes[n], c[n]]) for n in COLUMNS}
    belief = Belief.prior(llm_rows(shapes, gpu="A100", network_gb_per_s=50.0)[0])
    belief = belief.at(llm_rows(all_rows, gpu="A100", network_gb_per_s=50.0)[0])
    size = belief.root.shape[1]
    drawn = 0.7 * np.random.default_rng(seed).standard_normal(size)
    drawn[len(PARAMETERS) - 1] = 0.0  # nothing within a node tells when activations are recomputed
    at = Belief(mean=belief.mean + belief.root @ drawn, root=0 * belief.root, known=belief.known)
    return np.exp(at.linearise(at.design(full), np.zeros(len(c["tp"])))[0])


@pytest.fixture(scope="module")
def learned() -> tuple[LlmRegressor, Rows]:
    c = rows((SMALL, LARGE), (12, 16))
    return LlmRegressor().fit(c, truth(c)), c


# ---- the law -------------------------------------------------------------------------------


def test_computing_takes_the_published_count_of_operations() -> None:
    """Narayanan et al. 2021, equation 3, less its quarter of recomputation and the vocabulary."""
    ideal = dict(zip(PARAMETERS, llm_law.prior()[0], strict=True))
    ideal |= {"efficiency": 0.0, "narrow": -30.0, "moved": -30.0, "launch_s": -30.0}
    c, _ = llm_rows(one(tp=1, dp=1), gpu="A100", network_gb_per_s=50.0)
    seconds = llm_law.parts(np.asarray(list(ideal.values())), c)[PARTS.index("compute"), 0]
    B, s, layers, h = 512, 2048, 32, 3072
    assert seconds * 312e12 == pytest.approx(72 * B * s * layers * h**2 * (1 + s / (6 * h)))


def test_the_pipeline_waits_for_its_other_stages_once() -> None:
    alone, four = parts(one(tp=1, dp=1)), parts(one(tp=1, dp=1, pp=4))
    micro_batches = 512
    assert four["compute"] / alone["compute"] == pytest.approx(
        (micro_batches + 3) / micro_batches / 4
    )
    assert four["head"] == alone["head"]


def test_each_kind_of_parallelism_pays_for_its_messages_only() -> None:
    assert parts(one(tp=1))["tensor"] == 0
    assert parts(one(tp=8, dp=8))["tensor"] > parts(one(tp=2, dp=8))["tensor"] > 0
    assert parts(one(tp=2, dp=1))["data"] == 0
    assert parts(one(pp=1))["pipeline"] == 0
    assert parts(one(pp=4))["pipeline"] > 0


def test_replicas_on_other_nodes_share_their_nodes_network() -> None:
    within, across = one(tp=2, dp=4), one(tp=2, dp=32)
    assert parts(across)["data"] > 2 * parts(within)["data"]
    slow, fast = parts(across, network_gb_per_s=25.0), parts(across, network_gb_per_s=50.0)
    assert slow["data"] > 1.8 * fast["data"]
    assert parts(within, network_gb_per_s=1.0)["data"] == parts(within)["data"]


def test_tensor_parallelism_over_nodes_is_slow() -> None:
    assert parts(one(tp=16, dp=4))["tensor"] > 3 * parts(one(tp=8, dp=8))["tensor"]


def test_activations_are_recomputed_where_they_do_not_fit() -> None:
    def probability(c: Rows) -> float:
        return float(llm_law.recomputing(c, 1.0)[0])

    assert probability(one(tp=8, dp=8)) < 0.3
    assert probability(one(tp=8, dp=8, hidden_size=8192, num_layers=48)) > 0.6
    assert probability(one(tp=8, dp=1, hidden_size=8192, num_layers=48)) == 0  # one node


# ---- learning ------------------------------------------------------------------------------


def test_what_is_learned_at_some_depths_holds_at_another(
    learned: tuple[LlmRegressor, Rows],
) -> None:
    model, _ = learned
    deeper = rows((SMALL, LARGE), (24,))
    real = truth(deeper)
    error = np.abs(model.predict(deeper) / real - 1)
    assert error.mean() < 0.005
    q = model.predict_distribution(deeper)
    inside = (q[:, I05] <= real) & (real <= q[:, I95])
    assert inside.mean() > 0.7
    assert np.mean(q[:, I95] / q[:, I05]) < 1.1


def test_a_new_hidden_size_is_less_sure_and_mostly_inside(
    learned: tuple[LlmRegressor, Rows],
) -> None:
    model, _ = learned
    new = rows(((3072, 24),), (16,))
    known = rows((LARGE,), (16,))
    real = truth(new)
    q = model.predict_distribution(new)
    assert np.mean(q[:, I95] / q[:, I05]) > 1.1
    assert np.mean(q[:, I95] / q[:, I05]) > np.mean(
        model.predict_distribution(known)[:, I95] / model.predict_distribution(known)[:, I05]
    )
    assert np.mean((q[:, I05] <= real) & (real <= q[:, I95])) > 0.7


def test_other_nodes_are_less_sure_than_this_one(learned: tuple[LlmRegressor, Rows]) -> None:
    model, _ = learned

    def factor(c: Rows) -> float:
        q = model.predict_distribution(c)[0]
        return float(q[I95] / q[I50])

    here = factor(one(hidden_size=2048, attention_heads=16, seq_len=1024, tp=2, dp=4))
    there = factor(one(hidden_size=8192, attention_heads=64, num_layers=48, tp=8, dp=32))
    assert here < 1.1
    assert 1.3 < there < 2.5


def test_probes_of_a_larger_cluster_carry_over_to_it(learned: tuple[LlmRegressor, Rows]) -> None:
    model, _ = learned
    large = rows(((3072, 24),), (32,), gpus=(64, 128), sequences=16, seq_len=2048)
    real = 1.25 * model.predict(large)
    probes = [0, 4, 9]
    tried = {name: column[probes] for name, column in large.items()}
    adapted = model.adapt(tried, real[probes])
    assert np.abs(adapted.predict(large) / real - 1).mean() < 0.06
    before, after = model.predict_distribution(large), adapted.predict_distribution(large)
    assert np.mean(after[:, I95] / after[:, I05]) < np.mean(before[:, I95] / before[:, I05])
    assert np.allclose(model.predict(large), real / 1.25)  # the library is as it was


def test_probes_that_look_like_the_library_do_not_unsettle_it(
    learned: tuple[LlmRegressor, Rows],
) -> None:
    model, _ = learned
    deeper = rows((LARGE,), (24,))
    real = truth(deeper)
    tried = {name: column[[0, 7]] for name, column in deeper.items()}
    same = model.adapt(tried, real[[0, 7]])
    assert not same.differs_
    assert np.abs(same.predict(deeper) / real - 1).mean() < 0.005
    slow = model.adapt(tried, 1.6 * real[[0, 7]])
    assert slow.differs_
    assert np.median(slow.predict(deeper) / real) == pytest.approx(1.6, rel=0.1)


@pytest.mark.parametrize("nodes_apart", [True, False])
def test_one_slow_probe_is_not_believed(
    learned: tuple[LlmRegressor, Rows], nodes_apart: bool
) -> None:
    model, _ = learned
    asked = rows((LARGE,), (24,), gpus=(64,) if nodes_apart else (8,), sequences=16)
    real = model.predict(asked)
    probes = [0, 3, 6, 9]
    measured = real[probes] * np.asarray([1.0, 1.0, 10.0, 1.0])
    tried = {name: column[probes] for name, column in asked.items()}
    adapted = model.adapt(tried, measured)
    assert np.abs(adapted.predict(asked) / real - 1).mean() < 0.1


def test_noise_in_the_rows_shows_as_width(learned: tuple[LlmRegressor, Rows]) -> None:
    c = rows((SMALL,), (12, 16), gpus=(8,))
    exact = truth(c)
    noisy = exact * np.exp(0.1 * np.random.default_rng(0).standard_normal(len(exact)))
    model = LlmRegressor().fit(c, noisy)
    assert learned[0].noise_ < 0.005
    assert 0.03 < model.noise_ < 0.2
    q = model.predict_distribution(c)
    assert np.mean((q[:, I05] <= noisy) & (noisy <= q[:, I95])) > 0.8


def test_the_same_rows_give_the_same_answers(learned: tuple[LlmRegressor, Rows]) -> None:
    c = {name: column[::3] for name, column in learned[1].items()}
    one_fit, another = (LlmRegressor().fit(c, truth(c)) for _ in range(2))
    assert np.array_equal(one_fit.predict_distribution(c), another.predict_distribution(c))


# ---- the bundled prior ---------------------------------------------------------------------


def test_it_loads_and_answers_without_heavy_libraries() -> None:
    code = (
        "import sys; from predictors.llm import bundled; m = bundled();"
        "print(sorted({'scipy', 'sklearn', 'xgboost', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_is_kept_as_json(learned: tuple[LlmRegressor, Rows]) -> None:
    model, c = learned
    again = LlmRegressor.from_json(json.loads(json.dumps(model.to_json())))
    for asked in (c, rows(((3072, 24),), (32,), gpus=(64,))):
        assert np.allclose(
            again.predict_distribution(asked), model.predict_distribution(asked), rtol=2e-3
        )
    with pytest.raises(ValueError, match="kind"):
        LlmRegressor.from_json({"kind": "other"})
    tried = {name: column[:1] for name, column in c.items()}
    with pytest.raises(ValueError, match="adapted"):
        model.adapt(tried, model.predict(tried)).to_json()


# ---- requests ------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    hidden=st.sampled_from([512, 1024, 2048, 5120, 12288]),
    layers=st.sampled_from([8, 24, 96]),
    layout=st.sampled_from([(1, 1, 1), (2, 2, 2), (8, 4, 4), (16, 2, 8), (1, 512, 1)]),
    micro_batch=st.sampled_from([1, 2, 4]),
)
def test_times_are_positive_and_grow_with_work(
    hidden: int, layers: int, layout: tuple[int, int, int], micro_batch: int
) -> None:
    tp, dp, pp = layout
    model = bundled()
    base = {
        "hidden_size": hidden,
        "num_layers": layers,
        "tp": tp,
        "dp": dp,
        "pp": pp,
        "micro_batch_size": micro_batch,
        "global_batch_size": 8 * dp * micro_batch,
    }
    q = model.predict_distribution(one(**base))[0]
    assert np.all(np.isfinite(q)) and np.all(q > 0) and np.all(np.diff(q) >= 0)
    more = one(**base | {"global_batch_size": 16 * dp * micro_batch})
    deeper = one(**base | {"num_layers": 2 * layers})
    assert model.predict(more)[0] > q[I50]
    assert model.predict(deeper)[0] > q[I50]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_gpus": 63, "num_nodes": 8}, "tp x dp x pp must be num_gpus"),
        ({"dp": 1, "pp": 33}, "stage would hold no layer"),
        ({"num_gpus": 6, "tp": 4, "dp": 1.5, "pp": 1}, "row 0: dp must be a whole number"),
        ({"num_gpus": 3, "tp": 3, "dp": 1, "pp": 1}, "row 0: tp must divide attention_heads"),
        ({"micro_batch_size": 3}, "micro_batch_size must divide"),
        ({"global_batch_size": 8}, "micro_batch_size must divide"),
        ({"num_gpus": 64, "num_nodes": 65}, "more nodes than GPUs"),
        ({"seq_len": 0}, "'seq_len' must hold positive numbers"),
        ({"hidden_size": float("nan")}, "'hidden_size' must hold positive numbers"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bundled().predict(one(**changes))


def test_missing_columns_and_wrong_times_are_refused() -> None:
    row = one()
    with pytest.raises(ValueError, match="missing columns"):
        bundled().predict({name: row[name] for name in COLUMNS if name != "tp"})
    with pytest.raises(ValueError, match="named columns"):
        bundled().predict(np.zeros((2, 11)))
    with pytest.raises(ValueError, match="vectors of one length"):
        bundled().predict({**row, "tp": np.asarray([2.0, 2.0])})
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="positive and finite"):
            bundled().adapt(row, [wrong])


def test_nodes_that_nobody_tells_hold_eight_gpus() -> None:
    row = one()
    blank = {**row, "num_nodes": np.asarray([np.nan])}
    without = {name: row[name] for name in COLUMNS if name != "num_nodes"}
    assert bundled().predict(blank) == bundled().predict(without) == bundled().predict(row)


def test_other_gpus_scale_by_their_peaks_and_are_unsure() -> None:
    model, row = bundled(), one(hidden_size=8192, num_layers=48, tp=8, dp=8)
    a100, h100, unheard = (
        model.predict_distribution({**row, "gpu_type": [gpu]})[0]
        for gpu in ("A100", "H100", "Unheard-Of 9")
    )
    assert a100[I50] / 3.2 < h100[I50] < a100[I50]
    assert h100[I95] / h100[I05] > a100[I95] / a100[I05]
    assert unheard[I95] / unheard[I05] > 10
    assert unheard[I50] == a100[I50]


def test_probes_on_another_gpu_are_believed() -> None:
    model, row = bundled(), {**one(tp=8, dp=8), "gpu_type": ["Unheard-Of 9"]}
    adapted = model.adapt(row, [3 * model.predict(row)[0]])
    assert adapted.predict(row)[0] == pytest.approx(3 * model.predict(row)[0], rel=0.1)
    q = adapted.predict_distribution(row)[0]
    assert q[I95] / q[I50] < 1.25
    assert q[I05] / q[I50] > 0.6  # it may have been slowed


def test_evidence_tells_what_a_prediction_rests_on() -> None:
    model = bundled()
    here, there = one(tp=2, dp=4), one(tp=2, dp=32)
    assert model.evidence(here) == ["history"]
    assert model.evidence(there) == ["prior"]
    assert model.evidence({**here, "gpu_type": ["H100"]}) == ["prior"]
    adapted = model.adapt(there, model.predict(there))
    assert adapted.evidence(there) == ["probe"]
    assert adapted.evidence(one(tp=4, dp=16)) == ["transfer"]
    near = model.adapt(here, model.predict(here))
    assert near.evidence(there) == ["prior"]


def test_it_follows_scikit_learn() -> None:
    from sklearn.base import clone

    model = LlmRegressor(gpu="H100", probe_sigma=0.1)
    assert clone(model).get_params() == model.get_params()
    assert isinstance(model, DistributionRegressor)
    with pytest.raises(ValueError, match="not fitted"):
        model.predict(one())
    frame = pd.DataFrame(one())
    structured = np.array([tuple(frame.iloc[0])], dtype=[(name, float) for name in frame.columns])
    assert bundled().predict(frame) == bundled().predict(one())
    assert bundled().predict(structured) == bundled().predict(one())
