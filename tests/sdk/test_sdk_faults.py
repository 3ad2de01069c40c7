"""Real processes, without torch, hurt for real: signals, kill -9, full and hung disks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.sdkbench import Bench, events

BATCHES, EPOCHS = 10, 3
SCRIPT = """
    import os, resource, time
    import planner.sdk as planner
    from planner.sdk import keeper
    keeper.SLOW_WRITE_S = 1e9  # each checkpoint is waited for

    most = int(os.environ.get("LARGEST_FILE", "-1"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # -1 is no limit

    class Seen:
        batches = []
        def state_dict(self):
            if len(self.batches) == int(os.environ.get("SLOW_SAVE_AT", "-1")):
                print("saving", flush=True)
                time.sleep(100)
            room = int(os.environ.get("LARGE_FROM", "1000"))
            padding = "x" * 2_000_000 if len(self.batches) >= room else ""
            return {"batches": self.batches, "padding": padding}
        def load_state_dict(self, state):
            self.batches = state["batches"]

    seen = Seen()
    job = planner.attach(epochs=3, state={"seen": seen})
    for epoch, batches in job.epochs([[i] for i in range(10)]):
        for batch in batches:
            if job.step == int(os.environ.get("CRASH_AT", "-1")):
                raise RuntimeError("crashed")
            seen.batches.append([epoch, batch[0]])
            job.log(loss=1 / (1 + job.step))
            time.sleep(float(os.environ.get("STEP_S", "0")))
    print(seen.batches)
"""
EVERYTHING = [[epoch, batch] for epoch in range(EPOCHS) for batch in range(BATCHES)]
EVERY_STEP = 1e-6


@pytest.fixture
def script(bench: Bench) -> Path:
    return bench.script(SCRIPT)


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


def said(path: Path, kind: str) -> list[dict[str, Any]]:
    """Events of a worker that still writes; the last line may be half there."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def trained(done: subprocess.CompletedProcess[str]) -> list[list[int]]:
    assert done.returncode == 0, done.stderr
    batches: list[list[int]] = json.loads(done.stdout)
    return batches


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_at_the_next_step_with_75_and_everything_saved(
    bench: Bench, script: Path, number: signal.Signals
) -> None:
    processes = bench.start(script, STEP_S=0.05)
    wait_until(lambda: bool(said(bench.events_path(), "steps")), "a step was done")
    processes[0].send_signal(number)
    assert bench.finish(processes)[0].returncode == 75
    stopping = events(bench.events_path(), "stopping")[0]
    saved = events(bench.events_path(), "checkpoint")[-1]
    assert stopping["reason"] == "signal"
    assert saved["reason"] == "stop"
    assert saved["step"] == stopping["step"] > 0
    assert trained(bench.run(script)[0]) == EVERYTHING
    resumed = events(bench.events_path(), "attached")[0]["resumed"]
    assert resumed["step"] == saved["step"]
    assert resumed["path"] == saved["path"]


def test_a_stop_at_an_epochs_last_step_waits_for_what_follows_its_batches(bench: Bench) -> None:
    script = bench.script("""
        import os, signal
        import planner.sdk as planner
        from planner.sdk import keeper
        keeper.SLOW_WRITE_S = 1e9  # each checkpoint is waited for

        class Seen:
            done = {"batches": [], "tails": []}
            def state_dict(self):
                return self.done
            def load_state_dict(self, state):
                self.done = state

        seen = Seen()
        job = planner.attach(epochs=3, state={"seen": seen})
        for epoch, batches in job.epochs([[i] for i in range(10)]):
            for batch in batches:
                seen.done["batches"].append([epoch, batch[0]])
                if job.step == 9 and "INTERRUPT" in os.environ:
                    os.kill(os.getpid(), signal.SIGTERM)
            seen.done["tails"].append([epoch, batch[0]])
        print(seen.done)
    """)
    assert bench.run(script, INTERRUPT=1)[0].returncode == 75
    saved = events(bench.events_path(), "checkpoint")[-1]
    assert (saved["epoch"], saved["step"]) == (1, 10)
    resumed = bench.run(script)[0]
    tails = [[epoch, BATCHES - 1] for epoch in range(EPOCHS)]
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.strip() == str({"batches": EVERYTHING, "tails": tails})


def test_a_control_file_stops_and_saves(bench: Bench, script: Path) -> None:
    bench.order(seq=1, checkpoint=0, stop=False)
    processes = bench.start(script, STEP_S=0.2)
    path = bench.events_path()
    wait_until(lambda: bool(said(path, "steps")), "a step was done")
    bench.order(seq=2, checkpoint=1, stop=False)
    wait_until(lambda: bool(said(path, "checkpoint")), "a checkpoint was written")
    assert said(path, "checkpoint")[0]["reason"] == "request"
    bench.control.write_text('{"seq": 9, "stop": tr')  # as a reader may catch it in mid-write
    wait_until(lambda: said(path, "steps")[-1]["step"] > 12, "steps went on")
    bench.order(seq=3, checkpoint=1, stop=True)
    assert bench.finish(processes)[0].returncode == 75
    assert [event["seq"] for event in events(path, "control")] == [2, 3]
    assert len(events(path, "checkpoint")) == 2, "one on request, one at the stop"
    assert events(path, "stopping")[0]["reason"] == "control"
    bench.order(seq=4, checkpoint=1, stop=False)
    assert trained(bench.run(script)[0]) == EVERYTHING


def test_a_signal_before_the_first_step_leaves_at_once(bench: Bench) -> None:
    script = bench.script(
        SCRIPT.replace("for epoch, batches", "os.kill(os.getpid(), 15)\n    for epoch, batches", 1)
    )
    assert bench.run(script)[0].returncode == 75
    assert events(bench.events_path(), "stopping")[0]["step"] == 0


def test_kill_9_in_the_middle_of_a_checkpoint_leaves_the_one_before(
    bench: Bench, script: Path
) -> None:
    (process,) = bench.start(script, SLOW_SAVE_AT=7, PLANNER_CHECKPOINT_INTERVAL_S=EVERY_STEP)
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    process.kill()
    bench.finish([process])
    assert any(p.name.startswith(".writing-") for p in bench.checkpoints.iterdir())
    assert trained(bench.run(script)[0]) == EVERYTHING
    assert events(bench.events_path(), "attached")[0]["resumed"]["step"] == 6
    assert not [p for p in bench.checkpoints.iterdir() if p.name.startswith(".")], "swept up"


def test_a_crash_is_a_failure_and_the_steps_before_it_are_told(bench: Bench, script: Path) -> None:
    (done,) = bench.run(script, CRASH_AT=7)
    assert done.returncode == 1
    assert "crashed" in done.stderr
    assert events(bench.events_path(), "steps")[-1]["step"] == 7
    assert not events(bench.events_path(), "finished")


def test_a_full_disk_keeps_the_checkpoints_before_and_training_goes_on(
    bench: Bench, script: Path
) -> None:
    (done,) = bench.run(
        script,
        LARGEST_FILE=1_000_000,
        LARGE_FROM=15,
        PLANNER_CHECKPOINT_INTERVAL_S=EVERY_STEP,
    )
    assert trained(done) == EVERYTHING
    assert "those before it are untouched" in done.stderr
    failed = events(bench.events_path(), "checkpoint_failed")
    assert failed[0]["step"] == 15
    assert "File too large" in failed[0]["error"]
    assert trained(bench.run(script)[0]) == EVERYTHING, "from step 14 on"
    assert events(bench.events_path(), "attached")[0]["resumed"]["step"] == 14


def test_asked_to_stop_but_unable_to_save_is_not_75(bench: Bench, script: Path) -> None:
    bench.checkpoints.write_text("a file where the folder should be")
    processes = bench.start(script, STEP_S=0.05)
    wait_until(lambda: bool(said(bench.events_path(), "steps")), "a step was done")
    processes[0].send_signal(signal.SIGTERM)
    (done,) = bench.finish(processes)
    assert done.returncode == 74
    assert "nothing could be saved" in done.stderr


def newest(bench: Bench) -> Path:
    return sorted(bench.checkpoints.iterdir())[-1]


def flip_a_byte(checkpoint: Path) -> None:
    file = checkpoint / "state.json"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_short(checkpoint: Path) -> None:
    file = checkpoint / "state.json"
    file.write_bytes(file.read_bytes()[:-5])


def lose_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


def halve_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text('{"version": 1, "files": {"state')


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, lose_manifest, halve_manifest])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    bench: Bench, script: Path, damage: Callable[[Path], None]
) -> None:
    bench.run(script, CRASH_AT=7, PLANNER_CHECKPOINT_INTERVAL_S=EVERY_STEP)
    assert len(list(bench.checkpoints.iterdir())) == 2, "the last two are kept"
    damaged = newest(bench)
    damage(damaged)
    (done,) = bench.run(script, CRASH_AT=8, PLANNER_CHECKPOINT_INTERVAL_S=EVERY_STEP)
    assert f"{damaged.name} is damaged" in done.stderr
    assert events(bench.events_path(), "attached")[0]["resumed"]["step"] == 6
    assert not damaged.exists(), "dropped once there are two good ones"
    assert trained(bench.run(script)[0]) == EVERYTHING


