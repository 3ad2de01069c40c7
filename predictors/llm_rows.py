"""Rows of language models' iterations: columns with units, checked, and what they run on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors.columns import named_columns, positive
from predictors.gpus import Peak, peak_of
from predictors.llm_law import COLUMNS, MACHINE, micro_batches

if TYPE_CHECKING:
    from planner.core.distribution import Array

GPUS_PER_NODE = 8.0
"""Where nobody tells how many nodes there are."""
CPU_SLOT = "cpu"
"""Type of rows on CPU slots."""
_STANDS_IN = "A100"
"""Whose peaks are taken for those of a type that nobody knows."""
_CORE = Peak(fp32_tflops=0.1, half_tflops=0.1, bandwidth_gb_per_s=10.0)
"""A core with 512 or 256 bit wide units at 2 to 3 GHz, and its share of the memory's bandwidth."""


def llm_rows(X: Any, *, gpu: str, network_gb_per_s: float) -> tuple[dict[str, Array], list[str]]:
    """The columns of `X` as float vectors, and the GPU type of each row.

    Args:
        X: DataFrame, structured array or mapping with `llm_law.COLUMNS`, and with `gpu_type` where
            rows differ in it. Nodes that are missing or not-a-number hold 8 GPUs each.
        gpu: GPU type of rows that do not tell.
        network_gb_per_s: Of a node, for all its GPUs together, 1e9 bytes/s.

    Returns:
        `llm_law.COLUMNS` and `llm_law.MACHINE`, each of shape (rows,), and the types.

    Raises:
        ValueError: A column is missing or no positive numbers; GPUs, heads or batches that cannot
            be divided as asked.
    """
    raw = named_columns(X)
    if raw is None:
        raise ValueError(f"need named columns {', '.join(COLUMNS)}; got {type(X).__name__}")
    missing = [name for name in COLUMNS if name not in raw and name != "num_nodes"]
    if missing:
        raise ValueError(f"missing columns {missing}; there are {sorted(raw)}")
    c = {name: np.asarray(raw[name], dtype=float) for name in COLUMNS if name in raw}
    nodes = np.ceil(c["num_gpus"] / GPUS_PER_NODE)
    told = c.setdefault("num_nodes", np.full(nodes.shape, np.nan))
    if told.shape == nodes.shape:
        c["num_nodes"] = np.where(np.isnan(told), nodes, told)
    sizes = {name: column.shape for name, column in c.items()}
    if len(set(sizes.values())) > 1 or c["tp"].ndim != 1:
        raise ValueError(f"columns must be vectors of one length: {sizes}")
    for name, column in c.items():
        positive(column, name)
    _check_division(c)
    n = len(c["tp"])
    gpus = [str(g) for g in raw["gpu_type"]] if "gpu_type" in raw else [gpu] * n
    if len(gpus) != n:
        raise ValueError(f"column 'gpu_type' has {len(gpus)} rows, the others {n}")
    found = {g: _CORE if g == CPU_SLOT else peak_of(g) or peak_of(_STANDS_IN) for g in set(gpus)}
    table = np.asarray([(p.half_tflops, p.bandwidth_gb_per_s) for g in gpus if (p := found[g])])
    machine = [*table.reshape(n, 2).T, np.full(n, float(network_gb_per_s))]
    return {**c, **dict(zip(MACHINE, machine, strict=True))}, gpus


def _check_division(c: Mapping[str, Array]) -> None:
    """Refuse the first row whose parallelism does not divide what it must."""
    checks = (
        *((c[n] == np.round(c[n]), f"{n} must be a whole number") for n in ("tp", "dp", "pp")),
        (c["tp"] * c["dp"] * c["pp"] == c["num_gpus"], "tp x dp x pp must be num_gpus"),
        (c["attention_heads"] % c["tp"] == 0, "tp must divide attention_heads"),
        (c["num_nodes"] <= c["num_gpus"], "there are more nodes than GPUs"),
        (c["num_layers"] >= c["pp"], "pp is more than num_layers: a stage would hold no layer"),
        (
            np.abs(micro_batches(c) - np.maximum(np.round(micro_batches(c)), 1)) < 1e-9,
            "micro_batch_size must divide global_batch_size / dp",
        ),
    )
    for holds, what in checks:
        if not np.all(holds):
            row = int(np.flatnonzero(~holds)[0])
            values = ", ".join(f"{name}={c[name][row]:g}" for name in COLUMNS)
            raise ValueError(f"row {row}: {what} ({values})")
