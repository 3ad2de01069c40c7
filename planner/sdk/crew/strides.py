"""Tensors whose elements fill their memory without gaps, in whatever order (channels last)."""

from __future__ import annotations

from typing import Any


def is_dense(tensor: Any) -> bool:
    """Whether each place of its memory is one element, so that a flat view of it has them all."""
    expected = 1
    dimensions = zip(tensor.stride(), tensor.shape, strict=True)
    for stride, size in sorted((stride, size) for stride, size in dimensions if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def flat(tensor: Any) -> Any:
    """Its elements in one dimension, as they lie in memory; a copy where it is not dense."""
    if not is_dense(tensor):
        tensor = tensor.contiguous()
    return tensor.as_strided((tensor.numel(),), (1,))


def shaped_like(part: Any, tensor: Any) -> Any:
    """A one-dimensional tensor seen with the shape of another, and with its strides where dense.

    Kernels that go through parameters and gradients as they lie in memory, those of fused
    optimizers among them, need both in the same order.
    """
    if is_dense(tensor):
        return part.as_strided(tensor.shape, tensor.stride(), part.storage_offset())
    return part.view(tensor.shape)
