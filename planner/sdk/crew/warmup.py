"""A first forward and backward pass before it counts: kernels are chosen, memory is touched.

A worker that joins does it while the others still train without it. What it leaves behind
(gradients, statistics, random states) is replaced when the state is handed over.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from planner.sdk.errors import tell


def warm_up(model: Any, loader: Any, samples: int, device: Any) -> None:
    """Run `model` on a batch of the loader's data set, as far as its inputs can be guessed."""
    dataset = loader.dataset
    count = max(1, min(samples, len(dataset)))
    batch = loader.collate_fn([dataset[index] for index in range(count)])
    why = ""
    for args, kwargs in _guesses(_moved(batch, device)):
        try:
            total = _sum(model(*args, **kwargs))
            if total is not None:
                total.backward()
                break
        except Exception as error:  # a wrong guess fails in the model's own ways
            why = why or f"{type(error).__name__}: {error}"
    else:
        why = why or "its output has no gradient"
        tell(f"the model was not warmed up ({why}): the first step will take longer")
    for parameter in model.parameters():
        parameter.grad = None


def _guesses(batch: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What a script may call its model with, likeliest first."""
    if isinstance(batch, Mapping):
        yield (), dict(batch)
    elif isinstance(batch, Sequence) and batch:
        yield (batch[0],), {}
        yield tuple(batch[:-1]), {}
        yield tuple(batch), {}
        for item in batch[1:]:
            yield (item,), {}
    else:
        yield (batch,), {}


def _moved(value: Any, device: Any) -> Any:
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_moved(item, device) for item in value]
    return value


def _sum(output: Any) -> Any:
    """One number that depends on all floating-point outputs; None when there are none."""
    torch: Any = sys.modules["torch"]
    if isinstance(output, torch.Tensor):
        grows = output.requires_grad and output.is_floating_point()
        return output.float().sum() if grows else None
    values: Any = ()
    if isinstance(output, Mapping):
        values = output.values()
    elif isinstance(output, (list, tuple)):
        values = output
    parts = [part for part in map(_sum, values) if part is not None]
    return sum(parts[1:], parts[0]) if parts else None
