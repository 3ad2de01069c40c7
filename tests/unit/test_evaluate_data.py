"""Reading measurements: what a row is follows from its columns, whatever the file is called."""

from __future__ import annotations

from pathlib import Path

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

from planner.core.errors import UsageError
from predictors.evaluate.data import read


def flat(workers: int, nodes: int, busiest: int, batch: int) -> float:
    return 0.1


def test_a_folder_may_hold_any_kind_of_rows_under_any_name(tmp_path: Path) -> None:
    write(tmp_path / "b.csv", STEP_FIELDS, step_rows(flat))
    write(tmp_path / "a.csv", LLM_FIELDS, llm_rows(lambda row: 1.5, layouts=[(1, 2, 1)]))
    write(tmp_path / "z.csv", SUBMISSION_FIELDS, submission_rows(lambda size: 100 / size))
    write(tmp_path / "prices.csv", ("usd",), [{"usd": 3}])
    found = read(tmp_path)
    assert [job.model for job in found.steps] == ["net"]
    assert found.llm[0].iteration_s.tolist() == [1.5, 1.5]
    assert [s.minutes for s in found.submissions] == [100 / 8, 100 / 16, 100 / 64]


def test_the_busiest_node_is_read_from_the_placement(tmp_path: Path) -> None:
    rows = step_rows(flat, placements=["31"], batches=[8])
    nodes_only = {**rows[0], "num_nodes": 12, "num_gpus": 14, "placement": ""}
    named = {**rows[0], "num_nodes": 1, "num_gpus": 8, "placement": "consolidated"}
    write(tmp_path / "steps.csv", STEP_FIELDS, [*rows, nodes_only, named])
    columns = read(tmp_path).steps[0].columns
    assert columns["workers_per_node"].tolist() == [3, 2, 8]
    assert columns["nodes"].tolist() == [2, 12, 1]


def test_rows_without_a_place_or_a_time_are_left_out(tmp_path: Path) -> None:
    row = step_rows(flat, placements=["2"], batches=[8])[0]
    spread = {**row, "placement": "unconsolidated", "num_nodes": ""}
    unfinished = {**row, "local_batch_size": 512, "step_time_s": ""}
    write(tmp_path / "steps.csv", STEP_FIELDS, [row, spread, unfinished])
    assert len(read(tmp_path).steps[0].step_s) == 1


def test_incomplete_rows_of_other_kinds_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = llm_rows(lambda row: 1.5, layouts=[(1, 1, 1), (2, 1, 1)])
    cannot_be = {**rows[2], "attention_heads": 3}
    write(tmp_path / "llm.csv", LLM_FIELDS, [rows[0], {**rows[0], "seq_len": ""}, cannot_be])
    systems = submission_rows(lambda size: 100 / size)
    write(tmp_path / "m.csv", SUBMISSION_FIELDS, [*systems, {**systems[0], "num_gpus": ""}])
    found = read(tmp_path)
    assert [len(job.iteration_s) for job in found.llm] == [1]
    assert len(found.submissions) == len(systems)
    assert found.left_out == 3


def test_jobs_are_told_apart_by_everything_that_changes_their_speed(tmp_path: Path) -> None:
    rows = step_rows(flat) + step_rows(flat, gpu="V100") + step_rows(flat, dataset="large")
    write(tmp_path / "steps.csv", STEP_FIELDS, rows)
    assert len(read(tmp_path).steps) == 3


@pytest.mark.parametrize("time", ["0", "-1", "nan", "soon"])
def test_a_time_that_is_none_is_told_with_its_line(tmp_path: Path, time: str) -> None:
    rows = step_rows(flat, placements=["1", "2"], batches=[8])
    write(tmp_path / "steps.csv", STEP_FIELDS, [rows[0], {**rows[1], "step_time_s": time}])
    with pytest.raises(UsageError, match=r"steps\.csv, line 3: step_time_s is"):
        read(tmp_path)


def test_a_folder_without_measurements_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no measurements"):
        read(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        read(tmp_path / "nowhere")
