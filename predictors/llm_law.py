"""The law of one iteration of a GPT with tensor, data and pipeline parallelism: its parts in s.

For micro-batches of b sequences of s tokens, hidden size h, a heads, L layers, vocabulary V, and
M = global batch / (dp b) micro-batches of each of dp replicas::

    compute    (M + pp - 1) L/pp norm(launch, flops + traffic)      forward and backward
      flops    72 b s h^2 (1 + s/6h) / tp / (efficiency peak) (1 + narrow tp/h)
      traffic  b s h (10 + 24/tp + 5 a s/(h tp)) moved / bandwidth
    tensor     (M + pp - 1) L/pp 4 all-reduces of 2 b s h bytes over tp GPUs
    head       M times the vocabulary's logits and their loss, on the last stage
    embedding  once a micro-batch on one stage; with more, its time shows once
    pipeline   2 (pp - 1) sends of 2 b s h bytes
    optimizer  parameters of a GPU times bytes moved / bandwidth
    data       an all-reduce of the gradients (2 bytes each) over dp GPUs
    fixed      once per iteration

Sources: FLOPs, all-reduces, the order tp-dp-pp over nodes and 1F1B's (pp - 1) / M from Narayanan et
al. (SC 2021, sections 2.2, 3.2 and 5.1, equation 3 without recomputation); activations per layer,
and what recomputation frees, from Korthikanti et al. (MLSys 2023, equations 1 and 2); a ring's
2 (n - 1) / n bytes in 2 (n - 1) steps from Patarasuk and Yuan (2009). The last stage holds the
head, and is the one that others wait for. `launch` is what the processor needs to start a layer's
kernels: computing takes the larger of the two, rounded where they are alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from planner.core.distribution import Array

Table = Mapping[str, "Array"]

COLUMNS: tuple[str, ...] = (
    "num_gpus",
    "num_nodes",
    "global_batch_size",
    "micro_batch_size",
    "hidden_size",
    "attention_heads",
    "num_layers",
    "seq_len",
    "tp",
    "dp",
    "pp",
)
"""Columns of a configuration; sizes of batches are in sequences."""

MACHINE: tuple[str, ...] = ("half_tflops", "bandwidth_gb_per_s", "network_gb_per_s")
"""Columns of what it runs on: a GPU's peaks (`predictors.gpus.Peak`), and the network of a node,
for all its GPUs together, 1e9 bytes/s."""

PARTS: tuple[str, ...] = (
    "compute",
    "tensor",
    "head",
    "embedding",
    "pipeline",
    "optimizer",
    "data",
    "fixed",
)

PRIOR: dict[str, tuple[float, float]] = {
    "efficiency": (0.65, 0.25),  # of the peak, large matrices
    "narrow": (150.0, 0.8),  # columns of a GPU's share at which a matrix takes twice its time
    "moved": (4.0, 0.5),  # bytes to and from memory for each byte of activations
    "launch_s": (2e-3, 0.7),  # kernels of a layer, forward and backward
    "local_gb_per_s": (150.0, 0.5),  # all-reduce within a node, per GPU, 1e9 bytes/s
    "round_s": (30e-6, 0.8),  # an all-reduce of nothing, for each step around the ring and back
    "head_share": (0.8, 0.4),  # efficiency of the head's matrix against a layer's
    "head_alone": (2.0, 0.6),  # times it takes on one GPU, against its share on several
    "per_logit": (40.0, 0.5),  # bytes to and from memory for each logit
    "small_s": (0.4e-3, 0.8),  # kernels of the head, and of the embedding
    "embedded": (40.0, 0.7),  # bytes to and from memory for each element of the embedding
    "send_gb_per_s": (30.0, 1.0),  # from stage to stage within a node, 1e9 bytes/s
    "per_parameter": (32.0, 0.3),  # bytes to and from memory in the optimizer
    "gradient_gb_per_s": (150.0, 0.5),  # all-reduce of gradients within a node
    "gradient_s": (0.1e-3, 1.0),  # starting it
    "network": (0.7, 0.5),  # share of a node's network that all-reduces between nodes reach
    "fixed_s": (0.2e-3, 1.0),
    "full": (1.0, 0.7),  # memory needed against that of the estimate of `recomputing`
}
"""Medians and standard deviations of the logarithms of the law's parameters, for any GPU."""
PARAMETERS: tuple[str, ...] = tuple(PRIOR)

VOCABULARY = 50304.0
"""GPT-2's, padded as Megatron-LM does; the columns do not tell."""
MEMORY_BYTES = 40e9
"""Of a GPU, for whether activations must be recomputed."""
_RECOMPUTED = 0.75
"""Share of jobs whose activations do not fit that recompute all of them: a guess. Others recompute
selected ones, which costs next to nothing (Korthikanti et al., MLSys 2023)."""
_ROUNDED = 4.0
_UNSURE_LOG = 0.5
"""Log-odds of recomputation change by one for so much of log(bytes needed / there)."""


def prior() -> tuple[Array, Array]:
    """Mean and standard deviation of the log-parameters."""
    table = np.asarray(list(PRIOR.values()))
    return np.log(table[:, 0]), table[:, 1]


def parameters(c: Table) -> Array:
    """Parameters of a whole model: 12 L h^2 (1 + 13 / 12 h) + V h (Narayanan et al., eq. 2)."""
    h = c["hidden_size"]
    count: Array = 12 * c["num_layers"] * h**2 * (1 + 13 / (12 * h)) + VOCABULARY * h
    return count


