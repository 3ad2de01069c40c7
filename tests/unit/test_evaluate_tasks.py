"""Which measurements a method is given, and which it must predict: nobody sees an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.measurements import (
    LLM_FIELDS,
    STEP_FIELDS,
    SUBMISSION_FIELDS,
    llm_rows,
    step_rows,
    submission_rows,
    write,
)

from predictors.evaluate.data import Measurements, read
from predictors.evaluate.tasks import TASKS, Case, cases

GIVEN = {"A1": 3, "A2": 6, "A3": 9}


def law(scale: float):  # type: ignore[no-untyped-def]
    def step(workers: int, nodes: int, busiest: int, batch: int) -> float:
        return scale * (0.01 + 0.001 * batch + 0.02 * (nodes > 1) + 0.003 * (busiest - 1))

    return step


@pytest.fixture
def measured(tmp_path: Path) -> Measurements:
    steps = [
        *step_rows(law(1.0), model="net", gpu="T4"),
        *step_rows(law(0.5), model="net", gpu="V100"),
        *step_rows(law(3.0), model="other", gpu="T4"),
        *step_rows(law(1.4), model="other", gpu="V100"),
    ]
    write(tmp_path / "steps.csv", STEP_FIELDS, steps)
    within = [(1, 1, 1), (1, 2, 1), (2, 1, 1), (1, 1, 2)]
    across = [(8, 8, 1), (8, 4, 2), (8, 8, 2), (8, 8, 8)]
    iterations = [
        row
        for hidden in (1024, 2048)
        for row in llm_rows(lambda r: r["hidden_size"] / 1e3, layouts=within, hidden=hidden)
    ]
    iterations += llm_rows(lambda r: 9 / r["dp"], layouts=across, hidden=4096)
    write(tmp_path / "llm.csv", LLM_FIELDS, iterations)
    systems = submission_rows(lambda n: 80 / n) + submission_rows(
        lambda n: 70 / n, submitter="another"
    )
    write(tmp_path / "mlperf.csv", SUBMISSION_FIELDS, systems)
    return read(tmp_path)


def all_cases(measured: Measurements, task: str) -> list[Case]:
    return list(cases(task, measured, measured))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_finds_cases(measured: Measurements, task: str) -> None:
    found = all_cases(measured, task)
    assert found
    for case in found:
        asked = case.question.asked
        assert {len(column) for column in asked.values()} == {len(case.true_s)}
        assert all(len(mask) == len(case.true_s) for mask in case.splits.values())


@pytest.mark.parametrize("task", sorted(GIVEN))
def test_placements_are_asked_from_so_many_probes(measured: Measurements, task: str) -> None:
    for case in all_cases(measured, task):
        assert len(case.question.probe_s) == GIVEN[task]


def test_a1_stays_on_one_node_and_a3_goes_beyond_eight(measured: Measurements) -> None:
    assert all(np.all(c.question.asked["nodes"] == 1) for c in all_cases(measured, "A1"))
    assert all(np.all(c.question.asked["workers"] > 8) for c in all_cases(measured, "A3"))


@pytest.mark.parametrize("task", ["A1", "A2", "A3", "E2"])
def test_no_probed_configuration_is_asked_again(measured: Measurements, task: str) -> None:
    for case in all_cases(measured, task):
        names = sorted(case.question.asked)
        probed, asked = (
            {tuple(row) for row in np.stack([table[name] for name in names], axis=1).tolist()}
            for table in (case.question.probes, case.question.asked)
        )
        assert not probed & asked


@pytest.mark.parametrize("task", ["A1", "A2", "A3", "B1"])
def test_training_holds_nothing_of_the_judged_model(measured: Measurements, task: str) -> None:
    for case in all_cases(measured, task):
        model = case.question.job.split("/")[1]
        learned = {job.model for job in case.question.training.steps}
        assert learned
        assert model not in learned


def test_a_gpu_type_can_be_held_out_as_well(measured: Measurements) -> None:
    for case in cases("A2", measured, measured, "gpu"):
        assert case.question.gpu not in {job.gpu for job in case.question.training.steps}
        assert case.splits["unseen_gpu"].all()


def test_one_model_has_one_name_over_publications(tmp_path: Path) -> None:
    """Pollux's cifar10 is a ResNet-18: knowing Gavel's would give it away."""
    rows = step_rows(law(1.0), model="cifar10") + step_rows(law(1.0), model="ResNet-18", gpu="K80")
    write(tmp_path / "steps.csv", STEP_FIELDS, rows)
    both = read(tmp_path)
    assert all(not case.question.training.steps for case in cases("A2", both, both))


def test_another_gpu_type_is_asked_with_and_without_a_probe_there(measured: Measurements) -> None:
    found = all_cases(measured, "B1")
    assert {case.question.job for case in found} == {
        f"drawn/{model}/{here}->{there}"
        for model in ("net", "other")
        for here, there in (("T4", "V100"), ("V100", "T4"))
    }
    for case in found:
        tried = int(case.question.probes["on_target"].sum())
        assert case.splits["one_target_probe"].all() == (tried == 1)
        assert case.splits["no_target_probe"].all() == (tried == 0)


def test_an_unknown_gpu_type_is_asked_only_with_a_probe_there(measured: Measurements) -> None:
    found = list(cases("B1", measured, Measurements()))
    assert found
    assert all(case.question.probes["on_target"].sum() == 1 for case in found)


def test_a_family_is_asked_from_its_smallest_system(measured: Measurements) -> None:
    for case in all_cases(measured, "C1"):
        assert case.question.probes["gpus"].tolist() == [8]
        assert case.question.asked["gpus"].tolist() == [16, 64]
        judged = case.question.job.split("/")[1]
        assert judged not in {s.submitter for s in case.question.training.submissions}


def test_language_models_are_asked_by_size_of_the_cluster(measured: Measurements) -> None:
    small = all_cases(measured, "E1")
    assert {case.question.asked["hidden_size"][0] for case in small} == {1024, 2048}
    for case in small:
        learned = {job.architecture for job in case.question.training.llm}
        assert (case.question.asked["hidden_size"][0], 16, 24, 1024) not in learned
        assert len(case.question.probe_s) == 0
    harder = [case for case in small if "new_hidden_size" in case.splits]
    assert len(harder) == len(small) / 2
    for case in harder:
        learned = {job.architecture for job in case.question.training.llm}
        assert case.question.asked["hidden_size"][0] not in {hidden for hidden, *_ in learned}
    (probed,) = all_cases(measured, "E2")
    assert probed.question.probes["num_gpus"].tolist() == [64, 64, 128]
    (blind,) = all_cases(measured, "E3")
    assert len(blind.question.probe_s) == 0
    assert len(blind.true_s) == len(probed.true_s) + 3
