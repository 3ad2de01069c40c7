"""What a worker says of the memory that training keeps from step to step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from planner.sdk.memory import state_bytes

pytestmark = pytest.mark.torch


def stepped(optimizer: type, **options) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    made = optimizer(model.parameters(), lr=0.1, **options)
    model(torch.randn(4, 3)).sum().backward()
    made.step()
    made.zero_grad()
    return model, made


PARAMETERS = 4 * (3 * 5 + 5 + 5 + 5)
BUFFERS = 4 * (5 + 5) + 8
STEPS = 4 * 4  # Adam counts the steps of each tensor


def test_weights_gradients_and_the_optimisers_state_are_told_apart() -> None:
    told = state_bytes(*stepped(torch.optim.Adam))
    assert told == {
        "model_bytes": PARAMETERS + BUFFERS,
        "gradient_bytes": PARAMETERS,
        "optimizer_bytes": 2 * PARAMETERS + STEPS,
    }


def test_plain_descent_keeps_no_state_and_frozen_weights_have_no_gradient() -> None:
    model, optimizer = stepped(torch.optim.SGD)
    model[0].requires_grad_(False)
    told = state_bytes(model, optimizer)
    assert told["optimizer_bytes"] == 0
    assert told["gradient_bytes"] == 4 * (5 + 5)


def test_without_a_model_the_optimisers_parameters_count() -> None:
    _, optimizer = stepped(torch.optim.SGD, momentum=0.9)
    told = state_bytes(None, optimizer)
    assert told["model_bytes"] == told["gradient_bytes"] == told["optimizer_bytes"] == PARAMETERS


@pytest.mark.parametrize("unknown", [None, object()])
def test_what_cannot_be_told_is_none(unknown) -> None:
    assert set(state_bytes(unknown, unknown).values()) == {None}
