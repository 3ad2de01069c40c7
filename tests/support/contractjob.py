"""A training job that keeps the training-script contract with nothing but the standard library.

Its "weights" are the list of steps that went into them, so a step trained twice or lost shows in
the end. Faults: `import`, `crash@7`, `hang@7`, `kill@7`, `yield@7`, `checkpoint@10` (dies while it
writes that checkpoint), `full@10` (the disk takes no more, from then on); `#1` limits one to an
attempt.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=30)
parser.add_argument("--step-s", type=float, default=0.05)
parser.add_argument("--every", type=int, default=10)
parser.add_argument("--checkpoint-s", type=float, default=0.0)
parser.add_argument("--fault", default="")
args = parser.parse_args()

env = os.environ
rank, attempt = int(env["RANK"]), env["PLANNER_ATTEMPT"]
fault, _, only = args.fault.partition("#")
kind, _, at = fault.partition("@")
kind = kind if only in ("", attempt) else ""
fault_step = int(at or 0)
if kind == "import":
    raise ImportError("no module named 'torchh'")

signalled: list[int] = []
signal.signal(signal.SIGTERM, lambda number, _frame: signalled.append(number))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Path(env["PLANNER_CHECKPOINT_DIR"])
events = Path(env["PLANNER_EVENTS"])


def say(type_: str, **keys: object) -> None:
    if rank == 0 or type_ in ("attached", "memory", "stopping", "finished"):
        with events.open("a") as file:
            file.write(json.dumps({"t": time.time(), "type": type_, **keys}) + "\n")


def save(reason: str) -> None:
    if rank != 0:
        return
    began = time.monotonic()
    text, beside = json.dumps(steps), checkpoints / "weights.tmp"
    if kind == "full" and len(steps) >= fault_step:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.RLIM_INFINITY))
    try:
        with open(beside, "w") as file:
            file.write(text[:20])
            file.flush()
            if kind == "checkpoint" and len(steps) == fault_step:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(args.checkpoint_s)
            file.write(text[20:])
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, checkpoints / "weights.json")
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        say("checkpoint_failed", step=len(steps), error=str(error))
        return
    took = time.monotonic() - began
    path = str(checkpoints / "weights.json")
    say("checkpoint", step=len(steps), bytes=len(text), path=path, duration_s=took, reason=reason)


def told_to_stop() -> bool:
    try:
        return bool(signalled or json.loads(Path(env["PLANNER_CONTROL"]).read_text())["stop"])
    except FileNotFoundError:
        return bool(signalled)


try:
    steps = json.loads((checkpoints / "weights.json").read_text())
    resumed = {"step": len(steps), "epoch": 0, "path": str(checkpoints / "weights.json")}
except FileNotFoundError:
    steps, resumed = [], None
say(
    "attached",
    tier=1,
    rank=rank,
    worker=int(env["PLANNER_WORKER"]),
    joins=False,
    levers=[],
    epochs=1,
    global_batch=10,
    steps_per_epoch=args.steps,
    resumed=resumed,
)
while len(steps) < args.steps:
    if told_to_stop():
        say("stopping", reason="signal" if signalled else "control", step=len(steps))
        save("stop")
        sys.exit(75)
    number = len(steps) + 1
    if number == fault_step and kind == "crash":
        print("password=hunter2 in the log")
        raise RuntimeError(f"bad sample at step {number}")
    if number == fault_step and kind == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)
    if number == fault_step and kind == "kill" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == fault_step and kind == "yield":
        save("stop")
        sys.exit(75)
    time.sleep(args.step_s)
    steps.append(number)
    say(
        "steps",
        epoch=0,
        step=number,
        samples=number * 10,
        step_time_s=[args.step_s],
        wait_s=[0.001],
    )
    say("metric", step=number, epoch=0, values={"loss": 1 / number})
    if number % args.every == 0:
        save("interval")
say("metric", step=len(steps), epoch=0, values={"test_accuracy": 0.97})
save("end")
say("finished", step=len(steps), samples=len(steps) * 10, epochs=1)
if rank == 0:
    Path(env["PLANNER_OUTPUT_DIR"], "weights.json").write_text(json.dumps(steps))
    print(f"done after {len(steps)} steps")