def test_the_one_before_stays_until_the_new_one_is_verified(bench: Bench, script: Path) -> None:
    bench.run(script, CRASH_AT=7, PLANNER_CHECKPOINT_INTERVAL_S=EVERY_STEP)
    before = sorted(bench.checkpoints.iterdir())
    bench.run(
        script,
        LARGEST_FILE=1_000_000,
        LARGE_FROM=0,
        CRASH_AT=12,
        PLANNER_CHECKPOINT_INTERVAL_S=EVERY_STEP,
    )
    failed = events(bench.events_path(), "checkpoint_failed")
    assert {event["step"] for event in failed} == {8, 9, 10, 11, 12}
    assert sorted(bench.checkpoints.iterdir()) == before


def test_a_full_disk_for_events_does_not_stop_training(bench: Bench, script: Path) -> None:
    (done,) = bench.run(script, PLANNER_EVENTS="/dev/full")
    assert trained(done) == EVERYTHING
    assert done.stderr.count("No space left") == 1, "told once"


def test_a_hung_disk_for_events_does_not_stop_training(bench: Bench, script: Path) -> None:
    fifo = bench.root / "hung"
    os.mkfifo(fifo)  # opening it for writing blocks for as long as nobody reads
    (done,) = bench.run(script, PLANNER_EVENTS=fifo)
    assert trained(done) == EVERYTHING


