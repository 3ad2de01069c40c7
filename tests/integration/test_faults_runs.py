"""Faults of real runs, provoked for real: real supervisors, real workers, real signals."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from planner.core.clock import SystemClock
from planner.core.errors import PriceMovedError, StoreError, UsageError
from planner.core.job import Goal
from planner.core.types import RunState
from planner.services.api import LaunchRequest
from planner.services.live import LiveServices
from planner.services.runs.runlock import supervisor_pid
from planner.store.files import save
from runners.local import LocalRunner
from tests.support.localruns import ROOT, Desk, local_estimate
from tests.support.runs import create_run, plan_of

ALL = list(range(1, 31))


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    for run_id in desk.state.run_ids():
        pid = supervisor_pid(desk.run(run_id))
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            psutil.Process(pid).wait(20)
    assert leftovers_of(desk) == []


def leftovers_of(desk):
    """Processes of this state directory's runs that are still there."""
    found = LocalRunner().leftovers()
    return [left.text for left in found if str(desk.state.path) in (left.attempt_dir or "")]


def assert_whole(desk, run_id):
    """Every step once, in order; nothing left; the journal without a gap."""
    assert desk.weights(run_id) == ALL
    assert leftovers_of(desk) == []
    seqs = [event.seq for event in desk.services.events(run_id)]
    assert seqs == list(range(len(seqs)))


def test_a_run_goes_well_and_reports(desk):
    run_id = desk.launch(workers=2)
    view = desk.services.view(run_id)
    assert view.summary.supervisor_alive
    assert desk.rest(run_id) is RunState.DONE
    assert_whole(desk, run_id)
    report = desk.services.report(run_id)
    assert report["metrics"]["test_accuracy"] == 0.97
    assert report["spent_usd"] == pytest.approx(report["held_s"] * 0.0001, abs=2e-6)
    assert report["memory_bytes"]["predicted"]["p50"] > 0
    texts = [line.text for line in desk.services.logs(run_id).lines]
    assert "done after 30 steps" in texts
    assert any(text.startswith("run done") for text in texts)
    summary = desk.services.runs()[0]
    assert (summary.id, summary.state, summary.supervisor_alive) == (run_id, RunState.DONE, False)


# ---- kill -9 of the supervisor


def start_dying(desk, where, *arguments, **changes):
    """A run under a supervisor that dies at `where`; back when it is dead."""
    estimate = local_estimate(desk.path, *arguments, **changes)
    plan = plan_of(estimate, "r-dead")
    create_run(desk.state, plan, SystemClock())
    command = [sys.executable, "-m", "tests.support.dyingsupervisor"]
    command += [str(desk.state.path), "r-dead", where]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdin=subprocess.DEVNULL)
    return process


PLACES = [
    "stage",
    "run.provisioning",
    "handle",
    "resource.acquired",
    "run.started",
    "run.progress",
    "run.checkpoint@2",
    "resource.released",
]


@pytest.mark.parametrize("where", PLACES)
def test_kill_9_of_the_supervisor_then_resume_finishes(desk, where):
    process = start_dying(desk, where)
    assert process.wait(30) == -signal.SIGKILL
    summary = desk.services.view("r-dead").summary
    assert not summary.supervisor_alive
    assert summary.state is not RunState.DONE
    desk.services.resume("r-dead")
    assert desk.rest("r-dead") is RunState.DONE
    assert_whole(desk, "r-dead")
    assert desk.services._shelf.record("r-dead").steps_redone == 0


def test_kill_9_of_the_supervisor_while_it_stops_a_run(desk):
    process = start_dying(desk, "run.stopping", "--step-s", "0.25")
    desk.wait("r-dead", lambda view: view.step > 3)
    desk.services.pause("r-dead")
    assert process.wait(30) == -signal.SIGKILL
    desk.services.resume("r-dead")
    assert desk.rest("r-dead") is RunState.DONE
    assert_whole(desk, "r-dead")


