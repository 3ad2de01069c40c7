"""Fifty random changes with random kills, and the same accuracy in the end.

    python -m tests.benchmarks.bench_random_changes [CHANGES] [SEEDS]

The small network on the digits: one run that fifty random changes and kills of workers disturb,
and runs of several seeds that nothing disturbs. Told are the test accuracy of each, that every
sample of every epoch was trained exactly once, and what the changes cost.
"""

from __future__ import annotations

import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.benchmarks.bench_adjust import NetJob, stage
from tests.support.netbench import SCRIPT
from tests.support.sdkbench import Bench

CHANGES, SEEDS, EPOCHS, SAMPLES = 50, 5, 60, 1500
CHANGE_S = 10.0
"""A disturbed run pauses after each step for so long that all changes find it at work."""
MOST_WORKERS = 3
KINDS = ("grow", "shrink", "kill", "micro", "loaders", "memory", "move")


def accuracy(job: NetJob) -> float:
    """What the leader printed at the end."""
    found = re.findall(r"accuracy ([\d.]+)", job.output())
    return float(found[-1])


def samples_by_epoch(job: NetJob) -> dict[int, Counter[int]]:
    """How often each sample counted: of each step the last time it was done."""
    lines = []
    for number in job.processes:
        path = job.seen_path(number)
        text = path.read_text() if path.exists() else ""
        lines += [line.split()[1:] for line in text.splitlines() if line.startswith("b ")]
    last: dict[int, int] = {}
    for step, generation, *_ in lines:
        last[int(step)] = max(last.get(int(step), 0), int(generation))
    epochs: dict[int, Counter[int]] = {}
    for step, generation, epoch, *ids in lines:
        if int(generation) == last[int(step)]:
            epochs.setdefault(int(epoch), Counter()).update(map(int, ids))
    return epochs


def kill(job: NetJob, draw: random.Random, crew: list[int]) -> None:
    """Kill a worker, or one that is about to join."""
    if len(crew) == 1 or draw.random() < 0.3:
        newcomer = job.grow()
        job.until_ready(newcomer)
        job.want(f"lost {newcomer}", crew=[*crew, newcomer])
        time.sleep(draw.random() * 0.1)
        job.processes[newcomer].kill()
        time.sleep(1.0)
        job.want(f"without {newcomer}", crew=[w for w in job.crew() if w != newcomer])
        job.until_adjusted(f"without {newcomer}")
        return
    losses = len([e for e in job.events("adjusted") if e["id"] is None])
    killed = draw.choice(crew)
    job.processes[killed].kill()
    left = job.until_adjusted(None, losses + 1)["crew"]
    job.want(f"without {killed}", crew=left)
    job.until_adjusted(f"without {killed}")


def change(job: NetJob, draw: random.Random, number: int) -> str:
    """One random change, and wait until it is told; its kind."""
    crew, wish = job.crew(), f"w{number}"
    kind = draw.choice(KINDS)
    if (kind, len(crew)) in (("grow", MOST_WORKERS), ("shrink", 1)):
        kind = "kill"
    if kind == "kill":
        kill(job, draw, crew)
        return kind
    if kind in ("grow", "move"):
        newcomer = job.grow()
        job.until_ready(newcomer)
        job.want(wish, crew=[*(crew if kind == "grow" else crew[1:]), newcomer])
    elif kind == "shrink":
        job.want(wish, crew=sorted(draw.sample(crew, len(crew) - 1)))
    elif kind == "micro":
        job.want(wish, micro_batch=draw.choice([16, 24, 32, 64]))
    elif kind == "loaders":
        job.want(wish, loader_workers=draw.choice([0, 1, 2]))
    else:
        job.want(wish, memory=draw.choice(["low", "normal"]))
    job.until_adjusted(wish)
    return kind


def run(folder: Path, seed: int, changes: int, epochs: int) -> tuple[NetJob, Counter[str]]:
    """One training of a seed; the job after its end, and how many changes of each kind it met."""
    job = NetJob(
        Bench(Path(tempfile.mkdtemp(dir=folder)), folder / "stage"),
        SCRIPT,
        SEED=seed,
        PLANNER_SEED=seed,
        EPOCHS=epochs,
        LOG_IDS=1,
        PLANNER_GLOBAL_BATCH=64,
        PLANNER_CHECKPOINT_INTERVAL_S=20,
        PAUSE_S=changes * CHANGE_S / (epochs * (SAMPLES // 64 + 1)),
    )
    draw, kinds = random.Random(seed), Counter[str]()
    try:
        job.start(1)
        job.until_steps(5)
        for number in range(changes):
            kinds[change(job, draw, number)] += 1
        job.want("calm", loader_workers=0, micro_batch=64, memory="normal")
        job.finish(1200)
    finally:
        job.kill_all()
    return job, kinds


def main() -> None:
    """Print what came of it."""
    changes = int(sys.argv[1]) if len(sys.argv) > 1 else CHANGES
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else SEEDS
    with stage() as folder:
        quiet = [accuracy(run(folder, seed, 0, EPOCHS)[0]) for seed in range(seeds)]
        job, kinds = run(folder, 0, changes, EPOCHS)
        once = {e: c == Counter(range(SAMPLES)) for e, c in samples_by_epoch(job).items()}
        told = job.events("adjusted")
        print("undisturbed:", " ".join(f"{value:.4f}" for value in quiet))
        print(f"disturbed:   {accuracy(job):.4f} by {dict(kinds)}, {len(told)} changes told")
        print(f"every sample once in {sum(once.values())} of {EPOCHS} epochs")
        stalls = [event["stall_s"] for event in told if event["stall_s"] is not None]
        print(f"stall: median {statistics.median(stalls):.3f} s, worst {max(stalls):.3f} s")
        print(f"computed a second time: {sum(e['redone_samples'] for e in told)} samples, lost: 0")
        spread = max(quiet) - min(quiet)
        within = min(quiet) - spread <= accuracy(job) <= max(quiet) + spread
        whole = sum(once.values()) == EPOCHS
        print(f"within the noise of {seeds} seeds: {'ok' if within and whole else 'MISSED'}")


if __name__ == "__main__":
    main()
