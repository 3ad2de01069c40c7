"""Published iterations of language models on many A100s, with the source of every row.

`llm_published.csv` has the columns of `predictors.evaluate`, and: `job` (rows that one team ran on
one machine), `recomputed` (whether activations were: all, selected ones, or unknown; no predictor
is told), `network_gb_per_s` of a node, and `assumed`, which names what the source leaves open.
Where a source gives 1e12 operations/s of a GPU (`tflops`), the time follows from its own count of
operations.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from planner.core.distribution import I05, I95
from predictors.llm import LlmRegressor
from predictors.llm_law import COLUMNS

PUBLISHED = Path(__file__).with_name("llm_published.csv")
LAYOUT = ("tp", "pp", "dp")
ORDER = ("num_gpus", *LAYOUT, "micro_batch_size", "global_batch_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedJob:
    """Iterations of one job.

    Attributes:
        columns: `llm_law.COLUMNS`.
        iteration_s: Seconds.
        recomputed: As the source says.
        network_gb_per_s: Of a node.
        sources: Of each row.
    """

    columns: Mapping[str, np.ndarray]
    iteration_s: np.ndarray
    recomputed: str
    network_gb_per_s: float
    sources: Sequence[str]

    def rows(self, which: Sequence[int]) -> dict[str, np.ndarray]:
        """Some of the configurations."""
        return {name: column[list(which)] for name, column in self.columns.items()}

    def cheapest(self, count: int = 3) -> list[int]:
        """Rows on the fewest GPUs, each with another parallelism while there is one."""
        order = np.lexsort([self.columns[name] for name in reversed(ORDER)])
        seen: set[tuple[float, ...]] = set()
        first: list[int] = []
        again: list[int] = []
        for row in order:
            layout = tuple(float(self.columns[name][row]) for name in LAYOUT)
            (again if layout in seen else first).append(int(row))
            seen.add(layout)
        return [*first, *again][:count]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How good predictions of a job are: fractions; half-widths of 90 % intervals in log(time)."""

    error: float
    bias: float
    inside: float
    halfwidth: float


def published() -> dict[str, PublishedJob]:
    """All jobs by name."""
    with PUBLISHED.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    jobs: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        jobs.setdefault(row["job"], []).append(row)
    return {
        name: PublishedJob(
            columns={n: np.asarray([float(row[n]) for row in group]) for n in COLUMNS},
            iteration_s=np.asarray([_seconds(row) for row in group]),
            recomputed=group[0]["recomputed"],
            network_gb_per_s=float(group[0]["network_gb_per_s"]),
            sources=[row["source"] for row in group],
        )
        for name, group in jobs.items()
    }


def _seconds(row: Mapping[str, str]) -> float:
    """As published, or from operations/s by Narayanan et al. 2021, equation 3."""
    if row["iter_time_ms"]:
        return float(row["iter_time_ms"]) / 1000
    B, s, layers, h, V = (
        float(row[name])
        for name in ("global_batch_size", "seq_len", "num_layers", "hidden_size", "vocab_size")
    )
    flops = 96 * B * s * layers * h**2 * (1 + s / (6 * h) + V / (16 * layers * h))
    return flops / float(row["num_gpus"]) / (float(row["tflops"]) * 1e12)


def score(model: LlmRegressor, job: PublishedJob, which: Sequence[int]) -> Score:
    """Of some rows of a job."""
    real, asked = job.iteration_s[list(which)], job.rows(which)
    q = model.predict_distribution(asked)
    off = model.predict(asked) / real - 1
    return Score(
        error=float(np.abs(off).mean()),
        bias=float(off.mean()),
        inside=float(np.mean((q[:, I05] <= real) & (real <= q[:, I95]))),
        halfwidth=float(np.log(q[:, I95] / q[:, I05]).mean() / 2),
    )
