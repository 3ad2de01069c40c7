"""What `memory=low` saves and costs: activations kept and time of a step, against `normal`.

    python tests/benchmarks/bench_memory.py [--steps 7]

Trains a ResNet-18 and a small transformer by turns with activations kept and computed again, the
lever being turned live in between, and prints ratios of one run. Saved bytes are those of all
tensors that autograd keeps from the forward pass for the backward pass, parameters aside. With a
GPU its peak counter is printed as well. Where a backward pass takes twice a forward one, a second
forward pass of everything makes a step a third longer.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import nn

from planner.sdk.memorylevers import MemoryLevers


class Encoder(nn.Module):
    """Six layers over 64 positions."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 6)
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x).mean(1))


def resnet18() -> nn.Module:
    from torchvision.models import resnet18 as make

    model: nn.Module = make(weights=None, num_classes=10)
    return model


CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "ResNet-18, 16 x 3 x 64 x 64": (resnet18, (16, 3, 64, 64)),
    "transformer, 16 x 64 x 128": (Encoder, (16, 64, 128)),
}


class Bench:
    """One model in training on the best device there is."""

    def __init__(self, make: Any, shape: tuple[int, ...]) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(0)
        self.model = make().to(self.device)
        self.levers = MemoryLevers(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.inputs = torch.randn(shape, device=self.device)

    def turn(self, memory: str) -> float:
        """Turn the lever; seconds that took."""
        start_s = time.perf_counter()
        self.levers.low() if memory == "low" else self.levers.normal()
        return time.perf_counter() - start_s

    def step_s(self) -> float:
        """Do one step; seconds it took."""
        start_s = time.perf_counter()
        self.model(self.inputs).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start_s

    def kept_bytes(self) -> int:
        """Bytes that a forward pass keeps for the backward pass."""
        own = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.model(self.inputs).square().mean()
        loss.backward()
        self.optimizer.zero_grad()
        return sum(kept.values())

    def peak_bytes(self) -> int | None:
        """The GPU's own counter over one step; None without a GPU."""
        if self.device == "cpu":
            return None
        torch.cuda.reset_peak_memory_stats()
        self.step_s()
        return torch.cuda.max_memory_allocated()


def measure(name: str, steps: int) -> None:
    """Print one model's figures."""
    bench = Bench(*CASES[name])
    times_s: dict[str, list[float]] = {"normal": [], "low": []}
    kept, peaks, turned_s = {}, {}, {}
    for memory in times_s:
        turned_s[memory] = bench.turn(memory)
        bench.step_s()  # warms up
        kept[memory], peaks[memory] = bench.kept_bytes(), bench.peak_bytes()
    for _ in range(steps):
        for memory, taken_s in times_s.items():
            bench.turn(memory)
            taken_s.append(bench.step_s())
    blocks = len(bench.levers.blocks)  # the last turn was to low
    normal_s, low_s = (statistics.median(times_s[memory]) for memory in ("normal", "low"))
    print(f"{name} on {bench.device}, {blocks} blocks")
    print(
        f"  activations kept: normal {kept['normal'] / 1e6:.1f} MB, low {kept['low'] / 1e6:.1f} MB,"
        f" ratio {kept['low'] / kept['normal']:.2f}"
    )
    if peaks["normal"] and peaks["low"]:
        print(f"  peak of the GPU:  ratio {peaks['low'] / peaks['normal']:.2f}")
    print(
        f"  time of a step:   normal {normal_s * 1e3:.1f} ms, low {low_s * 1e3:.1f} ms,"
        f" ratio {low_s / normal_s:.2f}"
    )
    print(f"  turning it on:    {turned_s['low'] * 1e3:.1f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=7)
    for name in CASES:
        measure(name, parser.parse_args().steps)


if __name__ == "__main__":
    main()
