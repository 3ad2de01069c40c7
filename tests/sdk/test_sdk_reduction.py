"""Gradients added up over two workers, whatever parameters each of them uses and in which order.

Both workers are threads of this process, joined by a group of Gloo's.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as distributed
from torch import nn
from torch.utils.checkpoint import checkpoint

from planner.sdk.crew import reduction
from planner.sdk.crew.group import Group
from planner.sdk.crew.reduction import Reduction
from planner.sdk.errors import SdkError

pytestmark = pytest.mark.torch

SIZE = 8
WEIGHTS = (0.75, 0.25)
"""What each worker's part counts."""


@pytest.fixture(autouse=True)
def many_small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parameters in each, as in a model of many gigabytes."""
    monkeypatch.setattr(reduction, "_FIRST_BYTES", 2 * SIZE * 4)
    monkeypatch.setattr(reduction, "_BUCKET_BYTES", 2 * SIZE * 4)


def on_two_workers(work: Callable[[int, Group], Any]) -> list[Any]:
    """What each worker's `work` returned, or what it raised."""
    store = distributed.HashStore()
    results: list[Any] = [None, None]

    def run(rank: int) -> None:
        try:
            options = distributed.ProcessGroupGloo._Options()
            options._devices = [distributed.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
            options._timeout = timedelta(seconds=20)
            raw = distributed.ProcessGroupGloo(store, rank, 2, options)
            results[rank] = work(rank, Group(raw, rank, 2, torch.device("cpu")))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
        assert not thread.is_alive(), "a worker waits for ever"
    return results


def parameters(count: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(SIZE)) for _ in range(count)]


def joined(own: list[nn.Parameter], group: Group, rank: int) -> Reduction:
    made = Reduction(lambda: iter(own))
    made.use(group)
    made.arm(WEIGHTS[rank])
    return made


def chained(own: list[nn.Parameter], use: tuple[int, ...]) -> torch.Tensor:
    """A loss whose gradients become ready in the reverse of this order, and are 1, 2, 3 ..."""
    total = torch.zeros(SIZE)
    for number in use:
        total = torch.cat([total, own[number] * (number + 1)])[-SIZE:] + total
    return total.sum()


def gradients(own: list[nn.Parameter]) -> list[list[float] | None]:
    return [None if p.grad is None else p.grad.tolist() for p in own]


def expected(uses: tuple[tuple[int, ...], tuple[int, ...]], count: int) -> list[list[float] | None]:
    """The same on one worker, weighed by hand."""
    sums: list[list[float] | None] = [None] * count
    for use, weight in zip(uses, WEIGHTS, strict=True):
        own = parameters(count)
        chained(own, use).backward()  # type: ignore[no-untyped-call]
        for number in use:
            gradient = own[number].grad
            assert gradient is not None
            before = sums[number] or [0.0] * SIZE
            sums[number] = [b + weight * g for b, g in zip(before, gradient.tolist(), strict=True)]
    return sums


ORDERS = list(itertools.permutations(range(3)))
USES = [
    *(((0, 1, 2, 3, 4), (*(order[::-1]), 3, 4)) for order in ORDERS),
    ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0)),
    ((0, 1, 2, 4), (0, 1, 2, 3)),
    ((4, 0), (1, 3)),
    ((0,), (0,)),
    ((4,), (3, 2, 0)),
]


