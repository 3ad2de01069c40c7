"""Measurements of training jobs from CSV files: what a row is follows from the columns it has.

Three kinds of rows, told apart by their time: `step_time_s` (a step of a data-parallel job),
`iter_time_ms` (an iteration of a language model with tensor, data and pipeline parallelism) and
`ttt_minutes` (time to train of an MLPerf submission). Files may have any name and hold any of them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from planner.core.errors import UsageError
from predictors import llm_law
from predictors.llm_rows import llm_rows

if TYPE_CHECKING:
    from planner.core.distribution import Array

Table = Mapping[str, "Array"]
Row = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepJob:
    """Measured optimiser steps of one job on one kind of GPU.

    Attributes:
        source: Where the measurements were published.
        cluster: The machines they ran on.
        model: What was trained.
        dataset: On what; the image size of some jobs is part of it.
        precision: Arithmetic.
        gpu: GPU type.
        columns: `workers`, `nodes`, `workers_per_node` (on the busiest node), `micro_batch`.
        step_s: Seconds of an optimiser step, a row each.
        sync_s: Of these, seconds that waited for gradients; not-a-number where nobody looked.
    """

    source: str
    cluster: str
    model: str
    dataset: str
    precision: str
    gpu: str
    columns: Table
    step_s: Array
    sync_s: Array

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.source}/{self.model}/{self.dataset}/{self.gpu}"


LLM_COLUMNS = llm_law.COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmJob:
    """Measured iterations of one language model (one architecture) on one kind of GPU.

    Attributes:
        source: Where the measurements were published.
        gpu: GPU type.
        columns: `LLM_COLUMNS`.
        iteration_s: Seconds of an iteration, a row each.
    """

    source: str
    gpu: str
    columns: Table
    iteration_s: Array

    @property
    def architecture(self) -> tuple[float, ...]:
        """Hidden size, heads, layers, sequence length."""
        names = ("hidden_size", "attention_heads", "num_layers", "seq_len")
        return tuple(float(self.columns[name][0]) for name in names)

    @property
    def name(self) -> str:
        """For people."""
        hidden, heads, layers, sequence = self.architecture
        return f"{self.source}/h{hidden:g}-a{heads:g}-l{layers:g}-s{sequence:g}/{self.gpu}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Time to train of one system in one round of MLPerf Training.

    Attributes:
        epochs: Median epochs to the target over its runs; not-a-number where unknown.
        global_batch: Samples of a step; not-a-number where unknown.
    """

    round: str
    submitter: str
    system: str
    benchmark: str
    gpu: str
    division: str
    nodes: float
    gpus: float
    global_batch: float
    epochs: float
    minutes: float

    @property
    def family(self) -> tuple[str, str, str, str, str]:
        """Systems that differ in size only: what the smallest one may tell of the larger ones."""
        return (self.round, self.submitter, self.benchmark, self.gpu, self.division)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Everything read from a folder.

    Attributes:
        left_out: Rows that do not tell what they ran on, or something that cannot be.
    """

    steps: tuple[StepJob, ...] = ()
    llm: tuple[LlmJob, ...] = ()
    submissions: tuple[Submission, ...] = ()
    left_out: int = 0


def read(folder: Path) -> Measurements:
    """Read every CSV file of a folder.

    Raises:
        UsageError: No such folder, nothing usable in it, or a row that is none.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="name the folder with the CSV files")
    kinds: dict[str, list[Row]] = {"step_time_s": [], "iter_time_ms": [], "ttt_minutes": []}
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            kind = next((k for k in kinds if k in (rows.fieldnames or ())), None)
            if kind is not None:
                kinds[kind] += _checked(rows, kind, path)
    usable = {"step_time_s": _is_placed, "iter_time_ms": _is_spread, "ttt_minutes": _is_sized}
    kept = {kind: [row for row in rows if usable[kind](row)] for kind, rows in kinds.items()}
    found = Measurements(
        steps=tuple(_step_jobs(kept["step_time_s"])),
        llm=tuple(_llm_jobs(kept["iter_time_ms"])),
        submissions=tuple(_submissions(kept["ttt_minutes"])),
        left_out=sum(len(kinds[kind]) - len(rows) for kind, rows in kept.items()),
    )
    if not (found.steps or found.llm or found.submissions):
        hint = "its files need a column step_time_s, iter_time_ms or ttt_minutes"
        raise UsageError(f"{folder} holds no measurements", hint=hint)
    return found


