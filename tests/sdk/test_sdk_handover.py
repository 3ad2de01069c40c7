"""State on its way to another worker arrives as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.twoworkers import on_two_workers
from torch import nn

from planner.sdk.crew import group as groups
from planner.sdk.crew.group import Group
from planner.sdk.crew.handover import load_state, send_state
from planner.sdk.crew.strides import flat, is_dense
from planner.sdk.state import Parts

pytestmark = pytest.mark.torch

Made = tuple[nn.Module, torch.optim.Optimizer]


def make(seed: int) -> Made:
    """Channels last, with large and small tensors, buffers, and an optimizer of many states."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 400))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, torch.optim.Adam(model.parameters(), lr=0.1, fused=True)


def train(made: Made, steps: int) -> None:
    model, optimizer = made
    draw = torch.Generator().manual_seed(5)
    for _ in range(steps):
        images = torch.randn(2, 3, 8, 8, generator=draw).to(memory_format=torch.channels_last)
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


def state(made: Made) -> dict[str, torch.Tensor]:
    model, optimizer = made
    found = dict(model.state_dict())
    for number, values in optimizer.state_dict()["state"].items():
        found |= {f"{number}.{name}": value for name, value in values.items()}
    return found


@pytest.mark.parametrize("large_bytes", [1, 256 << 10])
def test_a_newcomer_goes_on_bit_by_bit_as_the_one_it_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_bytes: int
) -> None:
    monkeypatch.setattr(groups, "_LARGE_BYTES", large_bytes)
    monkeypatch.setattr(groups, "_CHUNK_BYTES", 4096)  # small ones in several parcels
    workers = [make(0), make(1)]
    train(workers[0], 3)

    def work(rank: int, group: Group) -> None:
        model, optimizer = workers[rank]
        parts = Parts(model=model, optimizer=optimizer)
        states = send_state(group, parts, 0, tmp_path)
        if rank:
            load_state(parts, states, tmp_path)

    assert on_two_workers(work) == [None, None]
    for made in workers:
        train(made, 2)
    first, second = map(state, workers)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert value.stride() == second[name].stride(), name


@pytest.mark.parametrize(
    ("tensor", "dense"),
    [
        (torch.zeros(()), True),
        (torch.zeros(0, 3), True),
        (torch.zeros(2, 3, 4).permute(2, 0, 1), True),
        (torch.zeros(1, 3, 1, 5).to(memory_format=torch.channels_last), True),
        (torch.zeros(4, 4)[:, :2], False),
        (torch.zeros(3, 1).expand(3, 4), False),
    ],
)
def test_flat_has_each_element_once(tensor: torch.Tensor, dense: bool) -> None:
    assert is_dense(tensor) is dense
    assert flat(tensor).shape == (tensor.numel(),)
