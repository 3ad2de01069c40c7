"""Activations computed again: the same training to the last bit, with less kept."""

from __future__ import annotations

import copy
import functools
import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from planner.sdk import memorylevers
from planner.sdk.memorylevers import ACTIVATION_CHECKPOINTING, MemoryLevers, choose_blocks

pytestmark = pytest.mark.torch

Make = Callable[[], nn.Module]


class Residual(nn.Module):
    """A ResNet's block, with dropout."""

    def __init__(self, width: int, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width, momentum=momentum)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width, momentum=momentum)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.drop(self.norm2(self.conv2(out))) + x)


class Lucky(nn.Module):
    """Drops itself now and then by generators that torch knows nothing of."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        if random.random() < 0.3 or np.random.random() < 0.3:
            return x
        return x + scale * torch.relu(self.linear(x)) * random.random()


class Counting(nn.Module):
    """Its result depends on a buffer that it changes, as spectral norms' do, or replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = parametrizations.spectral_norm(nn.Linear(16, 16))
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("last", torch.zeros(16))
        self.register_buffer("mask", torch.ones(16))
        self.register_buffer("many", torch.zeros(70_000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        self.many[0] += 1
        out = torch.tanh(self.linear(x * self.mask) * self.passes + self.last + self.many[0])
        self.last = out.detach().mean(0)
        return out + x


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.encoder(x, mask=mask, is_causal=True))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Lucky() for _ in range(4))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x=x, scale=0.5)
        return self.head(x)


def resnet(momentum: float | None = 0.1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), *(Residual(8, momentum) for _ in range(3)), nn.Flatten(1)
    )


def counting() -> nn.Module:
    return nn.Sequential(*(Counting() for _ in range(3)))


def plain() -> nn.Module:
    parts: list[nn.Module] = []
    for _ in range(5):
        parts += [nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2)]
    return nn.Sequential(*parts)


MODELS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "resnet": (resnet, (4, 3, 8, 8)),
    "cumulative": (lambda: resnet(None), (4, 3, 8, 8)),
    "transformer": (Encoder, (4, 6, 16)),
    "python and numpy draws": (Scaled, (8, 16)),
    "own buffers": (counting, (8, 16)),
    "plain sequential": (plain, (8, 16)),
}


class Trained:
    """What a training leaves: losses, gradients of all steps, the state, the next draws."""

    def __init__(self, name: str, turn: Callable[[MemoryLevers, int], object] | None) -> None:
        make, shape = MODELS[name]
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        self.model = make()
        self.levers = MemoryLevers(self.model)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.losses: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor] = []
        for step in range(6):
            if turn is not None:
                turn(self.levers, step)
            for _ in range(2):  # micro-batches: gradients are added to
                loss = self.model(torch.randn(shape)).square().mean()
                loss.backward()
                self.losses.append(loss.detach())
            self.gradients += [
                p.grad.clone() for p in self.model.parameters() if p.grad is not None
            ]
            optimizer.step()
            optimizer.zero_grad()
        self.state = self.model.state_dict()
        self.draws = (torch.rand(1).item(), random.random(), np.random.random())

    def is_like(self, other: Trained) -> bool:
        assert self.state.keys() == other.state.keys()
        return (
            all(map(torch.equal, self.losses, other.losses))
            and all(map(torch.equal, self.gradients, other.gradients))
            and all(torch.equal(self.state[key], other.state[key]) for key in self.state)
            and self.draws == other.draws
        )


def always(levers: MemoryLevers, step: int) -> None:
    if step == 0:
        assert ACTIVATION_CHECKPOINTING in levers.low()


def again_and_again(levers: MemoryLevers, step: int) -> None:
    assert (levers.normal() == ()) if step % 2 == 0 else levers.low()


@pytest.mark.parametrize("turn", [always, again_and_again])
@pytest.mark.parametrize("name", MODELS)
def test_training_is_the_same_to_the_last_bit(
    name: str, turn: Callable[[MemoryLevers, int], object]
) -> None:
    assert Trained(name, turn).is_like(Trained(name, None))


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_given_back_as_it_was(name: str) -> None:
    make, _ = MODELS[name]
    model = make()
    before = {id(module): dict(vars(module)) for module in model.modules()}
    levers = MemoryLevers(model)
    levers.low()
    assert levers.blocks
    assert any(dict(vars(module)) != before[id(module)] for module in model.modules())
    levers.low()
    levers.normal()
    levers.normal()
    assert levers.blocks == ()
    assert all(dict(vars(module)) == before[id(module)] for module in model.modules())


def kept_bytes(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Bytes of what a forward pass keeps for the backward pass, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(*inputs).square().mean()
    loss.backward()
    return sum(kept.values())


@pytest.mark.parametrize(
    ("name", "share"), [("resnet", 0.5), ("transformer", 0.5), ("plain sequential", 0.5)]
)
def test_less_is_kept(name: str, share: float) -> None:
    make, shape = MODELS[name]
    model = make()
    levers = MemoryLevers(model)
    inputs = torch.randn(shape)
    normal = kept_bytes(model, inputs)
    levers.low()
    assert kept_bytes(model, inputs) < share * normal
    levers.normal()
    assert kept_bytes(model, inputs) == normal


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["resnet", "transformer"])
def test_on_a_gpu_the_peak_falls_and_training_is_the_same(name: str) -> None:
    make, shape = MODELS[name]
    peaks, results = [], []
    for low in (False, True):
        torch.manual_seed(0)
        model = make().cuda()
        levers = MemoryLevers(model)
        if low:
            levers.low()
        inputs = torch.randn(256, *shape[1:], device="cuda")
        torch.cuda.reset_peak_memory_stats()
        loss = model(inputs).square().mean()
        loss.backward()
        peaks.append(torch.cuda.max_memory_allocated())
        results.append((loss.item(), {k: v.cpu() for k, v in model.state_dict().items()}))
    assert peaks[1] < peaks[0]
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[0][1][k], results[1][1][k]) for k in results[0][1])


