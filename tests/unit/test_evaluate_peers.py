"""Peers are not handicapped: each is right where its own assumption holds."""

from __future__ import annotations

from math import log2
from pathlib import Path

import numpy as np
import pytest
from support.measurements import (
    LLM_FIELDS,
    STEP_FIELDS,
    SUBMISSION_FIELDS,
    StepLaw,
    llm_rows,
    step_rows,
    submission_rows,
    write,
)

from predictors.evaluate.data import Measurements, read
from predictors.evaluate.peers import PEERS
from predictors.evaluate.pooled import source_time
from predictors.evaluate.tasks import Case, cases


def only(task: str, measured: Measurements) -> Case:
    (case,) = cases(task, measured, measured)
    return case


def error_percent(name: str, case: Case) -> float:
    predicted = PEERS[name](case.question)
    assert predicted is not None
    return float(100 * np.mean(np.abs(predicted / case.true_s - 1)))


def no_loss(workers: int, nodes: int, busiest: int, batch: int) -> float:
    return 0.02 + 0.003 * batch


def serial_share(workers: int, nodes: int, busiest: int, batch: int) -> float:
    return 0.5 + 0.004 * batch


def tree(workers: int, nodes: int, busiest: int, batch: int) -> float:
    return 0.03 + 0.002 * batch + 0.01 * log2(workers) + 0.0005 * workers


def hidden_sync(workers: int, nodes: int, busiest: int, batch: int) -> float:
    sync = 0.0 if workers == 1 else (0.05 if nodes > 1 else 0.01)
    return float(((0.02 + 0.002 * batch) ** 2 + sync**2) ** 0.5)


@pytest.mark.parametrize(
    ("name", "law", "most_percent"),
    [
        ("linear_ideal", no_loss, 0.01),
        ("amdahl", serial_share, 0.01),
        ("ernest", tree, 0.01),
        ("pollux", hidden_sync, 3.0),
    ],
)
def test_a_law_is_found_by_its_own_model(
    tmp_path: Path, name: str, law: StepLaw, most_percent: float
) -> None:
    write(tmp_path / "steps.csv", STEP_FIELDS, step_rows(law))
    assert error_percent(name, only("A2", read(tmp_path))) < most_percent


def test_one_probe_there_makes_the_ratio_of_two_gpu_types_right(tmp_path: Path) -> None:
    rows = step_rows(no_loss, gpu="T4", placements=["1"])
    rows += step_rows(lambda *c: 3 * no_loss(*c), gpu="K80", placements=["1"])
    write(tmp_path / "steps.csv", STEP_FIELDS, rows)
    found = list(cases("B1", read(tmp_path), Measurements()))
    assert [case.question.gpu for case in found] == ["K80", "T4"]
    for case in found:
        assert error_percent("linear_ideal", case) < 0.01


def test_times_between_measured_batches_lie_on_a_line_of_logarithms() -> None:
    near = {"micro_batch": np.asarray([4.0, 16.0])}
    between = source_time(near, np.asarray([1.0, 4.0]), np.asarray([4.0, 8.0, 16.0, 32.0]))
    assert between == pytest.approx([1.0, 2.0, 4.0, 8.0])


def test_a_serial_share_is_learned_from_other_families_of_the_benchmark(tmp_path: Path) -> None:
    def minutes(gpus: int) -> float:
        return 60 * (0.05 + 0.95 * 8 / gpus)

    rows = submission_rows(minutes, submitter="one")
    rows += submission_rows(lambda gpus: 2 * minutes(gpus), submitter="two")
    write(tmp_path / "mlperf.csv", SUBMISSION_FIELDS, rows)
    measured = read(tmp_path)
    for case in cases("C1", measured, measured):
        assert error_percent("amdahl", case) < 1.0


def test_a_fixed_utilisation_scales_with_the_work_of_a_language_model(tmp_path: Path) -> None:
    def iteration_s(row: dict[str, int]) -> float:
        h, s = row["hidden_size"], row["seq_len"]
        work = row["global_batch_size"] * s * row["num_layers"] * h**2 * (1 + s / (6 * h))
        return work / row["num_gpus"] * 1e-12

    layouts = [(1, 1, 1), (2, 2, 1), (1, 2, 2)]
    rows = llm_rows(iteration_s, layouts=layouts, hidden=1024)
    rows += llm_rows(iteration_s, layouts=layouts, hidden=2048)
    write(tmp_path / "llm.csv", LLM_FIELDS, rows)
    measured = read(tmp_path)
    for case in cases("E1", measured, measured):
        assert error_percent("linear_ideal", case) < 0.01
