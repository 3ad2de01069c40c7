"""A tiny decoder-only transformer, whose replicas may be spread over several workers each.

Workers that share a replica hold some heads of each attention and some columns of each
feed-forward layer (Shoeybi et al., Megatron-LM, 2019, section 3): all of them see the same samples,
and two all-reduces a layer, forward and backward, put their parts together. Replicas average their
gradients. It trains on the source of a module of Python's own library, so that nothing is needed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class Place(NamedTuple):
    """A worker's place among those that share a replica; a group of None is a worker alone."""

    index: int = 0
    count: int = 1
    group: Any = None

    def total(self, x: Tensor) -> Tensor:
        """The sum over the workers of the replica."""
        if self.group is None:
            return x
        x = x.contiguous().clone()
        distributed.all_reduce(x, group=self.group)
        return x


class Enter(torch.autograd.Function):
    """All workers of a replica have the same input here: their gradients for it add up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, place: Place) -> Tensor:
        """The input itself."""
        ctx.place = place
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The sum over the workers."""
        return ctx.place.total(grads[0]), None


class Leave(torch.autograd.Function):
    """Each worker has a part of the output here: the parts add up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, place: Place) -> Tensor:
        """The sum over the workers."""
        return place.total(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The gradient itself."""
        return grads[0], None


class Share(nn.Module):
    """This worker's rows (axis 0) or columns (axis 1) of a linear layer that all draw alike."""

    def __init__(self, inputs: int, outputs: int, axis: int, place: Place) -> None:
        super().__init__()
        whole = nn.Linear(inputs, outputs, bias=False).weight.detach()
        self.weight = nn.Parameter(whole.chunk(place.count, axis)[place.index].clone())

    def forward(self, x: Tensor) -> Tensor:
        """Shape (..., inputs or a part of them) to (..., outputs or a part of them)."""
        return x @ self.weight.T


class Block(nn.Module):
    """A layer: this worker's heads of the attention, and its columns of the feed-forward layer."""

    def __init__(self, hidden: int, heads: int, place: Place) -> None:
        super().__init__()
        self.heads, self.place = heads // place.count, place
        self.before = nn.ModuleList([nn.LayerNorm(hidden), nn.LayerNorm(hidden)])
        self.qkv = nn.ModuleList([Share(hidden, hidden, 0, place) for _ in range(3)])
        self.joined = Share(hidden, hidden, 1, place)
        self.wide = Share(hidden, 4 * hidden, 0, place)
        self.narrow = Share(4 * hidden, hidden, 1, place)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (samples, tokens, hidden) in and out."""
        samples, tokens, _ = x.shape
        into = Enter.apply(self.before[0](x), self.place)
        q, k, v = (f(into).view(samples, tokens, self.heads, -1).transpose(1, 2) for f in self.qkv)
        seen = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = x + Leave.apply(self.joined(seen.reshape(samples, tokens, -1)), self.place)
        wide = gelu(self.wide(Enter.apply(self.before[1](x), self.place)))
        return x + Leave.apply(self.narrow(wide), self.place)


class Gpt(nn.Module):
    """Embedding, layers, head; all but the layers are whole on every worker."""

    def __init__(self, args: argparse.Namespace, place: Place) -> None:
        super().__init__()
        self.token = nn.Embedding(args.vocabulary, args.hidden)
        self.position = nn.Embedding(args.sequence, args.hidden)
        blocks = [Block(args.hidden, args.heads, place) for _ in range(args.layers)]
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(args.hidden)
        nn.init.normal_(self.token.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (samples, tokens) to the logits of the tokens that follow."""
        x = self.token(tokens) + self.position.weight
        return self.norm(self.blocks(x)) @ self.token.weight.T


class Text(Dataset[Tensor]):
    """The bytes of a file, in samples of so many tokens and the one that follows."""

    def __init__(self, path: Path, sequence: int) -> None:
        tokens = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8).long()
        self.samples = tokens.unfold(0, sequence + 1, sequence)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        return self.samples[index]


def groups(rank: int, workers: int, shared: int) -> tuple[Place, Any]:
    """This worker's place in its replica, and the workers that hold the same part of others.

    Neighbours share a replica. Every worker makes every group, as torch asks.
    """
    if workers == 1:
        return Place(), None
    distributed.init_process_group("gloo")
    every = range(workers)
    within = [distributed.new_group(list(every[i : i + shared])) for i in every[::shared]]
    across = [distributed.new_group(list(every[i::shared])) for i in range(shared)]
    own = within[rank // shared] if shared > 1 else None
    return Place(rank % shared, shared, own), across[rank % shared]


def average(model: nn.Module, group: Any, replicas: int) -> None:
    """Average the gradients over the replicas, all at once."""
    if replicas == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients]) / replicas
    distributed.all_reduce(flat, group=group)
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def arguments() -> argparse.Namespace:
    """The flags. The sizes are those under [model] in job.toml."""
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = {"hidden": 64, "layers": 2, "heads": 4, "sequence": 64, "vocabulary": 256}
    usual = {"epochs": 1, "micro_batch": 32, "global_batch": 32, "tensor": 1, **sizes}
    for name, value in usual.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--text", type=Path, default=Path(argparse.__file__))
    return parser.parse_args()


def main() -> None:
    """Train."""
    args = arguments()
    torch.manual_seed(0)
    rank, workers = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place, across = groups(rank, workers, args.tensor)
    replicas, replica = workers // args.tensor, rank // args.tensor
    model = Gpt(args, place)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    data = Text(args.text, args.sequence)
    sampler = DistributedSampler(data, replicas, replica, drop_last=True)
    loader = DataLoader(data, args.global_batch // replicas, sampler=sampler, drop_last=True)
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        loss = torch.zeros(())
        for batch in loader:
            optimizer.zero_grad()
            for part in batch.split(args.micro_batch):
                logits = model(part[:, :-1])
                loss = cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())
                (loss * len(part) / len(batch)).backward()
            average(model, across, replicas)
            optimizer.step()
        if rank == 0:
            print(f"epoch {epoch + 1}/{args.epochs} loss {loss.item():.4f}", flush=True)
    if workers > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