def test_kill_9_of_the_supervisor_while_a_checkpoint_is_written(desk):
    run_id = desk.launch("--checkpoint-s", "0.5")
    beside = desk.run(run_id).checkpoints / "weights.tmp"
    until = time.monotonic() + 20
    while not beside.exists() and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(supervisor_pid(desk.run(run_id)), signal.SIGKILL)
    desk.wait(run_id, lambda view: not view.summary.supervisor_alive)
    desk.services.resume(run_id)
    assert desk.rest(run_id) is RunState.DONE
    assert_whole(desk, run_id)
    assert desk.services._shelf.record(run_id).steps_redone == 0


def test_status_tells_what_workers_did_after_their_supervisor_was_gone(desk):
    run_id = desk.launch("--steps", "600")
    desk.wait(run_id, lambda view: view.step > 0)
    os.kill(supervisor_pid(desk.run(run_id)), signal.SIGKILL)
    view = desk.wait(run_id, lambda view: not view.summary.supervisor_alive and not view.usd_per_h)
    assert view.summary.state is RunState.RUNNING
    assert view.samples_per_s is None
    assert view.step == view.last_checkpoint_step > 0
    assert view.summary.progress == pytest.approx(view.saved_progress)
    assert desk.services.runs()[0].progress == view.summary.progress
    assert leftovers_of(desk) == []
    journal = desk.run(run_id).journal.read_bytes()
    desk.services.view(run_id)
    assert desk.run(run_id).journal.read_bytes() == journal, "looking changes nothing"
    desk.services.cancel(run_id)
    assert desk.rest(run_id) is RunState.CANCELLED


def test_status_tells_a_run_without_supervisor_and_cancel_ends_it(desk):
    run_id = desk.launch("--steps", "600")
    desk.wait(run_id, lambda view: view.step > 0)
    os.kill(supervisor_pid(desk.run(run_id)), signal.SIGKILL)
    view = desk.wait(run_id, lambda view: not view.summary.supervisor_alive)
    assert view.summary.state is RunState.RUNNING
    assert "planner resume" in view.warnings[-1]
    with pytest.raises(UsageError, match="supervisor is gone"):
        desk.services.pause(run_id)
    desk.services.cancel(run_id)
    assert desk.rest(run_id) is RunState.CANCELLED
    assert leftovers_of(desk) == []
    with pytest.raises(UsageError, match="cannot be resumed"):
        desk.services.resume(run_id)


# ---- workers that fail


def test_kill_9_of_a_worker_is_continued_from_the_last_checkpoint(desk):
    run_id = desk.launch("--fault", "kill@15#1", workers=2)
    assert desk.rest(run_id) is RunState.DONE
    assert_whole(desk, run_id)
    record = desk.services._shelf.record(run_id)
    assert record.attempt == 2
    decision = next(iter(record.decisions.values()))
    assert decision.why.startswith("worker 1 was ended by SIGKILL")


def test_a_hang_is_ended_and_continued(desk):
    run_id = desk.launch("--fault", "hang@15#1", hang_timeout_s=1.5)
    assert desk.rest(run_id) is RunState.DONE
    assert_whole(desk, run_id)
    assert "kill a run that hangs" in [d.action for d in desk.services.view(run_id).decisions]


def test_a_script_that_crashes_at_import_fails_with_its_last_words(desk):
    run_id = desk.launch("--fault", "import")
    assert desk.rest(run_id) is RunState.FAILED
    record = desk.services._shelf.record(run_id)
    assert record.attempt == 2
    assert record.reason == (
        "worker 0 ended with exit code 1: ImportError: no module named 'torchh'"
    )
    assert record.failure_log[-1] == "ImportError: no module named 'torchh'"


def test_a_script_that_crashes_at_step_7_each_time_runs_out_of_retries(desk):
    run_id = desk.launch("--fault", "crash@7", retries=1)
    assert desk.rest(run_id) is RunState.FAILED
    record = desk.services._shelf.record(run_id)
    assert (record.attempt, record.reason) == (
        2,
        "worker 0 ended with exit code 1: RuntimeError: bad sample at step 7",
    )
    printed = "\n".join(line.text for line in desk.services.logs(run_id).lines)
    assert "in the log" in printed and "hunter2" not in printed


def test_a_crash_at_a_checkpoint_leaves_the_one_before(desk):
    run_id = desk.launch("--fault", "checkpoint@20#1")
    assert desk.rest(run_id) is RunState.DONE
    assert_whole(desk, run_id)
    resumed = [e.data for e in desk.services.events(run_id) if e.type == "run.resumed"]
    assert resumed[0]["step"] == 10


