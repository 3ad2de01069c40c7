"""Probes, run for real on this machine with scripts of the standard library."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.scripts import scripted_job

from planner.core.clock import SystemClock
from planner.core.errors import UsageError
from planner.core.job import JobSpec, ProbeSettings
from planner.core.types import ProbeResult
from planner.services.api import EstimateRequest
from planner.services.estimating import probeattempt
from planner.services.estimating.candidates import Trial
from planner.services.estimating.probing import Prober
from planner.services.estimating.study import Study, look
from planner.store.layout import StateDir


class Log:
    """An event sink that remembers, and may act on an event."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, Any], float]] = []

    def __call__(self, kind: str, data: Mapping[str, Any]) -> None:
        self.events.append((kind, data, time.monotonic()))

    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.events]


def study_of(job: JobSpec, state: StateDir) -> Study:
    return look(EstimateRequest(job=job, goal=job.goal), state)


def prober_of(
    job: JobSpec, folder: Path, log: Log | None = None, cancel: threading.Event | None = None
) -> tuple[Prober, tuple[Trial, ...]]:
    state = StateDir(folder / "state")
    study = study_of(job, state)
    found, _ = study.trials(job.global_batch or 16)
    prober = Prober(
        job=job,
        fingerprint=study.fingerprint,
        slice_for=lambda batch: study.slice_for(batch, state.slices),
        samples=study.samples,
        state=state,
        clock=SystemClock(),
        on_event=log or Log(),
        cancel=cancel,
    )
    return prober, tuple(trial for trial, _ in study.wanted(found))


def probe(job: JobSpec, folder: Path, trial: int = 0) -> ProbeResult:
    prober, wanted = prober_of(job, folder)
    (result,) = prober.run(wanted[trial : trial + 1])
    assert_nothing_is_left(folder)
    return result


def assert_nothing_is_left(folder: Path) -> None:
    work = folder / "state" / "probes" / "work"
    assert not work.exists() or list(work.iterdir()) == []
    ours = [p for p in psutil.process_iter() if _works_in(p, folder)]
    assert ours == []


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.pid != os.getpid() and Path(process.cwd()).is_relative_to(folder)
    except (psutil.Error, OSError):
        return False


# ---- what is measured


def test_a_probe_measures_steady_steps_and_all_the_rest(tmp_path: Path) -> None:
    result = probe(scripted_job(tmp_path), tmp_path)
    assert result.state == "ok"
    assert result.error is None
    assert result.steps + result.warmup_steps == 15
    assert 3 <= result.warmup_steps <= 9
    assert min(result.step_time_s) >= 0.002 + 0.0001 * 16
    assert result.loader_wait_s == pytest.approx(0.0002)
    assert result.start_s is not None
    assert 0 < result.start_s < result.wall_s
    assert result.rest_s is not None
    assert not result.cut
    assert (result.tail_s, result.tail_samples) == (0.05, 12)
    assert (result.checkpoint_s, result.checkpoint_bytes) == (0.01, 1234)
    assert result.peak_device_bytes == 30_000_000 + 16 * 100_000
    assert result.peak_outside_bytes is not None
    assert result.capacity_bytes is not None
    assert (result.slice_samples, result.samples) == (32, 96)
    assert result.cost_usd == pytest.approx(0.05 * result.wall_s / 3600)


def test_several_workers_are_probed_together(tmp_path: Path) -> None:
    result = probe(scripted_job(tmp_path), tmp_path, trial=1)
    assert (result.state, result.resources.workers, result.knobs.micro_batch) == ("ok", 2, 8)
    assert result.cost_usd == pytest.approx(0.10 * result.wall_s / 3600)


def test_events_tell_the_story_at_most_twice_a_second(tmp_path: Path) -> None:
    log = Log()
    prober, wanted = prober_of(scripted_job(tmp_path, "slow"), tmp_path, log)
    prober.run(wanted[:2])
    kinds = log.kinds()
    assert kinds[:3] == ["probe.queued", "probe.queued", "probe.started"]
    assert [k for k in kinds if k != "probe.progress"][3:] == [
        "probe.finished",
        "probe.started",
        "probe.finished",
    ]
    for index in (1, 2):
        ticks = [t for k, d, t in log.events if k == "probe.progress" and d["index"] == index]
        assert len(ticks) >= 2
        gaps = [b - a for a, b in pairwise(ticks)]
        assert min(gaps) > 0.4
    last = [d for k, d, _ in log.events if k == "probe.progress"][-1]
    assert last["steps_total"] == 15
    assert last["step_time_s"] >= 0.1
    assert last["samples_per_s"] == pytest.approx(16 / last["step_time_s"])