def test_a_finished_run_does_nothing_when_started_again(bench: Bench, script: Path) -> None:
    assert trained(bench.run(script)[0]) == EVERYTHING
    assert events(bench.events_path(), "finished")[0] | {"t": 0} == {
        "t": 0,
        "type": "finished",
        "step": 30,
        "samples": 30,
        "epochs": 3,
    }
    assert trained(bench.run(script)[0]) == EVERYTHING
    assert not events(bench.events_path(), "steps")


TORCH_SCRIPT = """
    import os, resource
    import torch
    import planner.sdk as planner
    from planner.sdk import keeper
    keeper.SLOW_WRITE_S = 1e9  # each checkpoint is waited for

    most = int(os.environ.get("LARGEST_FILE", "-1"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    model = torch.nn.Linear(1000, 1000)
    job = planner.attach(epochs=2, model=model)
    for epoch, batches in job.epochs([[i] for i in range(10)]):
        for batch in batches:
            with torch.no_grad():
                model.weight += 1
    print("done")
"""


@pytest.mark.torch
@pytest.mark.usefixtures("forking")
def test_a_full_disk_while_torch_writes_keeps_the_checkpoint_before(bench: Bench) -> None:
    script = bench.script(TORCH_SCRIPT)
    (done,) = bench.run(script, LARGEST_FILE=1_000_000, PLANNER_CHECKPOINT_INTERVAL_S=EVERY_STEP)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    failed = events(bench.events_path(), "checkpoint_failed")
    assert len(failed) >= 20
    assert all("File too large" in event["error"] for event in failed)
    assert list(bench.checkpoints.iterdir()) == [], "nothing half written is left"