def test_a_disk_that_is_full_at_a_checkpoint_leaves_the_one_before_and_goes_on(desk):
    run_id = desk.launch("--fault", "full@20")
    assert desk.rest(run_id) is RunState.DONE
    assert desk.weights(run_id) == ALL
    record = desk.services._shelf.record(run_id)
    assert record.checkpoint.step == 10
    assert record.checkpoint_failures >= 1
    assert any("could not be written" in text for text in record.warnings)


def test_exit_75_unasked_means_run_me_again(desk):
    run_id = desk.launch("--fault", "yield@15#1", retries=0)
    assert desk.rest(run_id) is RunState.DONE
    assert_whole(desk, run_id)


def test_a_command_that_does_not_exist_fails_before_anything_is_held(desk):
    run_id = desk.launch(command=("no-such-command-anywhere",))
    assert desk.rest(run_id) is RunState.FAILED
    assert "no-such-command-anywhere" in desk.services.view(run_id).summary.reason
    assert "resource.acquired" not in desk.kinds(run_id)


# ---- people and their terminals


def test_pause_resume_cancel_and_checkpoint_from_another_process(desk):
    run_id = desk.launch("--step-s", "0.2", "--every", "1000")
    desk.wait(run_id, lambda view: view.step > 2)
    desk.services.checkpoint(run_id)
    desk.wait(run_id, lambda view: "command.received" in desk.kinds(run_id))
    desk.services.pause(run_id)
    assert desk.rest(run_id) is RunState.PAUSED
    assert 0 < desk.services.view(run_id).step < 30
    desk.services.resume(run_id)
    assert desk.rest(run_id) is RunState.DONE
    assert_whole(desk, run_id)
    with pytest.raises(UsageError, match="is done"):
        desk.services.pause(run_id)


def test_the_cap_stops_a_run_with_a_checkpoint_and_extend_lets_it_go_on(desk):
    """At 360 $ an hour, ten cents a second, and a cap that ends it early."""
    run_id = desk.launch("--step-s", "0.15", usd_per_h=360.0, goal=Goal(budget_usd=1.5), run_s=14.0)
    assert desk.rest(run_id) is RunState.STOPPED_BY_CAP
    summary = desk.services.view(run_id).summary
    assert summary.spent_usd <= 1.5
    assert desk.services._shelf.record(run_id).checkpoint.reason == "stop"
    desk.services.extend(run_id, budget_usd=20.0)
    assert desk.services.view(run_id).plan.budget_microusd == 21_500_000
    desk.services.resume(run_id)
    assert desk.rest(run_id) is RunState.DONE
    assert_whole(desk, run_id)


def test_a_second_supervisor_leaves_the_run_to_the_first(desk):
    run_id = desk.launch("--steps", "100000")
    command = [sys.executable, "-m", "planner.services.supervisor.process"]
    command += ["--state-dir", str(desk.state.path), "--run", run_id]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "looked after by another process" in second.stderr
    with pytest.raises(UsageError, match="running already"):
        desk.services.resume(run_id)
    desk.services.cancel(run_id, now=True)
    assert desk.rest(run_id) is RunState.CANCELLED


def test_sigterm_to_the_supervisor_pauses_with_a_checkpoint(desk):
    run_id = desk.launch("--steps", "100000")
    desk.wait(run_id, lambda view: view.step > 2)
    os.kill(supervisor_pid(desk.run(run_id)), signal.SIGTERM)
    assert desk.rest(run_id) is RunState.PAUSED
    assert desk.services._shelf.record(run_id).checkpoint.reason == "stop"
    assert leftovers_of(desk) == []


LAUNCH = """
import sys, time
from pathlib import Path
from planner.services.api import LaunchRequest
from planner.services.live import LiveServices
from planner.store.files import load
request = load(LaunchRequest, Path(sys.argv[1]))
print(LiveServices(Path(sys.argv[2])).launch(request), flush=True)
time.sleep(float(sys.argv[3]))
"""