def stage_parameters(c: Table) -> Array:
    """Parameters of a GPU on the first stage, which holds the vocabulary."""
    vocabulary = VOCABULARY * c["hidden_size"]
    layers = (parameters(c) - vocabulary) / c["num_layers"] * layers_per_stage(c)
    result: Array = (layers + vocabulary) / c["tp"]
    return result


def layers_per_stage(c: Table) -> Array:
    """Of the fullest stage."""
    return np.ceil(c["num_layers"] / c["pp"])


def micro_batches(c: Table) -> Array:
    """Of an iteration, one after another on every GPU."""
    count: Array = c["global_batch_size"] / (c["dp"] * c["micro_batch_size"])
    return count


def message_bytes(c: Table) -> Array:
    """Activations between layers: 2 b s h."""
    size: Array = 2 * c["micro_batch_size"] * c["seq_len"] * c["hidden_size"]
    return size


def activation_bytes(c: Table) -> Array:
    """Kept for the backward pass of a layer and micro-batch, of one GPU."""
    h, s, tp = c["hidden_size"], c["seq_len"], c["tp"]
    scores = 5 * c["attention_heads"] * s / h
    kept: Array = c["micro_batch_size"] * s * h * (10 + (24 + scores) / tp)
    return kept


def recomputing(c: Table, full: float) -> Array:
    """Probability that activations are recomputed: they do not all fit.

    Beside them stand 16 bytes a parameter: weights, gradients and Adam's state, mixed precision.
    Within a node activations were kept in the rows that this was made for, so others there keep
    them too.
    """
    at_once = np.minimum(c["pp"], micro_batches(c)) * layers_per_stage(c)
    needed = 16 * stage_parameters(c) + at_once * activation_bytes(c)
    odds = np.log(full * needed / MEMORY_BYTES) / _UNSURE_LOG
    return np.where(c["num_nodes"] > 1, _RECOMPUTED / (1 + np.exp(-odds)), 0.0)


def parts(theta: Array, c: Table) -> Array:
    """Seconds of each of `PARTS` in an iteration, shape (parts, rows).

    Args:
        theta: Log-parameters in the order of `PARAMETERS`.
        c: Configurations, `COLUMNS` and `MACHINE`.
    """
    p = dict(zip(PARAMETERS, np.exp(theta), strict=True))
    b, s, h, tp, pp = (c[n] for n in ("micro_batch_size", "seq_len", "hidden_size", "tp", "pp"))
    flops_per_s = 1e12 * c["half_tflops"] * p["efficiency"]
    bytes_per_s = 1e9 * c["bandwidth_gb_per_s"]
    M, again = micro_batches(c), recomputing(c, p["full"])
    turns = (M + pp - 1) * layers_per_stage(c)

    narrow = 1 + p["narrow"] * tp / h
    matrices = 72 * b * s * h**2 * (1 + s / (6 * h)) / tp / flops_per_s * narrow
    busy = matrices + activation_bytes(c) * p["moved"] / bytes_per_s
    computing = (p["launch_s"] ** _ROUNDED + busy**_ROUNDED) ** (1 / _ROUNDED)

    alone = np.where(tp == 1, p["head_alone"], 1.0)
    logits = 6 * b * s * h * VOCABULARY / tp / (flops_per_s * p["head_share"]) * narrow * alone
    logits = logits + b * s * VOCABULARY / tp * p["per_logit"] / bytes_per_s
    small = p["small_s"]
    looked_up = small + message_bytes(c) / 2 * p["embedded"] / bytes_per_s

    node = 1e9 * c["network_gb_per_s"] * p["network"]
    return np.stack(
        [
            turns * computing * (1 + again / 3),
            turns * 4 * (1 + again / 2) * _tensor(p, c, node),
            M * (small + logits),
            np.where(pp > 1, 1.0, M) * looked_up,
            2 * (pp - 1) * _send(p, c, node),
            stage_parameters(c) * p["per_parameter"] / bytes_per_s,
            _gradients(p, c, node),
            np.full(len(b), p["fixed_s"]),
        ]
    )


def _tensor(p: Mapping[str, float], c: Table, node: Array) -> Array:
    """An all-reduce of activations; across nodes the GPUs of each share one way out."""
    tp, local = c["tp"], 1e9 * p["local_gb_per_s"]
    size = 2 * (1 - 1 / tp) * message_bytes(c)
    time: Array = p["round_s"] * (tp - 1) + np.where(
        tp > gpus_per_node(c), size / node, size / local
    )
    return time


def _gradients(p: Mapping[str, float], c: Table, node: Array) -> Array:
    """Rings of all tensor-parallel ranks pass through a node's network at the same time."""
    tp, dp, here = c["tp"], c["dp"], gpus_per_node(c)
    size = 2 * (1 - 1 / dp) * 2 * stage_parameters(c)
    time = size / (1e9 * p["gradient_gb_per_s"])
    across = size * np.minimum(tp, here) / node
    time = np.where(tp * dp > here, np.maximum(time, across), time)
    return np.where(dp > 1, p["gradient_s"] * np.log2(np.maximum(dp, 2)) + time, 0.0)


def _send(p: Mapping[str, float], c: Table, node: Array) -> Array:
    """From stage to stage; across nodes all GPUs of a node send at the same time."""
    here = gpus_per_node(c)
    local = message_bytes(c) / (1e9 * p["send_gb_per_s"])
    across = message_bytes(c) * here / node
    return np.where(c["tp"] * c["dp"] >= here, np.where(c["num_nodes"] > 1, across, local), local)


def gpus_per_node(c: Table) -> Array:
    """GPUs that share a node's network."""
    count: Array = c["num_gpus"] / c["num_nodes"]
    return count
