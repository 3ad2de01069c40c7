"""Peak memory of real training processes, and how well two probes of it predict the others.

    python tests/benchmarks/bench_memory_fit.py --measure docs/data/memory_cpu.csv [--only NAME]
    python tests/benchmarks/bench_memory_fit.py [--data docs/data/memory_cpu.csv]

`--measure` trains every workload at every micro-batch, each in a fresh interpreter with one thread,
for three steps, and adds a row for each to the file. There are two views of it. `resident` is the
peak of resident memory as the kernel counts it (VmHWM). `allocator` is the peak of what torch's own
allocator had handed out, as a GPU's counter would show, of another process with the profiler on.
Mode `ddp` wraps the model in DistributedDataParallel (one worker: its buckets are as large as with
many); `fsdp8` is worker 0 of eight with a process group that sends nothing.

Without `--measure` the kept rows are read: of each workload the smallest and the middle micro-batch
are taken as probes, and all others are predicted.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

VIEWS = ("resident", "allocator")
COLUMNS = [
    "date",
    "workload",
    "optimizer",
    "mode",
    "view",
    "micro_batch",
    "repeat",
    "peak_bytes",
    "import_bytes",
    "model_bytes",
    "gradient_bytes",
    "optimizer_bytes",
    "largest_unit_bytes",
    "torch",
    "python",
]
STEPS = 3
KEPT = Path(__file__).parents[2] / "docs" / "data" / "memory_cpu.csv"

# Name: (kind, size, optimizer, micro-batches, modes). The size is the side of an image, or the
# length of a sequence.
WORKLOADS: dict[str, tuple[str, int, str, tuple[int, ...], tuple[str, ...]]] = {
    "resnet18-64": ("resnet18", 64, "sgd", (8, 16, 32, 64, 128), ("alone", "ddp")),
    "resnet18-128": ("resnet18", 128, "sgd", (4, 8, 16, 32, 64), ("alone",)),
    "resnet50-64": ("resnet50", 64, "adam", (4, 8, 16, 32, 64), ("alone", "ddp", "fsdp8")),
    "resnet50-224": ("resnet50", 224, "sgd", (1, 2, 4, 6, 8), ("alone",)),
    "encoder-64": ("encoder", 64, "adam", (8, 16, 32, 64, 128), ("alone",)),
    "encoder-256": ("encoder", 256, "adam", (2, 4, 8, 16, 32), ("alone",)),
    "decoder-128": ("decoder", 128, "adam", (1, 2, 4, 8, 16), ("alone", "ddp", "fsdp8")),
    "perceptron": ("perceptron", 0, "adam", (16, 64, 256, 1024, 4096), ("alone",)),
}


# ---- one process ---------------------------------------------------------------------------


def make_model(kind: str, size: int) -> tuple[Any, Callable[[int], tuple[Any, Any]]]:
    """A model, and what draws a batch for it."""
    import torch
    from torch import nn

    if kind.startswith("resnet"):
        import torchvision

        model: nn.Module = getattr(torchvision.models, kind)(weights=None, num_classes=100)
        return model, lambda n: (torch.randn(n, 3, size, size), torch.randint(100, (n,)))
    if kind == "perceptron":
        model = nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU())
        model.append(nn.Linear(4096, 100))
        return model, lambda n: (torch.randn(n, 1024), torch.randint(100, (n,)))
    width, depth, words = (256, 6, 512) if kind == "encoder" else (512, 8, 8192)
    layers = [
        nn.TransformerEncoderLayer(width, 8, 4 * width, batch_first=True) for _ in range(depth)
    ]
    model = nn.Sequential(nn.Embedding(words, width), *layers, nn.Linear(width, words))
    draw = torch.randint
    return model, lambda n: (draw(words, (n, size)), draw(words, (n * size,)))


def shard(model: Any, mode: str) -> Any:
    """The model as one worker of the mode holds it."""
    if mode == "alone":
        return model
    import torch.distributed as dist

    if mode == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        return DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)

    mesh = init_device_mesh("cpu", (8,))
    for unit in units(model):
        fully_shard(unit, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def units(model: Any) -> list[Any]:
    """The parts that are gathered one at a time: blocks of a ResNet, layers of a transformer."""
    from torch import nn
    from torchvision.models.resnet import Bottleneck

    kinds = (nn.TransformerEncoderLayer, Bottleneck)
    return [module for module in model.modules() if isinstance(module, kinds)]


def own_bytes(tensors: Any) -> int:
    """Bytes that tensors take on this worker."""
    local = (t.to_local() if hasattr(t, "to_local") else t for t in tensors)
    return sum(t.numel() * t.element_size() for t in local)


def train(model: Any, optimizer: Any, draw: Callable[[int], tuple[Any, Any]], batch: int) -> None:
    from torch.nn import functional

    for _ in range(STEPS):
        inputs, wanted = draw(batch)
        optimizer.zero_grad()
        found = model(inputs)
        functional.cross_entropy(found.flatten(0, -2), wanted).backward()
        optimizer.step()


def measure_one(name: str, batch: int, mode: str, view: str) -> dict[str, Any]:
    """Train in this process; what it took."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    kind, size, algorithm, _, _ = WORKLOADS[name]
    if kind.startswith("resnet"):
        import torchvision  # noqa: F401
    import_bytes = kernel_bytes("VmRSS")
    profiler = torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    )
    if view == "allocator":
        profiler.start()
    model, draw = make_model(kind, size)
    parts = [own_bytes(unit.parameters()) for unit in units(model)]
    rest = own_bytes(model.parameters()) - sum(parts)  # what belongs to no part is one by itself
    model = shard(model, mode)
    make = torch.optim.AdamW if algorithm == "adam" else torch.optim.SGD
    options = {} if algorithm == "adam" else {"momentum": 0.9}
    optimizer = make(model.parameters(), lr=1e-3, **options)
    train(model, optimizer, draw, batch)
    if view == "allocator":
        profiler.stop()
    peak_bytes = kernel_bytes("VmHWM") if view == "resident" else allocator_peak_bytes(profiler)
    states = [t for state in optimizer.state.values() for t in state.values()]
    return {
        "peak_bytes": peak_bytes,
        "import_bytes": import_bytes,
        "model_bytes": own_bytes([*model.parameters(), *model.buffers()]),
        "gradient_bytes": own_bytes(p.grad for p in model.parameters() if p.grad is not None),
        "optimizer_bytes": own_bytes(t for t in states if hasattr(t, "numel")),
        "largest_unit_bytes": max([*parts, rest]),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def kernel_bytes(field: str) -> int:
    """A counter of this process in /proc, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel tells no {field}")


def allocator_peak_bytes(profiler: Any) -> int:
    """Most bytes that torch's CPU allocator had handed out at a time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return max(int(e["args"]["Total Allocated"]) for e in events if e.get("name") == "[memory]")


# ---- all of them ---------------------------------------------------------------------------


def measure(path: Path, only: str, repeats: int) -> None:
    """Add what is not in the file yet."""
    fresh = not path.exists()
    done = set() if fresh else {key(row) for row in read(path)}
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        for name, (_, _, algorithm, batches, modes) in WORKLOADS.items():
            wanted = [(m, b, v, r) for m in modes for b in batches for v in VIEWS for r in (0,)]
            wanted += [("alone", batches[2], "resident", r) for r in range(1, repeats)]
            for mode, batch, view, repeat in wanted:
                if only not in name or (mode != "alone" and view == "resident"):
                    continue
                row = {"workload": name, "mode": mode, "view": view, "micro_batch": str(batch)}
                row |= {"repeat": str(repeat)}
                if key(row) in done:
                    continue
                found = in_fresh_interpreter(name, batch, mode, view)
                today = datetime.now(UTC).date().isoformat()
                writer.writerow({"date": today, "optimizer": algorithm, **row, **found})
                file.flush()
                print(
                    f"{name} {mode} {view} {batch}: {found['peak_bytes'] / 1e6:.0f} MB", flush=True
                )


def in_fresh_interpreter(name: str, batch: int, mode: str, view: str) -> dict[str, Any]:
    """`measure_one` in a process of its own."""
    command = [sys.executable, __file__, "--one", name, str(batch), mode, view]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} {batch} {mode} {view}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def key(row: dict[str, str]) -> tuple[str, ...]:
    """What tells one measurement from another."""
    return tuple(row[name] for name in ("workload", "mode", "view", "micro_batch", "repeat"))


def read(path: Path) -> list[dict[str, str]]:
    """The kept rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=Path)
    parser.add_argument("--only", default="", help="workloads whose name holds this")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, default=KEPT)
    parser.add_argument("--one", nargs=4, metavar=("NAME", "BATCH", "MODE", "VIEW"))
    args = parser.parse_args()
    if args.one:
        name, batch, mode, view = args.one
        print(json.dumps(measure_one(name, int(batch), mode, view)))
    elif args.measure:
        measure(args.measure, args.only, args.repeats)
    else:
        from memoryscores import report  # not in the processes that are measured: it needs planner

        report(read(args.data))


if __name__ == "__main__":
    main()