def test_probes_run_one_after_another(tmp_path: Path) -> None:
    log = Log()
    prober, wanted = prober_of(scripted_job(tmp_path), tmp_path, log)
    prober.run(wanted)
    running = 0
    for kind in log.kinds():
        running += {"probe.started": 1, "probe.finished": -1}.get(kind, 0)
        assert running in (0, 1)


# ---- what goes wrong


def test_a_crash_at_import_has_its_reason_and_its_log(tmp_path: Path) -> None:
    result = probe(scripted_job(tmp_path, "import"), tmp_path)
    assert result.state == "failed"
    assert "ModuleNotFoundError: No module named 'nothing_like_this'" in (result.error or "")
    assert any("Traceback" in line for line in result.log)
    assert result.step_time_s == ()


def test_a_crash_at_a_step_says_at_which(tmp_path: Path) -> None:
    result = probe(scripted_job(tmp_path, "step 7"), tmp_path)
    assert result.state == "failed"
    assert "RuntimeError: loss is nan at step 7" in (result.error or "")
    assert "at step 7" in (result.error or "")
    assert result.step_time_s == ()


def test_an_exit_without_a_word_says_its_code(tmp_path: Path) -> None:
    result = probe(scripted_job(tmp_path, "exit 4"), tmp_path)
    assert (result.state, result.error) == (
        "failed",
        "the command ended with exit code 3 (without a message, at step 4)",
    )


def test_a_hang_is_ended(tmp_path: Path) -> None:
    job = scripted_job(tmp_path, "hang 6")
    job = replace(job, probe=replace(job.probe, hang_timeout_s=4.0))
    result = probe(job, tmp_path)
    assert result.state == "failed"
    assert "hung" in (result.error or "")
    assert "after 6 steps" in (result.error or "")
    assert result.wall_s < 20


def test_running_out_of_memory_is_told_apart(tmp_path: Path) -> None:
    result = probe(scripted_job(tmp_path, "oom"), tmp_path)
    assert result.state == "oom"
    assert "MemoryError" in (result.error or "")
    assert result.capacity_bytes is not None


def test_the_other_worker_does_not_wait_for_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probeattempt, "CRASH_GRACE_S", 0.5)
    result = probe(scripted_job(tmp_path, "kill 5"), tmp_path, trial=1)
    assert result.state in ("failed", "preempted")
    assert "SIGKILL" in (result.error or "")


def test_a_script_that_reports_no_step_is_told_what_to_do(tmp_path: Path) -> None:
    result = probe(scripted_job(tmp_path, "no step"), tmp_path)
    assert result.state == "failed"
    assert "job.epochs" in (result.error or "")


def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    job = scripted_job(tmp_path, command=("no-such-program", "{data}"))
    result = probe(job, tmp_path)
    assert result.state == "failed"
    assert "no-such-program" in (result.error or "")


def test_a_failed_checkpoint_is_told_and_does_not_spoil_the_measurement(tmp_path: Path) -> None:
    result = probe(scripted_job(tmp_path, "checkpoint"), tmp_path)
    assert result.state == "ok"
    assert result.checkpoint_s is None
    assert "No space left on device" in (result.error or "")


def test_a_variable_that_is_not_set_stops_the_estimate_and_not_one_probe(tmp_path: Path) -> None:
    prober, wanted = prober_of(scripted_job(tmp_path, env=("NOT_SET_ANYWHERE",)), tmp_path)
    with pytest.raises(UsageError, match="NOT_SET_ANYWHERE"):
        prober.run(wanted)
    assert_nothing_is_left(tmp_path)


def test_one_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    prober, wanted = prober_of(scripted_job(tmp_path, "oom"), tmp_path)
    states = [r.state for r in prober.run(wanted)]
    assert states == ["oom", "ok", "ok"]


def test_the_same_failure_at_the_start_is_not_repeated_for_ever(tmp_path: Path) -> None:
    prober, wanted = prober_of(scripted_job(tmp_path, "import"), tmp_path)
    results = prober.run(wanted)
    assert [r.state for r in results] == ["failed", "failed", "skipped"]
    assert "failed alike" in (results[2].error or "")
    assert "nothing_like_this" in (results[2].error or "")