LOADER_SCRIPT = """
    import time
    import torch
    from torch.utils.data import DataLoader, TensorDataset
    import planner.sdk as planner
    from planner.sdk import keeper
    keeper.SLOW_WRITE_S = 1e9  # each checkpoint is waited for

    def prepare(number):
        print("loader process", number, flush=True)

    loader = DataLoader(
        TensorDataset(torch.arange(640.0)), batch_size=16, num_workers=1, worker_init_fn=prepare
    )
    job = planner.attach(epochs=10, model=torch.nn.Linear(1, 1))
    for epoch, batches in job.epochs(loader):
        for batch in batches:
            time.sleep(0.05)
"""


@pytest.mark.torch
def test_a_signal_to_the_whole_process_group_spares_the_loader_processes(bench: Bench) -> None:
    processes = bench.start(bench.script(LOADER_SCRIPT))
    wait_until(lambda: bool(said(bench.events_path(), "steps")), "a step was done")
    os.killpg(processes[0].pid, signal.SIGTERM)
    (done,) = bench.finish(processes)
    assert done.returncode == 75, done.stderr
    assert done.stdout.startswith("loader process 0\n"), "the script's own start is kept"
    with pytest.raises(ProcessLookupError):
        os.killpg(processes[0].pid, 0)


@pytest.mark.torch
@pytest.mark.usefixtures("forking")
def test_what_cannot_be_read_back_never_becomes_the_newest_checkpoint(bench: Bench) -> None:
    script = bench.script("""
        import os, signal
        import torch
        import planner.sdk as planner
        from planner.sdk import keeper
        keeper.SLOW_WRITE_S = 1e9  # each checkpoint is waited for

        class Odd:
            def state_dict(self):
                return {"odd": self} if "ODD" in os.environ else {}
            def load_state_dict(self, state):
                pass

        model = torch.nn.Linear(1, 1)
        job = planner.attach(model=model, epochs=2, state={"odd": Odd()})
        for epoch, batches in job.epochs([[i] for i in range(4)]):
            for batch in batches:
                if job.step == 1 and "INTERRUPT" in os.environ:
                    os.kill(os.getpid(), signal.SIGTERM)
        print("done")
    """)
    assert bench.run(script, INTERRUPT=1)[0].returncode == 75
    good = events(bench.events_path(), "checkpoint")[-1]["path"]
    odd = bench.run(script, ODD=1)[0]
    assert odd.returncode == 0, odd.stderr
    said = events(bench.events_path(), "checkpoint_failed")[0]["error"]
    assert "odd['odd'] is a __main__.Odd" in said
    assert "weights_only" in said
    assert said in odd.stderr
    assert "done" in odd.stdout, "training went on"
    assert [str(path) for path in Path(good).parent.iterdir()] == [good]
    assert bench.run(script)[0].returncode == 0


