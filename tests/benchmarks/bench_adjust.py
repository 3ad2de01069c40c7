"""What a change of a running job costs: how long nobody steps, against checkpoint and relaunch.

    python -m tests.benchmarks.bench_adjust [ROUNDS]

Real workers over gloo on the digits that ship with scikit-learn, one thread each: a small
convolutional network, and ResNet-18. Each change is asked for through the control file, as a
supervisor does, and timed from outside by when the workers' optimisers stepped.

* request to first step: from the request until the first step under the change. Growing and moving
  start a worker first, which imports and builds while the others train.
* stall: the longest time without a step of any worker around the change.
* before: the longest time without a step in a window as long before the request: what the machine
  does by itself.
* relaunch: the same change by checkpoint, exit and start, from request to first step.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import planner.sdk
from tests.support.crewbench import CrewBench
from tests.support.netbench import SCRIPT
from tests.support.sdkbench import Bench

ROUNDS = 3
SETTLE_S = 1.5
NETS = {"small": 64, "resnet18": 16}
TARGET_S = {"small": 0.15, "resnet18": 0.5}
TARGET_RATIO = 0.05
REQUIRED = ("grow 1->2", "shrink 2->1", "move", "kill leader", "kill other")


class NetJob(CrewBench):
    """A training of one of the networks, whose workers log when they stepped."""

    def steps_t(self) -> list[float]:
        """When any worker stepped, in order."""
        return sorted(t for number in self.processes for t in self.steps_of(number))

    def steps_of(self, number: int) -> list[float]:
        """When one worker stepped, in order."""
        if not self.seen_path(number).exists():
            return []
        lines = self.seen_path(number).read_text().splitlines()
        return [float(line[2:]) for line in lines if line.startswith("s ")]

    def until_steps(self, count: int = 10) -> None:
        """Wait for so many more steps."""
        at = len(self.steps_t())
        self.until(lambda: len(self.steps_t()) >= at + count)


@dataclass(slots=True)
class Timing:
    """What rounds of one change took, in seconds."""

    to_first_step_s: list[float] = field(default_factory=list)
    stall_s: list[float] = field(default_factory=list)
    before_s: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)


@contextmanager
def stage() -> Iterator[Path]:
    """A folder for runs, and the SDK as runners stage it."""
    with tempfile.TemporaryDirectory() as folder:
        sdk = Path(planner.sdk.__file__).parent
        shutil.copytree(
            sdk, Path(folder) / "stage/planner/sdk", ignore=shutil.ignore_patterns("_stage")
        )
        (Path(folder) / "stage/planner/__init__.py").touch()
        yield Path(folder)


def variables(net: str) -> dict[str, object]:
    """What the script is told: which network, and to go on for longer than anything is measured."""
    batch = NETS[net]
    return {"NET": net, "BATCH": batch, "PLANNER_GLOBAL_BATCH": batch, "EPOCHS": 100_000}


def usual_step_s(job: NetJob, before_t: float) -> float:
    """Median gap between the last steps of one worker before a moment."""
    workers = [[t for t in job.steps_of(n) if t < before_t] for n in job.processes]
    last = max(workers, key=lambda steps_t: steps_t[-1] if steps_t else 0.0)[-30:]
    return statistics.median(b - a for a, b in pairwise(last))


def change(job: NetJob, timing: Timing, wish: str | None, ask: Callable[[], None]) -> None:
    """Ask for a change, wait until it is told, and time it."""
    started_t = time.time() + SETTLE_S / 3
    time.sleep(SETTLE_S)
    losses = len([e for e in job.events("adjusted") if e["id"] is None])
    asked_t = time.time()
    ask()
    job.until_adjusted(wish, 1 if wish else losses + 1)
    job.until_steps(6)
    steps_t, told = job.steps_t(), job.events("adjusted")[-1]
    # The first step under the change ended one gap after the last step before it.
    until_t = told["t"] + 0.5
    stall_s, stall_end_t = longest_gap(steps_t, asked_t, until_t)
    before_s, _ = longest_gap(steps_t, max(started_t, 2 * asked_t - until_t), asked_t)
    timing.to_first_step_s.append(min(told["t"], stall_end_t) - asked_t)
    timing.stall_s.append(stall_s)
    timing.before_s.append(before_s)
    timing.step_s.append(usual_step_s(job, asked_t))


def longest_gap(steps_t: list[float], since_t: float, until_t: float) -> tuple[float, float]:
    """The longest time between two steps that ended in a window, and when it was over."""
    ends = [(b - a, b) for a, b in pairwise(steps_t) if since_t < b <= until_t]
    return max(ends, default=(0.0, until_t))


def measure_changes(folder: Path, net: str, timings: dict[str, Timing]) -> None:
    """One round of every change, in flight, in one run."""
    job = NetJob(
        Bench(Path(tempfile.mkdtemp(dir=folder)), folder / "stage"),
        SCRIPT,
        PLANNER_CHECKPOINT_INTERVAL_S=3600,
        **variables(net),
    )

    def grow() -> int:
        newcomer = job.grow()
        job.until_ready(newcomer)
        return newcomer

    def timed(name: str, wish: str | None, ask: Callable[[], None]) -> None:
        change(job, timings.setdefault(name, Timing()), wish, ask)

    def swap(wish: str, stays: list[int]) -> Callable[[], None]:
        return lambda: job.want(wish, crew=[*stays, grow()])

    try:
        job.start(1)
        job.until_steps(20)
        timed("micro-batch", "micro", lambda: job.want("micro", micro_batch=NETS[net] // 2))
        job.want("back", micro_batch=NETS[net])
        job.until_adjusted("back")
        timed("loader workers", "load", lambda: job.want("load", loader_workers=1))
        job.want("none", loader_workers=0)
        job.until_adjusted("none")
        timed("memory low", "low", lambda: job.want("low", memory="low"))
        timed("memory normal", "normal", lambda: job.want("normal", memory="normal"))
        timed("grow 1->2", "grow", swap("grow", job.crew()))
        timed("shrink 2->1", "shrink", lambda: job.want("shrink", crew=job.crew()[:1]))
        timed("move", "move", swap("move", []))
        job.want("again", crew=[*job.crew(), grow()])
        job.until_adjusted("again")
        timed("kill other", None, job.processes[job.crew()[1]].kill)
        job.want("once more", crew=[*job.crew(), grow()])
        job.until_adjusted("once more")
        timed("kill leader", None, job.processes[job.crew()[0]].kill)
    finally:
        job.kill_all()


def relaunch_s(folder: Path, net: str, before: int, after: int) -> float:
    """Checkpoint, exit and start again with another number of workers: request to first step."""
    bench = Bench(Path(tempfile.mkdtemp(dir=folder)), folder / "stage")
    first = NetJob(bench, SCRIPT, **variables(net))
    try:
        first.start(before)
        first.until_steps(20)
        asked_t = time.time()
        for process in first.processes.values():
            process.terminate()
        first.finish()
    finally:
        first.kill_all()
    second = NetJob(bench, SCRIPT, **variables(net))
    try:
        second.start(after)
        second.until_steps(1)
        return second.steps_t()[0] - asked_t
    finally:
        second.kill_all()


def main() -> None:
    """Print a table for each network."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with stage() as folder:
        for net in NETS:
            timings: dict[str, Timing] = {}
            relaunches = []
            for _ in range(rounds):
                measure_changes(folder, net, timings)
                relaunches += [relaunch_s(folder, net, 1, 2), relaunch_s(folder, net, 2, 1)]
            report(net, timings, statistics.median(relaunches))


def report(net: str, timings: dict[str, Timing], relaunch: float) -> None:
    """One line for each change; medians over the rounds, the worst stall in brackets."""
    print(f"{net}: checkpoint and relaunch {relaunch:.2f} s from request to first step")
    heads = f"{'to first step':>13} {'stall (worst)':>15} {'before':>7} {'step':>8} {'ratio':>7}"
    print(f"{'change':16} {heads}")
    for name, timing in timings.items():
        stall = statistics.median(timing.stall_s)
        step = statistics.median(timing.step_s)
        before = statistics.median(timing.before_s)
        ratio = stall / relaunch
        if name in REQUIRED:
            met = ratio <= TARGET_RATIO and stall < TARGET_S[net]
            target = f"<= {TARGET_RATIO} and < {TARGET_S[net]} s"
        else:
            met, target = stall - max(before, step) < step, "under one step more"
        print(
            f"{name:16} {statistics.median(timing.to_first_step_s):11.2f} s "
            f"{stall:7.3f} ({max(timing.stall_s):.3f}) {before:7.3f} {step:7.4f}s {ratio:7.4f}  "
            f"{target} {'ok' if met else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
