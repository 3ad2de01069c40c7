"""Gradients added up over two workers, whatever parameters each of them uses and in which order."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from support.twoworkers import Pretended, on_two_workers
from torch import nn
from torch.utils.checkpoint import checkpoint

from planner.sdk.accumulate import Accumulation
from planner.sdk.crew import reduction
from planner.sdk.crew.group import Group
from planner.sdk.crew.reduction import Reduction
from planner.sdk.errors import SdkError
from planner.sdk.order import Micro
from planner.sdk.planned import require_possible
from planner.sdk.plannedfeed import Shape
from planner.sdk.state import Parts

pytestmark = pytest.mark.torch

SIZE = 8
WEIGHTS = (0.75, 0.25)
"""What each worker's part counts."""


@pytest.fixture(autouse=True)
def many_small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parameters in each, as in a model of many gigabytes."""
    monkeypatch.setattr(reduction, "_FIRST_BYTES", 2 * SIZE * 4)
    monkeypatch.setattr(reduction, "_BUCKET_BYTES", 2 * SIZE * 4)


def parameters(count: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(SIZE)) for _ in range(count)]


def joined(own: list[nn.Parameter], group: Group, rank: int) -> Reduction:
    made = Reduction(lambda: list(own))
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


@pytest.mark.parametrize("workers", [1, 2])
def test_an_optimizer_of_sparse_gradients_only_has_one_worker(workers: int) -> None:
    table = nn.Embedding(5, SIZE, sparse=True)
    shape = Shape(
        rank=0, workers=workers, global_batch=4, micro_batch=4, split=True, drop_last=False
    )
    for kind, refused in ((torch.optim.SGD, False), (torch.optim.SparseAdam, workers > 1)):
        parts = Parts(model=table, optimizer=kind(table.parameters(), lr=0.1))
        with pytest.raises(SdkError, match="SparseAdam") if refused else nullcontext():
            require_possible(shape, parts, crew=True)


Optimizers = [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW]


@pytest.mark.parametrize("optimizer", Optimizers, ids=lambda kind: kind.__name__)
def test_gradients_lie_in_memory_as_their_parameters_do(
    optimizer: Callable[..., torch.optim.Optimizer],
) -> None:
    """Fused optimizers pair them by their place in memory."""

    def model() -> nn.Conv2d:
        torch.manual_seed(0)
        return nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    torch.manual_seed(1)
    images = [torch.randn(2, 3, 8, 8) for _ in WEIGHTS]
    models = [model() for _ in WEIGHTS]

    def work(rank: int, group: Group) -> torch.Tensor:
        own = models[rank]
        steps = optimizer(own.parameters(), lr=0.1, fused=True)
        made = joined(list(own.parameters()), group, rank)
        for _ in range(2):
            made.arm(WEIGHTS[rank])
            steps.zero_grad()
            own(images[rank]).square().mean().backward()
            steps.step()
        return own.weight.detach()

    alone = model()
    steps = optimizer(alone.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        steps.zero_grad()
        for part, weight in zip(images, WEIGHTS, strict=True):
            (weight * alone(part).square().mean()).backward()
        steps.step()
    for found in on_two_workers(work):
        torch.testing.assert_close(found, alone.weight.detach(), rtol=1e-4, atol=1e-5)


def test_parameters_that_are_freed_and_frozen_in_training_are_followed() -> None:
    def work(rank: int, group: Group) -> list[list[list[float] | None]]:
        own = parameters(4)
        own[0].requires_grad_(False)
        made = joined(own, group, rank)
        found = []
        for frozen in (0, 3, None):
            for number, parameter in enumerate(own):
                parameter.requires_grad_(number != frozen)
                parameter.grad = None
            made.arm(WEIGHTS[rank])
            loss = sum(p.sum() * (number + 1) * (rank + 1) for number, p in enumerate(own))
            loss.backward()  # type: ignore[union-attr]
            found.append(gradients(own))
        return found

    share = WEIGHTS[0] + 2 * WEIGHTS[1]
    whole = [[share * (number + 1)] * SIZE for number in range(4)]
    wanted = [[None, *whole[1:]], [*whole[:3], None], whole]
    first, second = on_two_workers(work)
    assert first == second == wanted


def test_a_worker_that_trains_other_parameters_leaves_and_no_step_counts() -> None:
    def work(rank: int, group: Group) -> bool:
        own = parameters(4)
        own[2].requires_grad_(rank == 0)
        return joined(own, group, rank).failed

    first, second = on_two_workers(work)
    assert first is True
    assert isinstance(second, SdkError)
    assert "not those of the others" in str(second)


def accumulation(model: nn.Module, optimizer: torch.optim.Optimizer, group: Group) -> Accumulation:
    made = Accumulation(model=model, optimizer=optimizer, scheduler=None)
    made.reduction.use(group)  # not installed: what that replaces is shared by both threads
    return made


def test_parameters_that_the_optimizer_leaves_out_count_in_the_norm() -> None:
    """All gradients are clipped to one norm, which has to be the same on all workers."""

    def work(rank: int, group: Group) -> list[float]:
        model = nn.ParameterList(parameters(2))
        optimizer = torch.optim.SGD([model[0]], lr=0.1)
        made = accumulation(model, optimizer, group)
        made.begin(Micro(0, 1, weight=WEIGHTS[rank]))
        (model[0] * (rank + 1) + model[1] * (5 * rank + 1)).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return list(model[0].tolist())

    first, second = on_two_workers(work)
    assert first == second != [1.0] * SIZE


def test_after_the_batches_of_an_epoch_a_worker_may_do_a_pass_of_its_own() -> None:
    """One that evaluates gradients, say: nobody waits for it."""

    def work(rank: int, group: Group) -> list[list[float] | None]:
        model = nn.ParameterList(parameters(2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        made = accumulation(model, optimizer, group)
        made.begin(Micro(0, 1, weight=WEIGHTS[rank]))
        chained(list(model), (0, 1)).backward()  # type: ignore[no-untyped-call]
        made.remove()
        optimizer.zero_grad()
        if rank == 0:
            chained(list(model), (0, 1)).backward()  # type: ignore[no-untyped-call]
        return gradients(list(model))

    first, second = on_two_workers(work)
    assert first == gradients_alone() and second == [None, None]


def gradients_alone() -> list[list[float] | None]:
    own = parameters(2)
    chained(own, (0, 1)).backward()  # type: ignore[no-untyped-call]
    return gradients(own)


@pytest.mark.parametrize("overflows", [False, True])
def test_a_step_that_did_not_count_leaves_the_gradient_scaler_as_it_was(overflows: bool) -> None:
    """Such a step has gradients of one worker only: each would make something else of them."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    made = Accumulation(model=model, optimizer=optimizer, scheduler=None, scaler=scaler)
    group = Pretended(None, 0, 2, torch.device("cpu"))
    made.reduction.use(group)
    made.install(accumulates=True, freeze_scheduler=False)

    def scale_after_step(value: float = 1.0) -> float:
        made.begin(Micro(0, 1))
        optimizer.zero_grad()
        scaler.scale(model(torch.full((1, 1), value)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        return scaler.get_scale()

    assert scale_after_step() == 1024.0
    group.there = False
    assert scale_after_step(float("inf") if overflows else 1.0) == 1024.0
    group.there = True
    model.weight.grad = None
    made.reduction.use(group)
    assert scale_after_step() == 2048.0
    made.remove()
    assert model.weight.item() == pytest.approx(0.8)


def test_a_sum_that_was_given_up_reaches_no_later_step() -> None:
    """What other workers sent before one was lost may still arrive where it was to be added up."""
    own = parameters(2)
    group = Pretended(None, 0, 2, torch.device("cpu"))
    made = joined(own, group, 0)
    group.there = False
    chained(own, (0, 1)).backward()  # type: ignore[no-untyped-call]
    assert made.failed
    given_up = [parameter.grad for parameter in own]
    group.there = True
    for parameter in own:
        parameter.grad = None
    made.use(group)
    made.arm(WEIGHTS[0])
    chained(own, (0, 1)).backward()  # type: ignore[no-untyped-call]
    right = gradients(own)
    for gradient in given_up:
        assert gradient is not None
        gradient.fill_(77.0)
    assert gradients(own) == right
