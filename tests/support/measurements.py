"""Folders of measurements of jobs whose law is known, in the columns of the evaluation."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from predictors.evaluate.data import LLM_COLUMNS

STEP_FIELDS = (
    "source",
    "cluster",
    "model",
    "dataset",
    "precision",
    "gpu_type",
    "num_nodes",
    "num_gpus",
    "placement",
    "local_batch_size",
    "step_time_s",
    "sync_time_s",
)
LLM_FIELDS = ("source", "gpu_type", *LLM_COLUMNS, "iter_time_ms")
SUBMISSION_FIELDS = (
    "round",
    "submitter",
    "system",
    "benchmark",
    "gpu_type",
    "division",
    "num_nodes",
    "num_gpus",
    "global_batch_size",
    "epochs_median",
    "ttt_minutes",
)
PLACEMENTS = ("1", "2", "3", "4", "11", "22", "44", "1111", "4444", "22222222", "44444444")

StepLaw = Callable[[int, int, int, int], float]
"""Seconds of a step from workers, nodes, workers on the busiest node and micro-batch."""


def write(path: Path, fields: Iterable[str], rows: Iterable[Mapping[str, object]]) -> Path:
    """A CSV file; cells that a row lacks are empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, tuple(fields), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def step_rows(
    law: StepLaw,
    *,
    model: str = "net",
    gpu: str = "T4",
    source: str = "drawn",
    dataset: str = "data",
    placements: Iterable[str] = PLACEMENTS,
    batches: Iterable[int] = (8, 16, 32),
) -> list[dict[str, object]]:
    """A job at every placement and batch."""
    batches = tuple(batches)
    rows = []
    for placed in placements:
        counts = [int(digit) for digit in placed]
        for batch in batches:
            rows.append(
                {
                    "source": source,
                    "cluster": f"cluster-of-{gpu}",
                    "model": model,
                    "dataset": dataset,
                    "precision": "fp32",
                    "gpu_type": gpu,
                    "num_nodes": len(counts),
                    "num_gpus": sum(counts),
                    "placement": placed,
                    "local_batch_size": batch,
                    "step_time_s": law(sum(counts), len(counts), max(counts), batch),
                }
            )
    return rows


def llm_rows(
    law: Callable[[Mapping[str, int]], float],
    *,
    layouts: Iterable[tuple[int, int, int]],
    hidden: int = 1024,
    layers: int = 24,
    gpu: str = "A100",
) -> list[dict[str, object]]:
    """A language model under every (tensor, data, pipeline) layout, at two micro-batches."""
    rows: list[dict[str, object]] = []
    for tp, dp, pp in layouts:
        for micro_batch in (1, 2):
            row = {
                "num_gpus": tp * dp * pp,
                "num_nodes": max(1, tp * dp * pp // 8),
                "global_batch_size": 8 * dp,
                "micro_batch_size": micro_batch,
                "hidden_size": hidden,
                "attention_heads": 16,
                "num_layers": layers,
                "seq_len": 1024,
                "tp": tp,
                "dp": dp,
                "pp": pp,
            }
            iteration_ms = 1000 * law(row)
            rows.append({"source": "drawn", "gpu_type": gpu, **row, "iter_time_ms": iteration_ms})
    return rows


def submission_rows(
    law: Callable[[int], float],
    *,
    submitter: str = "someone",
    benchmark: str = "resnet",
    gpu: str = "A100",
    sizes: Iterable[int] = (8, 16, 64),
) -> list[dict[str, object]]:
    """A family of systems of different sizes; minutes by number of GPUs."""
    return [
        {
            "round": "v9",
            "submitter": submitter,
            "system": f"{submitter}-{size}",
            "benchmark": benchmark,
            "gpu_type": gpu,
            "division": "closed",
            "num_nodes": size // 8,
            "num_gpus": size,
            "global_batch_size": 32 * size,
            "epochs_median": 35,
            "ttt_minutes": law(size),
        }
        for size in sizes
    ]