@pytest.mark.parametrize("uses", USES, ids=str)
def test_sums_are_right_whoever_uses_what_in_which_order(
    uses: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    """What only one worker uses reaches the other; what nobody uses has no gradient."""

    def work(rank: int, group: Group) -> list[list[float] | None]:
        own = parameters(5)
        made = joined(own, group, rank)
        found = []
        for _ in range(2):  # the second step begins with buckets of the first
            for parameter in own:
                parameter.grad = None
            made.arm(WEIGHTS[rank])
            chained(own, uses[rank]).backward()  # type: ignore[no-untyped-call]
            assert not made.failed
            found.append(gradients(own))
        assert found[0] == found[1]
        return found[1]

    first, second = on_two_workers(work)
    assert first == second == expected(uses, 5)


def test_what_only_an_earlier_micro_batch_used_counts() -> None:
    """It is ready before the backward pass in which the others are sent."""

    def work(rank: int, group: Group) -> list[list[float] | None]:
        own = parameters(4)
        made = joined(own, group, rank)
        made.disarm()
        chained(own, (0, 1, 3) if rank == 0 else (0, 1)).backward()  # type: ignore[no-untyped-call]
        made.arm(WEIGHTS[rank])
        chained(own, (0, 2)).backward()  # type: ignore[no-untyped-call]
        return gradients(own)

    def alone(*uses: tuple[int, ...]) -> list[torch.Tensor]:
        own = parameters(4)
        for use in uses:
            chained(own, use).backward()  # type: ignore[no-untyped-call]
        return [torch.zeros(SIZE) if p.grad is None else p.grad for p in own]

    first, second = on_two_workers(work)
    parts = alone((0, 1, 3), (0, 2)), alone((0, 1), (0, 2))
    pairs = zip(*parts, strict=True)
    assert first == second == [(a * WEIGHTS[0] + b * WEIGHTS[1]).tolist() for a, b in pairs]


def test_a_second_backward_pass_for_the_same_batch_is_refused() -> None:
    """Also one of other parameters: what it adds would stay on one worker."""

    def work(rank: int, group: Group) -> None:
        own = parameters(4)
        joined(own, group, rank)
        chained(own, (0, 1)).backward()  # type: ignore[no-untyped-call]
        chained(own, (2, 3)).backward()  # type: ignore[no-untyped-call]

    for error in on_two_workers(work):
        assert isinstance(error, SdkError)
        assert "a second backward pass for the same batch" in str(error)


@pytest.mark.parametrize("recomputed", [(0,), (1,), (0, 1), (0, 2), (1, 2), (0, 1, 2)], ids=str)
def test_reentrant_checkpointing_is_right_or_refused(recomputed: tuple[int, ...]) -> None:
    """Each recomputed part is a backward pass of its own within the outer one."""

    def model() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Linear(SIZE, SIZE) for _ in range(3)))

    def loss(layers: nn.Sequential, rank: int, recompute: tuple[int, ...]) -> torch.Tensor:
        value = torch.full((2, SIZE), 1.0 + rank, requires_grad=True)
        for number, layer in enumerate(layers):
            if number in recompute:
                value = checkpoint(layer, value, use_reentrant=True)
            else:
                value = layer(value)
        return value.square().sum()

    sums = [torch.zeros_like(p) for p in model().parameters()]
    for rank, weight in enumerate(WEIGHTS):
        alone = model()
        loss(alone, rank, ()).backward()  # type: ignore[no-untyped-call]
        for total, parameter in zip(sums, alone.parameters(), strict=True):
            assert parameter.grad is not None
            total.add_(parameter.grad, alpha=weight)

    layers = [model(), model()]  # made here: seeds are shared by threads

    def work(rank: int, group: Group) -> list[torch.Tensor]:
        own = list(layers[rank].parameters())
        joined(own, group, rank)
        loss(layers[rank], rank, recomputed).backward()  # type: ignore[no-untyped-call]
        return [p.grad for p in own if p.grad is not None]

    for found in on_two_workers(work):
        if isinstance(found, Exception):
            assert isinstance(found, SdkError), found
            assert "use_reentrant=False" in str(found)
        else:
            torch.testing.assert_close(found, sums)


def test_sparse_gradients_are_added_up() -> None:
    torch.manual_seed(0)
    rows = torch.tensor([1, 3, 3]), torch.tensor([0, 3])

    def work(rank: int, group: Group) -> torch.Tensor:
        table = nn.Embedding(5, SIZE, sparse=True)
        joined(list(table.parameters()), group, rank)
        table(rows[rank]).sum().backward()
        assert table.weight.grad is not None
        return table.weight.grad.to_dense()

    counts = torch.zeros(5)
    for indices, weight in zip(rows, WEIGHTS, strict=True):
        counts += weight * torch.bincount(indices, minlength=5)
    for found in on_two_workers(work):
        torch.testing.assert_close(found, counts[:, None].expand(5, SIZE))
