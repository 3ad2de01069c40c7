"""Training scripts for tests: the contract's events by the standard library alone, and faults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.core.job import JobSpec, Place, ProbeSettings

PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0IEND\xaeB`\x82"

SCRIPT = '''\
"""Speaks the contract of docs/training-script.md: every step sleeps as long as its batch asks."""
import json, os, sys, time

fault = sys.argv[2] if len(sys.argv) > 2 else ""
if fault == "import":
    import nothing_like_this
rank, workers = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
batch = int(os.environ.get("PLANNER_GLOBAL_BATCH", 32))
micro = int(os.environ.get("PLANNER_MICRO_BATCH", batch // workers))
if fault == "own batch":
    batch, micro = 8, 8 // workers
if fault == "oom" and micro > 8:
    raise MemoryError
steps = int(os.environ["PLANNER_PROBE_STEPS"])
accumulation = batch // (micro * workers)
samples = 0
for _, _, names in os.walk(sys.argv[1] + "/train"):
    samples += len(names)


def say(kind, **data):
    with open(os.environ["PLANNER_EVENTS"], "a") as events:
        events.write(json.dumps({"t": time.time(), "type": kind, **data}) + "\\n")


told = {"global_batch": batch, "micro_batch": micro, "accumulation": accumulation}
if fault == "silent batch":
    told = dict.fromkeys(told)
say("attached", tier=1, rank=rank, world_size=workers, pid=os.getpid(), device="cpu",
    device_memory_bytes=None, samples=samples, epochs=3, loader_workers=0,
    steps_per_epoch=-(-samples // batch), resumed=None, **told)
if fault == "no step":
    sys.exit(0)
each_s = 0.002 * accumulation + 0.0001 * micro * accumulation
for step in range(steps):
    if fault == f"step {step}":
        raise RuntimeError(f"loss is nan at step {step}")
    if fault == f"exit {step}":
        os._exit(3)
    if fault == f"kill {step}" and rank == workers - 1:
        os.kill(os.getpid(), 9)
    if fault == f"hang {step}":
        time.sleep(600)
    if fault == "slow":
        each_s = 0.1
    began = time.perf_counter()
    time.sleep(each_s * (4 if step < 3 else 1))
    if rank == 0:
        say("steps", epoch=0, step=step + 1, samples=(step + 1) * batch,
            step_time_s=[time.perf_counter() - began], wait_s=[0.0002])
say("memory", peak_device_bytes=None, reserved_device_bytes=None, rss_bytes=30_000_000,
    peak_rss_bytes=30_000_000 + 100_000 * micro)
if rank == 0:
    say("epoch", epoch=0, step=steps, duration_s=1.0, tail_s=0.05)
    if fault == "checkpoint":
        say("checkpoint_failed", step=steps, error="No space left on device")
    else:
        say("checkpoint", path="ck", step=steps, epoch=0, samples=0, bytes=1234, sha256="",
            duration_s=0.01, reason="end")
    say("probe_finished", steps=steps)
say("finished", step=steps, samples=steps * batch, epochs=1)
# Workers meet through DistributedDataParallel in a real script.
'''


def scripted_job(folder: Path, fault: str = "", **changes: Any) -> JobSpec:
    """A job whose script does what it should, or fails as asked, on 96 images of three classes."""
    job_dir = folder / "job"
    if not job_dir.exists():
        for split, each in (("train", 32), ("val", 4)):
            for name in "abc":
                images = job_dir / "data" / split / name
                images.mkdir(parents=True)
                for i in range(each):
                    (images / f"{i}.png").write_bytes(PNG)
        (job_dir / "train.py").write_text(SCRIPT)
    job = JobSpec(
        name="scripted",
        command=("python", "train.py", "{data}", *([fault] if fault else [])),
        workdir=str(job_dir),
        data=str(job_dir / "data"),
        epochs=3,
        global_batch=16,
        tier=1,
        places=(Place(runner="local", pool="cpu", settings={"slots": 2, "usd_per_slot_h": 0.05}),),
        probe=ProbeSettings(steps=12, warmup_steps=3, hang_timeout_s=20, max_time_s=60),
    )
    return replace(job, **changes)