def _checked(rows: Iterable[Row], time: str, path: Path) -> Iterator[Row]:
    """Rows whose time is one; an empty time is a run that did not end, and is left out."""
    for number, row in enumerate(rows, start=2):
        if not (row[time] or "").strip():
            continue
        if not _number(row, time) > 0:
            raise UsageError(
                f"{path.name}, line {number}: {time} is {row[time]!r}",
                hint="times must be positive numbers; correct the row or remove it",
            )
        yield row


def _number(row: Row, name: str) -> float:
    """A cell as a number; not-a-number where it is empty, missing or none."""
    try:
        return float(row.get(name) or "nan")
    except ValueError:
        return float("nan")


def _grouped(rows: Sequence[Row], key: Callable[[Row], tuple[str, ...]]) -> Iterator[list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    yield from groups.values()


# ---- steps ---------------------------------------------------------------------------------

_STEP_KEY = ("source", "cluster", "model", "dataset", "precision", "gpu_type")


def _step_jobs(rows: Sequence[Row]) -> Iterator[StepJob]:
    for group in _grouped(rows, lambda row: tuple(row[name] for name in _STEP_KEY)):
        first = group[0]
        numbers = np.asarray([_placed(row) for row in group])
        names = ("workers", "nodes", "workers_per_node", "micro_batch")
        yield StepJob(
            source=first["source"],
            cluster=first["cluster"],
            model=first["model"],
            dataset=first["dataset"],
            precision=first["precision"],
            gpu=first["gpu_type"],
            columns={name: numbers[:, i] for i, name in enumerate(names)},
            step_s=np.asarray([_number(row, "step_time_s") for row in group]),
            sync_s=np.asarray([_number(row, "sync_time_s") for row in group]),
        )


def _is_placed(row: Row) -> bool:
    """Whether it is known over how many nodes the row's GPUs were spread."""
    known = (_number(row, name) > 0 for name in ("num_gpus", "num_nodes", "local_batch_size"))
    return row["placement"] != "unconsolidated" and all(known)


def _placed(row: Row) -> tuple[float, float, float, float]:
    workers, nodes = _number(row, "num_gpus"), _number(row, "num_nodes")
    digits = row["placement"]
    busiest = float(np.ceil(workers / nodes))
    if digits.isdigit() and sum(map(int, digits)) == workers:
        busiest = float(max(map(int, digits)))
    return workers, nodes, busiest, _number(row, "local_batch_size")


# ---- language models -----------------------------------------------------------------------

_LLM_KEY = ("source", "gpu_type", "hidden_size", "attention_heads", "num_layers", "seq_len")


def _is_spread(row: Row) -> bool:
    """Whether a model can be spread over GPUs as the row says."""
    try:
        llm_rows(
            {name: [_number(row, name)] for name in LLM_COLUMNS}, gpu="A100", network_gb_per_s=100.0
        )
    except ValueError:
        return False
    return True


def _llm_jobs(rows: Sequence[Row]) -> Iterator[LlmJob]:
    for group in _grouped(rows, lambda row: tuple(row[name] for name in _LLM_KEY)):
        yield LlmJob(
            source=group[0]["source"],
            gpu=group[0]["gpu_type"],
            columns={n: np.asarray([_number(row, n) for row in group]) for n in LLM_COLUMNS},
            iteration_s=np.asarray([_number(row, "iter_time_ms") / 1000 for row in group]),
        )


# ---- MLPerf --------------------------------------------------------------------------------


def _is_sized(row: Row) -> bool:
    """Whether it is known how many GPUs the system had."""
    return _number(row, "num_gpus") > 0


def _submissions(rows: Sequence[Row]) -> Iterator[Submission]:
    for row in rows:
        yield Submission(
            round=row["round"],
            submitter=row["submitter"],
            system=row["system"],
            benchmark=row["benchmark"],
            gpu=row["gpu_type"],
            division=row["division"],
            nodes=_number(row, "num_nodes"),
            gpus=_number(row, "num_gpus"),
            global_batch=_number(row, "global_batch_size"),
            epochs=_number(row, "epochs_median"),
            minutes=_number(row, "ttt_minutes"),
        )
