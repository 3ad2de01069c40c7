"""What the SDK adds to a step of 20 ms.

    python tests/benchmarks/bench_sdk_overhead.py

The same loop over the same DataLoader runs with and without planner by turns; a step is 20 ms of
matrix products, so that the SDK's code finds the processor's caches as cold as in training. Counted
is processor time, which other programs on the machine do not lengthen by being run in between: of
the training thread outside the step's work, with planner less without, and of the SDK's own thread,
which writes events, reads the control file and samples memory. Their sum bounds what a step waits
for: the loop may have to wait for the other thread, never longer than that thread works.
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
STEPS, ROUNDS = 150, 5
TARGET_PERCENT = 0.5
BATCH = 4


def make_loader(steps: int) -> Any:
    """A DataLoader with little work of its own: what it takes varies more than what is measured."""
    from torch.utils.data import DataLoader

    samples: Any = range(steps * BATCH)
    return DataLoader(samples, batch_size=BATCH, shuffle=True, collate_fn=list)


def work(matrix: Any) -> None:
    """Multiply matrices for a step's length."""
    until_s = time.perf_counter() + STEP_S
    while time.perf_counter() < until_s:
        matrix @ matrix


def courier_s() -> float:
    """Processor seconds that the SDK's thread has taken so far; 0 where there is none."""
    for thread in threading.enumerate():
        if thread.name == "planner-courier":
            schedule = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
            return int(schedule.split()[0]) / 1e9
    return 0.0


def once(*, planned: bool) -> tuple[float, float]:
    """Mean processor seconds of a step outside its work, and of the SDK's thread for each step."""
    import torch

    import planner.sdk as planner

    with tempfile.TemporaryDirectory() as folder:
        if planned:
            os.environ["PLANNER_EVENTS"] = str(Path(folder) / "events.ndjson")
            os.environ["PLANNER_CONTROL"] = str(Path(folder) / "control.json")
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        job = planner.attach(epochs=1, model=model, optimizer=optimizer)
        loss, matrix = torch.tensor(1.0), torch.rand(512, 512)
        outside_s = 0.0
        for _, batches in job.epochs(make_loader(STEPS)):
            before_s, left_s = courier_s(), time.thread_time()
            for _ in batches:
                optimizer.zero_grad()
                outside_s += time.thread_time() - left_s
                work(matrix)
                left_s = time.thread_time()
                optimizer.step()  # finds no gradients: nothing but the call is counted
                job.log(loss=loss)
            thread_s = courier_s() - before_s
        if planned:
            job._gear.courier.close()  # type: ignore[attr-defined]
            del os.environ["PLANNER_EVENTS"], os.environ["PLANNER_CONTROL"]
    return outside_s / STEPS, thread_s / STEPS


def main() -> None:
    """Print `name value unit target verdict` lines."""
    import torch

    torch.set_num_threads(1)
    once(planned=True)  # imports and first calls
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
