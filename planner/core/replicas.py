"""Replicas of a model that several workers hold together, by tensor and pipeline parallelism."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.core.types import Knobs, ResourceConfig

_ALONE = {"tensor_parallel": 1, "pipeline_parallel": 1}


def misfit(knobs: Knobs, resources: ResourceConfig) -> tuple[str, str] | None:
    """Why the workers cannot hold whole replicas, and what could; None where they can.

    Workers that share layers exchange activations several times a layer, so they are on one node
    (Narayanan et al., SC 2021, section 3.2).
    """
    each, tensor = knobs.replica_workers, knobs.tensor_parallel
    if resources.workers % each:
        layout = f"tensor {tensor} x pipeline {knobs.pipeline_parallel}"
        text = f"{resources.workers} workers are no whole number of replicas, {layout} workers each"
        return text, f"a multiple of {each}"
    if resources.workers_per_node % tensor:
        text = (
            f"{resources.workers_per_node} workers a node cannot share layers {tensor} by {tensor}"
        )
        return text, f"a multiple of {tensor} on each node"
    return None


def layout_text(knobs: Knobs) -> str:
    """How replicas are spread over workers: `tensor 2 x pipeline 2`; empty for one worker each."""
    return spread_text(knobs.tensor_parallel, knobs.pipeline_parallel)


def spread_text(tensor: int, pipeline: int) -> str:
    """`layout_text` of knobs that are told one by one."""
    parts = (("tensor", tensor), ("pipeline", pipeline))
    return " x ".join(f"{name} {count}" for name, count in parts if count > 1)


def identity(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs as ids are made from: without a layout of one worker, as before there were others."""
    return {name: value for name, value in knobs.items() if _ALONE.get(name) != value}
