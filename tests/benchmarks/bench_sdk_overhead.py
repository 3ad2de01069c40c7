"""What the SDK adds to a step of 20 ms.

    python tests/benchmarks/bench_sdk_overhead.py

The same loop over the same DataLoader runs with and without planner; a step is 20 ms of a busy
processor. Printed are the time that the SDK adds to the training loop (difference of the median
steps), the processor time of its thread that writes events, reads the control file and samples
memory, and both together against the target.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

STEP_S = 0.020
STEPS, ROUNDS = 200, 3
TARGET_PERCENT = 0.5
BATCH = 4


def make_loader(steps: int) -> Any:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    return DataLoader(TensorDataset(torch.zeros(steps * BATCH, 2)), batch_size=BATCH, shuffle=True)


def work() -> None:
    """Keep the processor busy for a step's length."""
    until_s = time.perf_counter() + STEP_S
    while time.perf_counter() < until_s:
        pass


def courier_s() -> float:
    """Processor seconds that the SDK's thread has taken so far; 0 where there is none."""
    for thread in threading.enumerate():
        if thread.name == "planner-courier":
            schedule = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
            return int(schedule.split()[0]) / 1e9
    return 0.0


def once(*, planned: bool) -> tuple[float, float]:
    """Median seconds of a step of the script's loop, and of the SDK's thread for each step."""
    import torch

    import planner.sdk as planner

    with tempfile.TemporaryDirectory() as folder:
        if planned:
            os.environ["PLANNER_EVENTS"] = str(Path(folder) / "events.ndjson")
            os.environ["PLANNER_CONTROL"] = str(Path(folder) / "control.json")
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        job = planner.attach(epochs=1, model=model, optimizer=optimizer)
        loss = torch.tensor(1.0)
        times_s: list[float] = []
        before_s = courier_s()
        for _, batches in job.epochs(make_loader(STEPS)):
            last_s = time.perf_counter()
            for _ in batches:
                work()
                job.log(loss=loss)
                now_s = time.perf_counter()
                times_s.append(now_s - last_s)
                last_s = now_s
            thread_s = (courier_s() - before_s) / STEPS
        if planned:
            job._courier.close()  # type: ignore[attr-defined]
            del os.environ["PLANNER_EVENTS"], os.environ["PLANNER_CONTROL"]
    return statistics.median(times_s), thread_s


def main() -> None:
    """Print `name value unit target verdict` lines."""
    import torch

    torch.set_num_threads(1)
    rounds = [(once(planned=True), once(planned=False)) for _ in range(ROUNDS)]
    loop_s = statistics.median(planned[0] - plain[0] for planned, plain in rounds)
    thread_s = statistics.median(planned[1] for planned, _ in rounds)
    percent = 100 * (loop_s + thread_s) / STEP_S
    verdict = "ok" if percent < TARGET_PERCENT else "MISSED"
    print(f"sdk_added_to_loop_per_step {loop_s * 1e6:.1f} us - -")
    print(f"sdk_thread_per_step {thread_s * 1e6:.1f} us - -")
    print(f"sdk_overhead_of_20ms_step {percent:.3f} % <{TARGET_PERCENT} {verdict}")


if __name__ == "__main__":
    main()