def test_evaluation_computes_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = resnet()
    MemoryLevers(model).low()
    monkeypatch.setattr("planner.sdk.recompute._recomputed", None)
    inputs = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        model(inputs)
    model.eval()
    model(inputs)


def test_a_forward_before_the_turn_and_its_backward_after_it() -> None:
    gradients = []
    for turns in (False, True):
        torch.manual_seed(0)
        model = resnet()
        levers = MemoryLevers(model)
        levers.low()
        loss = model(torch.randn(4, 3, 8, 8)).square().mean()
        if turns:
            levers.normal()
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(map(torch.equal, *gradients))


def test_going_backward_twice_is_possible() -> None:
    model = resnet()
    MemoryLevers(model).low()
    loss = model(torch.randn(4, 3, 8, 8)).square().mean()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    loss.backward()
    twice = [p.grad for p in model.parameters()]
    assert all(torch.allclose(2 * a, b) for a, b in zip(once, twice, strict=True))


def test_a_copy_of_the_model_is_a_model_of_its_own() -> None:
    model = resnet()
    levers = MemoryLevers(model)
    levers.low()
    average = copy.deepcopy(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    inputs = torch.randn(4, 3, 8, 8)
    for other in (average, loaded):
        before = copy.deepcopy(model.state_dict())
        other(inputs).sum().backward()
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
        assert all(p.grad is not None for p in other.parameters())
        assert other[1].norm1.num_batches_tracked == 1
    levers.normal()
    average(inputs).sum().backward()


def test_a_forward_that_somebody_wrapped_meanwhile_is_left_alone_and_acts_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = resnet()
    levers = MemoryLevers(model)
    levers.low()
    ours = model[1].forward
    wrapper = functools.partial(ours)
    model[1].forward = wrapper
    levers.normal()
    monkeypatch.setattr("planner.sdk.recompute._recomputed", None)
    assert model[1].forward is wrapper
    model(torch.randn(4, 3, 8, 8))


def test_blocks_are_found_in_well_known_models() -> None:
    models = pytest.importorskip("torchvision").models
    resnets = choose_blocks(models.resnet50(weights=None))
    assert len(resnets) == 16
    assert {type(block).__name__ for block in resnets.values()} == {"Bottleneck"}
    vit = choose_blocks(models.vit_b_16(weights=None))
    assert {type(block).__name__ for block in vit.values()} == {"EncoderBlock"}
    assert list(choose_blocks(models.vgg11(weights=None))) == ["features"]
    swin = choose_blocks(models.swin_t(weights=None))
    assert {type(block).__name__ for block in swin.values()} == {
        "SwinTransformerBlock",
        "PatchMerging",
    }
    seq2seq = choose_blocks(nn.Transformer(16, 2, 2, 2, 32))
    assert list(seq2seq) == [f"{s}.layers.{i}" for s in ("encoder", "decoder") for i in range(2)]


def test_a_repeated_stage_is_not_a_block() -> None:
    class Stage(nn.Sequential):
        pass

    stages = nn.Sequential(*(Stage(*(Residual(8) for _ in range(3))) for _ in range(2)))
    assert list(choose_blocks(stages)) == [f"{s}.{b}" for s in range(2) for b in range(3)]


def test_parts_of_a_list_of_unlike_modules() -> None:
    class Unlike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([Residual(8), Lucky(), nn.Linear(1, 1)])

    assert list(choose_blocks(Unlike())) == ["parts.0", "parts.1"]


def hooked() -> nn.Module:
    model = resnet()
    model[1].conv1.register_forward_hook(lambda *_: None)
    model[3].norm1 = nn.SyncBatchNorm(8)
    return model


def test_what_would_notice_is_left_out() -> None:
    assert list(choose_blocks(hooked())) == ["2"]


@pytest.mark.parametrize(
    "model", [None, object(), nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Tanh())]
)
def test_where_nothing_can_be_computed_again_caches_are_emptied(model: Any) -> None:
    levers = MemoryLevers(model)
    assert levers.low() == ((memorylevers.EMPTY_CACHES,) if memorylevers.empty_caches() else ())
    assert levers.normal() == ()


def test_a_compiled_model_is_left_to_the_compiler() -> None:
    model = torch.compile(resnet(), backend="eager")
    assert choose_blocks(model) == {}
    in_place = resnet()
    in_place.compile(backend="eager")
    assert choose_blocks(in_place) == {}


def test_a_compiled_function_around_the_model_takes_no_notice() -> None:
    model = resnet()
    whole = torch.compile(lambda x: model(x).sum(), backend="eager", fullgraph=True)
    inputs = torch.randn(4, 3, 8, 8)
    whole(inputs).backward()
    MemoryLevers(model).low()
    whole(inputs).backward()
    assert model[1].norm1.num_batches_tracked == 2


def test_a_distributed_model_is_looked_into(tmp_path: Any) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        gradients = []
        for low in (False, True):
            torch.manual_seed(0)
            model = nn.parallel.DistributedDataParallel(resnet())
            if low:
                levers = MemoryLevers(model)
                levers.low()
                assert levers.blocks == ("1", "2", "3")
            for _ in range(2):
                model(torch.randn(4, 3, 8, 8)).square().mean().backward()
            gradients.append([p.grad for p in model.parameters()])
        assert all(map(torch.equal, *gradients))
    finally:
        torch.distributed.destroy_process_group()