# ---- caps


def capped(job: JobSpec, **caps: Any) -> JobSpec:
    return replace(job, probe=replace(job.probe, **caps))


@pytest.mark.parametrize(
    ("cap", "spent"), [("max_time_s", "spent_s"), ("max_cost_usd", "spent_usd")]
)
def test_a_cap_holds_over_all_probes(tmp_path: Path, cap: str, spent: str) -> None:
    job = scripted_job(tmp_path, "slow")
    prober, wanted = prober_of(job, tmp_path)
    first = prober.run(wanted[:1])
    # However fast this machine is: half of what one more like it takes is left.
    prober.job = capped(job, **{cap: 1.5 * getattr(prober, spent)})
    others = prober.run(wanted[1:])
    assert [r.state for r in (*first, *others)] == ["ok", "skipped", "skipped"]
    assert f"{'time' if cap == 'max_time_s' else 'cost'} cap" in (others[0].error or "")
    assert getattr(prober, spent) < getattr(prober.job.probe, cap)


def test_a_probe_that_is_cut_off_early_measures_nothing(tmp_path: Path) -> None:
    job = capped(scripted_job(tmp_path, "hang 2"), max_time_s=1.0)
    result = probe(job, tmp_path)
    assert result.state == "skipped"
    assert "stopped at the probe time cap of 1.0s after 2 steps" in (result.error or "")
    assert result.cost_usd > 0


def test_a_probe_that_is_cut_off_late_still_counts(tmp_path: Path) -> None:
    job = scripted_job(tmp_path, "hang 40")
    job = replace(job, probe=ProbeSettings(steps=60, warmup_steps=3, max_time_s=2.5))
    result = probe(job, tmp_path)
    assert result.state == "ok"
    assert result.steps >= 8
    assert result.tail_s is None
    assert result.cut
    # It hung for more than a second before it was cut: that is no part of leaving.
    assert result.rest_s is None


# ---- stopping


def test_stopping_ends_the_running_probe_and_starts_no_other(tmp_path: Path) -> None:
    stop = threading.Event()
    log = Log()
    prober, wanted = prober_of(scripted_job(tmp_path, "hang 2"), tmp_path, log, stop)
    threading.Timer(1.0, stop.set).start()
    began = time.monotonic()
    results = prober.run(wanted)
    assert time.monotonic() - began < 10
    assert [r.state for r in results] == ["skipped"] * 3
    assert "stopped" in (results[0].error or "")
    assert log.kinds().count("probe.started") == 1
    assert_nothing_is_left(tmp_path)


def test_processes_are_released_when_the_watcher_itself_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise ValueError("a bug of ours")

    prober, wanted = prober_of(scripted_job(tmp_path, "hang 2"), tmp_path)
    monkeypatch.setattr(probeattempt.ProbeWatch, "progress", broken)
    with pytest.raises(ValueError, match="a bug of ours"):
        prober.run(wanted)
    assert_nothing_is_left(tmp_path)


# ---- the environment


def test_a_worker_sees_only_what_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    monkeypatch.setenv("WANTED", "yes")
    code = "import os, sys; sys.exit(' '.join(sorted(os.environ)))"
    job = scripted_job(tmp_path, command=("python", "-c", code), env=("WANTED",))
    said = probe(job, tmp_path).error or ""
    assert "PLANNER_RUN_ID" in said
    assert "WANTED" in said
    assert "AWS_SECRET_ACCESS_KEY" not in said


def test_secrets_in_a_failure_are_not_kept(tmp_path: Path) -> None:
    code = "raise ValueError('HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz0123456789')"
    result = probe(scripted_job(tmp_path, command=("python", "-c", code)), tmp_path)
    assert "hf_abcdefgh" not in str(result)


# ---- the machine


def test_what_others_take_from_a_probe_is_measured(tmp_path: Path) -> None:
    spin = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(spin, cwd="/") for _ in range(2 * (os.cpu_count() or 1))]
    try:
        result = probe(scripted_job(tmp_path, "slow"), tmp_path)
    finally:
        for process in others:
            process.kill()
            process.wait()
    assert result.state == "ok"
    assert (result.other_cores or 0) > 0.5 * (os.cpu_count() or 1)