def launch_command(desk, seconds, *arguments):
    """A command that launches a run and then stays."""
    request = LaunchRequest(estimate=local_estimate(desk.path, *arguments), option_id="o1")
    path = desk.path / "request"
    save(path, request)
    return [sys.executable, "-c", LAUNCH, str(path), str(desk.state.path), str(seconds)]


def test_a_terminal_that_is_closed_leaves_the_run_alive(desk):
    command = launch_command(desk, 600, "--step-s", "0.1")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(command[0], command)
    said = b""
    while b"\n" not in said:
        said += os.read(terminal, 1024)
    run_id = said.decode().strip()
    os.close(terminal)  # SIGHUP to everything of that terminal
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGHUP
    assert desk.rest(run_id) is RunState.DONE
    assert_whole(desk, run_id)


def test_two_launches_of_one_name_at_once_make_one_run(desk):
    command = launch_command(desk, 0, "--steps", "100000")

    def launch(_):
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    with ThreadPoolExecutor(3) as pool:
        ids = {done.stdout.strip() for done in pool.map(launch, range(3))}
    assert len(ids) == 1
    assert desk.state.run_ids() == tuple(ids)
    (run_id,) = ids
    desk.services.cancel(run_id, now=True)
    assert desk.rest(run_id) is RunState.CANCELLED


def test_another_name_is_another_run(desk):
    first = desk.launch("--step-s", "0.01")
    second = desk.launch("--step-s", "0.01", name="other")
    assert first != second
    assert desk.rest(first) is desk.rest(second) is RunState.DONE
    third = desk.launch("--step-s", "0.01")
    assert third not in (first, second)
    assert desk.rest(third) is RunState.DONE


# ---- places that do not work


@pytest.mark.parametrize("place", ["under a file", "/proc/planner-state"])
def test_a_state_directory_that_cannot_be_written_starts_nothing(tmp_path, place):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "state" if place == "under a file" else Path(place)
    services = LiveServices(path)
    request = LaunchRequest(estimate=local_estimate(tmp_path), option_id="o1")
    with pytest.raises(StoreError) as caught:
        services.launch(request)
    assert str(path) in caught.value.text


def test_a_price_that_rose_since_the_plan_starts_nothing(desk):
    estimate = local_estimate(desk.path)
    request = LaunchRequest(estimate=estimate, option_id="o1", max_usd_per_h=0.1)
    with pytest.raises(PriceMovedError, match=r"0\.36"):
        desk.services.launch(request)
    assert desk.state.run_ids() == ()


def test_a_supervisor_that_cannot_start_says_why(desk, monkeypatch):
    monkeypatch.setattr("planner.services.runs.launch._create", broken_create)
    with pytest.raises(Exception, match=r"did not start.*plan\.json"):
        desk.launch()


def broken_create(state, request, option, name, clock):
    run = create_run(state, plan_of(request.estimate, "r-0001"), clock)
    save(run.plan, Goal())
    return run


def test_a_run_of_the_same_id_in_another_state_directory_is_left_alone(tmp_path):
    """Two users, or two state directories, may draw the same short id on one machine."""
    desks = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        desks.append(Desk(tmp_path / name))
    first, second = desks
    create_run(
        first.state,
        plan_of(local_estimate(first.path, "--steps", "100000"), "r-dead"),
        SystemClock(),
    )
    first.services.resume("r-dead")
    first.wait("r-dead", lambda view: view.step > 0)
    start_dying(second, "run.started").wait(30)
    second.services.resume("r-dead")
    assert second.rest("r-dead") is RunState.DONE
    assert first.services.view("r-dead").attempts == 1
    first.services.cancel("r-dead", now=True)
    assert first.rest("r-dead") is RunState.CANCELLED


def test_half_a_line_in_the_journal_is_put_aside(desk):
    process = start_dying(desk, "run.progress", "--step-s", "0.08")
    process.wait(30)
    with desk.run("r-dead").journal.open("ab") as journal:
        journal.write(b'{"schema":"planner.event/1","seq":9')
    desk.services.resume("r-dead")
    assert desk.rest("r-dead") is RunState.DONE
    assert_whole(desk, "r-dead")
    assert b'"seq":9' in (desk.run("r-dead").path / "journal.torn").read_bytes()
