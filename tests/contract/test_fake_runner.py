"""The fake runner: the contract on a clock that stands still, and its simulated job."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from runner_contract import RunnerContract
from simulated import LONG, SHORT, Simulated, fake_spec

from planner.core.clock import ManualClock
from planner.core.errors import ConfigError
from runners.base import Handle, LaunchSpec, Runner, Signal
from runners.fake import FakeRunner
from runners.fakelaw import Law, read_settings

ACTS: dict[str, dict[str, Any]] = {
    "finish": SHORT,
    "fail": {**SHORT, "faults": ("crash@4x3",)},
    "obey": LONG,
    "deaf": {**LONG, "faults": ("hang@1",)},
    "unstartable": {"faults": ("no_start",)},
}


class TestFakeRunner(RunnerContract):
    name = "fake"

    @pytest.fixture(autouse=True)
    def _clock(self) -> None:
        self.clock = ManualClock()

    def make_runner(self) -> Runner:
        return FakeRunner(self.clock)

    def pass_time(self, duration_s: float) -> None:
        self.clock.sleep(duration_s)

    def make_spec(self, tmp_path: Path, act: str, **changes: Any) -> LaunchSpec:
        return fake_spec(tmp_path, ACTS[act], **changes)

    def wait_until_it_listens(self, handle: Handle) -> None:
        folder = Path(str(handle.data["attempt_dir"]))

        def attached() -> bool:
            workers = len(self.make_runner().poll(handle).workers)
            return len(list(folder.glob("events-*.ndjson"))) == workers

        self.until(attached)
        self.pass_time(1.0)


class TestFakeRunnerThatDoesNotGrow(TestFakeRunner):
    def make_runner(self) -> Runner:
        return FakeRunner(self.clock, grows=False)


def test_it_says_what_a_training_script_says(tmp_path: Path) -> None:
    job = Simulated(tmp_path, {"samples": 1000, "epochs": 3}, workers=2)
    assert job.run() == 0
    (attached,) = job.events("attached")
    assert attached["steps_per_epoch"] == 8
    assert (attached["global_batch"], attached["micro_batch"], attached["accumulation"]) == (
        128,
        64,
        1,
    )
    assert [e["rank"] for rank in (0, 1) for e in job.events("attached", rank)] == [0, 1]
    steps = job.events("steps")
    assert sum(len(e["step_time_s"]) for e in steps) == 24
    assert steps[-1]["step"] == 24
    assert [e["epoch"] for e in job.events("epoch")] == [0, 1, 2]
    losses = [e["values"]["loss"] for e in job.events("metric") if "loss" in e["values"]]
    assert losses == sorted(losses, reverse=True)
    assert [e["reason"] for e in job.events("checkpoint")] == ["end"]
    assert all(e["stall_s"] == e["duration_s"] > 0 for e in job.events("checkpoint"))
    assert job.events("finished") == [
        {"t": job.events("finished")[0]["t"], "type": "finished"}
        | {"step": 24, "samples": 3000, "epochs": 3}
    ]
    assert not job.events("steps", rank=1)
    assert job.events("memory", rank=1)


def test_it_takes_as_long_as_its_law_says(tmp_path: Path) -> None:
    job = Simulated(tmp_path, {"jitter": 0.0, "samples": 1280, "epochs": 5}, workers=2)
    job.run(every_s=0.01)
    law = Law(jitter=0.0, samples=1280, epochs=5)
    predicted_s = law.run_s(workers=2, micro_batch=64, accumulation=1)
    assert job.clock.monotonic_s() == pytest.approx(predicted_s, abs=0.02)


@pytest.mark.parametrize("looks_s", [(1.0, 1.0), (0.1, 7.0), (0.5, 1000.0)])
def test_what_happens_does_not_depend_on_who_looks_when(
    tmp_path: Path, looks_s: tuple[float, float]
) -> None:
    told = []
    for n, every_s in enumerate(looks_s):
        (tmp_path / str(n)).mkdir()
        job = Simulated(tmp_path / str(n), {"samples": 4000, "epochs": 4, "seed": 11})
        assert job.run(every_s) == 0
        told.append([t for e in job.events("steps") for t in e["step_time_s"]])
    assert told[0] == told[1]


def test_another_seed_gives_other_times(tmp_path: Path) -> None:
    told = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        job = Simulated(tmp_path / str(seed), {**SHORT, "seed": seed})
        job.run()
        told.append([t for e in job.events("steps") for t in e["step_time_s"]])
    assert told[0] != told[1]


def test_a_stopped_job_resumes_where_it_was_and_leaves_no_step_out(tmp_path: Path) -> None:
    settings = {"samples": 12_800, "epochs": 3}
    first = Simulated(tmp_path, settings)
    first.run(at_most_s=30)
    first.runner.signal(first.handle, Signal.STOP)
    assert first.run() == 75
    (stopped,) = first.events("checkpoint")
    assert stopped["reason"] == "stop"
    done = first.events("steps")[-1]["step"]
    assert stopped["step"] == done
    os.rename(tmp_path / "attempt", tmp_path / "attempt-1")
    second = Simulated(tmp_path, settings, attempt=2, idempotency_key="key-2")
    assert second.run() == 0
    assert second.events("attached")[0]["resumed"]["step"] == done
    assert done + sum(len(e["step_time_s"]) for e in second.events("steps")) == 300


def test_it_obeys_the_control_file(tmp_path: Path) -> None:
    job = Simulated(tmp_path, LONG)
    job.run(at_most_s=20)
    (tmp_path / "control.json").write_text(json.dumps({"seq": 1, "checkpoint": 1}))
    job.run(at_most_s=20)
    assert [e["reason"] for e in job.events("checkpoint")] == ["request"]
    (tmp_path / "control.json").write_text(
        json.dumps({"seq": 2, "checkpoint": 1, "checkpoint_interval_s": 50})
    )
    job.run(at_most_s=120)
    assert [e["reason"] for e in job.events("checkpoint")] == ["request", "interval", "interval"]
    (tmp_path / "control.json").write_text(json.dumps({"seq": 3, "checkpoint": 1, "stop": True}))
    assert job.run(at_most_s=20) == 75
    assert job.events("stopping")[0]["reason"] == "control"
    assert [e["seq"] for e in job.events("control")] == [1, 2, 3]


def test_only_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    settings = {"samples": 12_800, "epochs": 30}
    job = Simulated(tmp_path, settings)
    (tmp_path / "control.json").write_text(json.dumps({"seq": 1, "checkpoint_interval_s": 10}))
    job.run(at_most_s=60)
    job.runner.signal(job.handle, Signal.KILL)
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert len(kept) == 2
    (kept[1] / "state.json").write_text("{")
    os.rename(tmp_path / "attempt", tmp_path / "attempt-1")
    again = Simulated(tmp_path, settings, attempt=2, idempotency_key="key-2")
    again.run(at_most_s=30)
    assert again.events("attached")[0]["resumed"]["path"] == str(kept[0])


def test_a_checkpoint_that_cannot_be_written_is_told_and_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    job = Simulated(tmp_path, SHORT)
    assert job.run() == 0
    assert job.events("checkpoint_failed")
    assert job.events("finished")


def test_a_probe_ends_after_its_steps_with_an_epoch_end_and_a_checkpoint(tmp_path: Path) -> None:
    spec = fake_spec(tmp_path, {"samples": 640})
    env = {**spec.env, "PLANNER_PROBE_STEPS": "30"}
    job = Simulated(tmp_path, {"samples": 640}, env=env)
    assert job.run() == 0
    assert sum(len(e["step_time_s"]) for e in job.events("steps")) == 30
    assert len(job.events("epoch")) == len(job.events("checkpoint")) == 1
    assert job.events("probe_finished")[0]["steps"] == 30


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ({"faults": ("oom@7",)}, 1, "CUDA out of memory"),
        ({"capacity_bytes": 1_000_000_000}, 1, "CUDA out of memory"),
        ({"faults": ("oom@7",), "gpu": ""}, -9, ""),
        ({"faults": ("crash@7",)}, 1, "crash at step 7"),
        ({"faults": ("crash@7x42",)}, 42, "crash at step 7"),
        ({"faults": ("crash@7#2",)}, 0, ""),
    ],
)
def test_what_goes_wrong_can_be_scripted(
    tmp_path: Path, settings: dict[str, Any], code: int, said: str
) -> None:
    job = Simulated(tmp_path, {**settings, "samples": 1280, "epochs": 1})
    assert job.run() == code
    assert said in (job.folder / "worker-0.err").read_text()
    if "faults" in settings and code:
        assert job.events("steps")[-1]["step"] == 6


def test_a_job_that_hangs_says_nothing_more(tmp_path: Path) -> None:
    job = Simulated(tmp_path, {**LONG, "faults": ("hang@9",)})
    assert job.run(at_most_s=100) is None
    before = (job.folder / "events-0.ndjson").read_text()
    assert job.run(at_most_s=1000) is None
    assert (job.folder / "events-0.ndjson").read_text() == before
    assert job.runner.measure(job.handle)[0].gpu_utilisation == 0.0


def test_a_slow_job_is_slow_from_that_step_on(tmp_path: Path) -> None:
    job = Simulated(tmp_path, {"jitter": 0.0, "samples": 2560, "faults": ("slow@11x3",)})
    job.run(at_most_s=60)
    times = [t for e in job.events("steps") for t in e["step_time_s"]]
    assert times[10] == pytest.approx(3 * times[9])
    assert times[15] == pytest.approx(times[10])


def test_a_six_hour_run_needs_no_six_hours(tmp_path: Path) -> None:
    """On a clock that is only told the time: about 90,000 steps, looked at every 10 seconds."""
    job = Simulated(tmp_path, {"samples": 128_000, "epochs": 90, "base_s": 0.025})
    assert job.run(every_s=10) == 0
    assert 5.5 < job.clock.monotonic_s() / 3600 < 6.5


def test_a_command_can_say_how_many_epochs(tmp_path: Path) -> None:
    argv = ("python", "train.py", "--epochs", "5", "--lr", "0.1")
    job = Simulated(tmp_path, SHORT, argv=argv)
    job.run()
    assert job.events("finished")[0]["epochs"] == 5


@pytest.mark.parametrize(
    "settings",
    [{"slot": 3}, {"slots": -1}, {"samples": 1.5}, {"faults": ("explode@3",)}, {"base_s": "x"}],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(settings)
    assert caught.value.hint
