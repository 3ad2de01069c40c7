"""Language models of job files: as rows of the law of `predictors.llm`, and what is known before.

On GPUs the law as it is shipped is what is known. On CPU slots nothing of it holds but its form, so
that the medians below, with wide errors, stand in until probes tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.core.job import LanguageModel
from predictors.features import Table
from predictors.llm import LlmRegressor, bundled
from predictors.llm_belief import Belief
from predictors.llm_law import COLUMNS, PARAMETERS, VOCABULARY
from predictors.llm_rows import CPU_SLOT, llm_rows

if TYPE_CHECKING:
    from planner.core.distribution import Array

CPU_PRIOR: dict[str, tuple[float, float]] = {
    "efficiency": (0.5, 0.7),
    "narrow": (30.0, 1.0),
    "launch_s": (0.4e-3, 1.0),  # some forty kernels of ten microseconds
    "local_gb_per_s": (1.5, 1.0),  # gloo over the loopback
    "round_s": (0.2e-3, 1.0),
    "head_share": (0.8, 0.6),
    "head_alone": (1.0, 0.4),
    "small_s": (0.1e-3, 1.0),
    "send_gb_per_s": (1.5, 1.0),
    "gradient_gb_per_s": (1.5, 1.0),
    "gradient_s": (0.5e-3, 1.0),
    "fixed_s": (0.3e-3, 1.0),
}
"""Medians and standard deviations of the logarithms on CPU slots, where they differ from
`llm_law.PRIOR`: orders of magnitude, not fitted to anything."""
_CPU_NETWORK = 1.0
"""Between machines of CPU slots, 1e9 bytes/s: 10 Gbit/s; set by hand as well."""
_CPU_APART = 0.5
"""Of all parts together, for cores are of many kinds and share caches and memory."""


def language_rows(columns: Table, model: LanguageModel, gpu: str) -> dict[str, Any]:
    """Configurations of a job as rows of `LlmRegressor`.

    Args:
        columns: `features.COLUMNS` and `features.LAYOUT`, n rows.
        model: What the job trains.
        gpu: GPU type, or `cpu`.
    """
    tensor, pipeline = columns["tensor_parallel"], columns["pipeline_parallel"]
    replicas = columns["workers"] / (tensor * pipeline)
    whole = columns["micro_batch"] * columns["accumulation"] * replicas
    size = len(replicas)
    return {
        "num_gpus": columns["workers"],
        "num_nodes": columns["nodes"],
        "global_batch_size": whole,
        "micro_batch_size": columns["micro_batch"],
        "hidden_size": np.full(size, float(model.hidden)),
        "attention_heads": np.full(size, float(model.heads)),
        "num_layers": np.full(size, float(model.layers)),
        "seq_len": np.full(size, float(model.sequence)),
        "tp": tensor,
        "dp": replicas,
        "pp": pipeline,
        "gpu_type": [gpu] * size,
    }


def prior_regressor(model: LanguageModel, gpu: str, rows: Mapping[str, Any]) -> LlmRegressor:
    """What is known of a model's iterations on a GPU type, or `cpu`, before any probe.

    Args:
        model: What the job trains.
        gpu: GPU type, or `cpu`.
        rows: Configurations that will be probed, for CPU slots.
    """
    result = _on_cpu(rows) if gpu == CPU_SLOT else copy(_shipped())
    result.gpu = gpu
    result.belief_ = _with_vocabulary(result.belief_, model)
    return result


def stage_parameters(model: LanguageModel, tensor: int, pipeline: int) -> float:
    """Parameters of a worker on the first stage (`llm_law.stage_parameters`, any vocabulary)."""
    h = model.hidden
    layer = 12 * h**2 * (1 + 13 / (12 * h))
    return (ceil(model.layers / pipeline) * layer + model.vocabulary * h) / tensor


@lru_cache(maxsize=1)
def _shipped() -> LlmRegressor:
    """`llm.bundled`, read once."""
    return bundled()


def _with_vocabulary(belief: Belief, model: LanguageModel) -> Belief:
    """The belief for another vocabulary than the law has: times grow with what depends on it.

    The head's time is exactly so; the parameters' in the optimiser and the all-reduce are those of
    a single stage, which has the largest share of the vocabulary of all.
    """
    head = float(np.log(model.vocabulary / VOCABULARY))
    usual = replace(model, vocabulary=int(VOCABULARY))
    state = float(np.log(stage_parameters(model, 1, 1) / stage_parameters(usual, 1, 1)))
    moved = {"head_share": -head, "per_logit": head}
    moved |= {"per_parameter": state, "gradient_gb_per_s": -state}
    mean = belief.mean.copy()
    for name, by in moved.items():
        mean[PARAMETERS.index(name)] += by
    return replace(belief, mean=mean)


def _on_cpu(rows: Mapping[str, Any]) -> LlmRegressor:
    """A regressor that knows the law's form, and `CPU_PRIOR`."""
    c, _ = llm_rows(rows, gpu=CPU_SLOT, network_gb_per_s=_CPU_NETWORK)
    belief = Belief.prior(c)
    mean, root = belief.mean.copy(), belief.root.copy()
    for name, (median, sd) in CPU_PRIOR.items():
        i = PARAMETERS.index(name)
        mean[i] = np.log(median)
        root[i] *= sd / float(np.sqrt((root[i] ** 2).sum()))
    result = LlmRegressor(gpu=CPU_SLOT, network_gb_per_s=_CPU_NETWORK)
    result.belief_ = replace(belief, mean=mean, root=root).apart(_CPU_APART)
    none: Array = np.zeros((0, 3))
    result.shapes_, result.layouts_ = none, none
    result.gpus_, result.probes_, result.differs_ = (CPU_SLOT,), None, False
    result.noise_, result.width_, result.new_width_ = 0.001, 1.0, 1.0
    result.n_features_in_ = len(COLUMNS)
    return result