@pytest.mark.torch
@pytest.mark.usefixtures("forking")
def test_a_whole_checkpoint_that_cannot_be_loaded_falls_back_to_the_one_before(
    bench: Bench,
) -> None:
    import torch

    script = bench.script(TORCH_SCRIPT)
    bench.run(script, PLANNER_CHECKPOINT_INTERVAL_S=EVERY_STEP)
    before = newest(bench)
    refused = bench.checkpoints / "000999-step999"
    shutil.copytree(before, refused)
    torch.save({"model": Path("an object")}, refused / "state.pt")
    manifest = json.loads((refused / "manifest.json").read_text())
    content = (refused / "state.pt").read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"]["state.pt"] = entry
    (refused / "manifest.json").write_text(json.dumps(manifest))
    (done,) = bench.run(script)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "000999-step999 is damaged" in done.stderr
    assert "pathlib" in done.stderr
    assert events(bench.events_path(), "attached")[0]["resumed"]["path"] == str(before)


def stops_at_the_last_step(samples: str) -> str:
    """A script whose `last` is set in the loop over batches and used after it."""
    return f"""
    import itertools, os, signal
    import planner.sdk as planner
    from planner.sdk import keeper
    keeper.SLOW_WRITE_S = 1e9  # each checkpoint is waited for

    class Seen:
        batches = []
        def state_dict(self):
            return {{"batches": self.batches}}
        def load_state_dict(self, state):
            self.batches = state["batches"]

    class Stream:
        def __iter__(self):
            return iter([[i] for i in range(10)])

    class Understated(Stream):
        def __len__(self):
            return 4

    seen = Seen()
    job = planner.attach(epochs=3, state={{"seen": seen}})
    for epoch, batches in job.epochs({samples}):
        last = None
        for batch in batches:
            last = batch[0]
            seen.batches.append([epoch, last])
            if job.step == int(os.environ.get("STOP_AT", "-1")):
                os.kill(os.getpid(), signal.SIGTERM)
        last + 0
        if epoch == int(os.environ.get("STOP_IN_TAIL", "-1")):
            os.kill(os.getpid(), signal.SIGTERM)
    print(seen.batches)
    """


@pytest.mark.parametrize("stop_at", [5, 9, 19])
@pytest.mark.parametrize("loader", ["Stream()", "Understated()"])
def test_an_epochs_end_is_found_whatever_the_loader_says_of_its_length(
    bench: Bench, loader: str, stop_at: int
) -> None:
    script = bench.script(stops_at_the_last_step(loader))
    assert bench.run(script, STOP_AT=stop_at)[0].returncode == 75
    saved = events(bench.events_path(), "checkpoint")[-1]
    assert (saved["epoch"], saved["step"]) == ((stop_at + 1) // 10, stop_at + 1)
    assert trained(bench.run(script)[0]) == EVERYTHING


@pytest.mark.parametrize(("asked", "at"), [({"STOP_AT": 29}, 30), ({"STOP_IN_TAIL": 2}, 30)])
def test_a_stop_in_the_last_epochs_tail_acts_at_the_end(
    bench: Bench, asked: dict[str, int], at: int
) -> None:
    script = bench.script(stops_at_the_last_step("Stream()"))
    assert bench.run(script, **asked)[0].returncode == 75
    saved = events(bench.events_path(), "checkpoint")[-1]
    assert (saved["epoch"], saved["step"]) == (EPOCHS, at)
    assert trained(bench.run(script)[0]) == EVERYTHING


@pytest.mark.parametrize("loader", ["Stream()", "[[i] for i in range(10)]"])
def test_an_old_checkpoint_behind_an_epochs_last_step_goes_on_with_the_next_epoch(
    bench: Bench, loader: str
) -> None:
    script = bench.script(stops_at_the_last_step(loader))
    bench.run(script, STOP_AT=9)
    checkpoint = newest(bench)
    header = json.loads((checkpoint / "position.json").read_text()) | {"epoch": 0, "position": 10}
    content = json.dumps(header).encode()
    (checkpoint / "position.json").write_bytes(content)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"]["position.json"] = entry
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    (done,) = bench.run(script)
    assert trained(done) == EVERYTHING
    assert "epoch 1 was complete: what follows its batches is not done again" in done.stderr
