"""Errors, coverage, and the printed document."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.measurements import STEP_FIELDS, step_rows, write

from planner.core.distribution import I95, LEVELS, Z
from planner.core.errors import ExitCode
from predictors.evaluate.__main__ import main
from predictors.evaluate.data import Measurements
from predictors.evaluate.peers import PEERS
from predictors.evaluate.reliability import achieved, draw
from predictors.evaluate.scores import METHODS, Answer, scores
from predictors.evaluate.tasks import Case, Question


def normal(median: np.ndarray, half: float) -> np.ndarray:
    """Quantiles of normal distributions whose 90 % interval is so much to either side."""
    z = np.asarray(Z)
    return median[:, None] + half * z[None, :] / z[I95]


def answer(job: str, true: list[float], said: list[float], *, half: float | None = None) -> Answer:
    """An answer whose interval is so much to either side."""
    question = Question(
        task="A1",
        job=job,
        gpu="T4",
        probes={},
        probe_s=np.zeros(0),
        asked={},
        training=Measurements(),
    )
    median = np.asarray(said)
    mask = np.ones(len(true), bool)
    return Answer(
        case=Case(question=question, true_s=np.asarray(true), splits={"all": mask, "no": ~mask}),
        method="planner",
        median_s=median,
        quantiles_s=None if half is None else normal(median, half),
    )


def test_jobs_count_the_same_whatever_their_rows() -> None:
    score, _ = scores([answer("a", [1.0] * 9, [1.1] * 9), answer("b", [1.0], [1.3])])
    assert score.mape == pytest.approx(20.0)
    assert score.median_ape == pytest.approx(10.0)
    assert (score.jobs, score.n) == (2, 10)
    assert score.coverage90_mean is None


def test_coverage_is_that_of_jobs_and_of_the_worst_one() -> None:
    good = answer("a", [1.0, 1.0], [1.0, 1.1], half=0.2)
    bad = answer("b", [1.0, 1.0], [1.1, 2.0], half=0.2)
    (score,) = scores([good, bad])
    assert score.coverage90_mean == pytest.approx(75.0)
    assert score.coverage90_worst == pytest.approx(50.0)
    assert score.halfwidth90 == pytest.approx(np.mean([20, 20 / 1.1, 20 / 1.1, 10]))


def test_the_worst_job_may_be_one_of_a_few_rows_and_larger_jobs_are_told_apart() -> None:
    few = answer("a", [1.0] * 4, [2.0] * 4, half=0.2)
    enough = answer("b", [1.0] * 5, [1.0] * 4 + [2.0], half=0.2)
    every, larger = scores([few, enough])
    assert (every.split, every.coverage90_mean) == ("all", pytest.approx(40.0))
    assert every.coverage90_worst == pytest.approx(0.0)
    assert (larger.split, larger.jobs, larger.n) == ("jobs_of_5_rows", 1, 5)
    assert larger.coverage90_worst == pytest.approx(80.0)


def test_jobs_of_few_rows_alone_are_one_split() -> None:
    assert [s.split for s in scores([answer("a", [1.0], [1.0]), answer("b", [1.0], [1.0])])] == [
        "all"
    ]


def test_reliability_is_the_share_of_rows_below_each_quantile() -> None:
    """Truth drawn from the predicted distribution lies below each quantile as often as it says."""
    draws = np.random.default_rng(0).normal(2.0, 0.2 / Z[I95], 4000)
    honest = answer("a", draws.tolist(), [2.0] * 4000, half=0.2)
    assert achieved([honest]) == {"A1": pytest.approx(LEVELS, abs=0.02)}
    narrow = answer("a", draws.tolist(), [2.0] * 4000, half=0.1)
    assert achieved([narrow])["A1"][I95] < 0.85


def test_reliability_of_jobs_counts_each_the_same() -> None:
    below = answer("a", [1.0] * 9, [2.0] * 9, half=0.1)
    above = answer("b", [3.0], [2.0], half=0.1)
    assert achieved([below, above])["A1"] == pytest.approx([0.5] * len(LEVELS))


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    draw({"A1": [0.5] * len(LEVELS)}, tmp_path / "reliability.svg")
    assert "<svg" in (tmp_path / "reliability.svg").read_text()


def test_cases_of_one_job_are_one_job() -> None:
    (score,) = scores([answer("a", [1.0], [1.1]), answer("a", [1.0], [1.3])])
    assert (score.jobs, score.mape) == (1, pytest.approx(20.0))


def pollux_law(workers: int, nodes: int, busiest: int, batch: int) -> float:
    sync = 0.0 if workers == 1 else (0.03 if nodes > 1 else 0.01)
    return float(((0.02 + 0.002 * batch) ** 2 + sync**2) ** 0.5)


def test_the_document_has_a_row_for_every_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = step_rows(pollux_law, model="a") + step_rows(lambda *c: 2 * pollux_law(*c), model="b")
    write(tmp_path / "any.csv", STEP_FIELDS, rows)
    assert main(["--data", str(tmp_path), "--task", "A2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "planner.predictor_eval/1"
    everything = {row["method"]: row for row in document["rows"] if row["split"] == "all"}
    assert tuple(everything) == METHODS
    assert set(everything["planner"]) == {
        "task",
        "split",
        "method",
        "jobs",
        "n",
        "mape",
        "median_ape",
        "p90_ape",
        "coverage90_mean",
        "coverage90_worst",
        "halfwidth90",
    }
    assert everything["pollux"]["mape"] < everything["linear_ideal"]["mape"]
    assert everything["pollux"]["mape"] < 3


def test_methods_and_tasks_can_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "any.csv", STEP_FIELDS, step_rows(pollux_law))
    assert main(["--data", str(tmp_path), "--task", "A1,A2", "--method", "ernest"]) == 0
    shown = capsys.readouterr().out
    assert "A1" in shown
    assert "ernest" in shown
    assert "pollux" not in shown
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path), "--task", "A9"])


def test_a_wrong_folder_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "nowhere")]) == ExitCode.USAGE
    assert "is not a folder" in capsys.readouterr().err


def test_peers_answer_only_what_they_can() -> None:
    question = Question(
        task="E3",
        job="a",
        gpu="A100",
        probes={"num_gpus": np.zeros(0)},
        probe_s=np.zeros(0),
        asked={"num_gpus": np.ones(1)},
        training=Measurements(),
    )
    for name in ("amdahl", "ernest", "pollux"):
        assert PEERS[name](question) is None
