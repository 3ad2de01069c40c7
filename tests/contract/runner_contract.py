"""What every runner must pass, to be subclassed by the tests of each one.

    class TestMyRunner(RunnerContract):
        name = "mine"
        def make_runner(self): ...
        def make_spec(self, tmp_path, act, **changes): ...

`RunnerContract` is for all runners, simulated ones too. `ProcessContract` adds what must hold
wherever workers are real processes on this machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.core.errors import RunnerError
from planner.core.types import Place, ResourceConfig
from runners.base import Handle, LaunchSpec, Leftover, Runner, Signal, Status, WorkerState

PATIENCE_S = 30.0
"""After so long something that should happen counts as not happening. Not a speed limit."""


class RunnerContract:
    """Launch, watch, stop and release, as `runners.base.Runner` promises.

    A subclass makes workers that play one of these acts: `finish` (exit 0 soon), `fail` (exit 3
    soon), `obey` (runs for long, exits 75 when told to stop), `deaf` (runs for long, ignores STOP),
    `unstartable` (cannot be launched). All acts but `unstartable` touch nothing outside.
    """

    name: str

    def make_runner(self) -> Runner:
        """A new instance, sharing nothing in memory that a new process would not have."""
        raise AssertionError("a subclass makes the runner")

    def make_spec(self, tmp_path: Path, act: str, **changes: Any) -> LaunchSpec:
        """What to launch for an act; `workers` and fields of `LaunchSpec` may be changed."""
        raise AssertionError("a subclass makes the spec")

    def pass_time(self, duration_s: float) -> None:
        """Let time pass for the workers."""
        time.sleep(duration_s)

    @pytest.fixture
    def runner(self) -> Runner:
        return self.make_runner()

    @pytest.fixture
    def launch(self, runner: Runner, tmp_path: Path) -> Iterator[Callable[..., Handle]]:
        """Launches an act; whatever was launched is gone after the test."""
        handles: list[Handle] = []

        def launch(act: str, **changes: Any) -> Handle:
            handles.append(runner.launch(self.make_spec(tmp_path, act, **changes)))
            return handles[-1]

        yield launch
        for handle in handles:
            runner.signal(handle, Signal.KILL)
            runner.release(handle)

    def until(self, done: Callable[[], Any]) -> Any:
        """What `done` returns once it is true."""
        waited_s = 0.0
        while not (result := done()):
            assert waited_s < PATIENCE_S, "it did not happen"
            self.pass_time(0.05)
            waited_s += 0.05
        return result

    def ended(self, runner: Runner, handle: Handle) -> Status:
        """Its status once no worker runs any more."""
        self.until(lambda: not runner.poll(handle).running)
        return runner.poll(handle)

    # ---- what it is

    def test_it_is_found_by_its_name_and_says_what_it_can_do(self, runner: Runner) -> None:
        assert isinstance(runner, Runner)
        capabilities = runner.capabilities()
        assert capabilities.name == self.name
        assert capabilities.signals == {Signal.STOP, Signal.KILL}

    def test_what_it_offers_can_be_launched(
        self, runner: Runner, launch: Callable[..., Handle], tmp_path: Path
    ) -> None:
        place = self.make_spec(tmp_path, "finish").place
        offers = runner.offers(place)
        assert offers
        assert len({offer.resources for offer in offers}) == len(offers)
        for offer in offers:
            assert offer.resources.runner == self.name
            assert offer.resources.workers >= 1
            assert offer.wait_s.p05 >= 0
            assert (offer.price.usd_per_h == 0) == (offer.price.source == "free")
        largest = max((o.resources for o in offers), key=lambda r: r.workers)
        status = self.ended(runner, launch("finish", resources=largest))
        assert status.exit_codes == (0,) * largest.workers

    # ---- launch and poll

    def test_every_worker_is_started_and_its_exit_code_learned(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        status = self.ended(runner, launch("finish", workers=2))
        assert [w.rank for w in status.workers] == [0, 1]
        assert all(w.state is WorkerState.EXITED for w in status.workers)
        assert status.exit_codes == (0, 0)

    def test_a_failing_command_shows_its_own_exit_code(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        assert self.ended(runner, launch("fail")).exit_codes == (3,)

    def test_the_same_key_is_launched_once(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        first = launch("obey")
        assert launch("obey") == first
        assert self.make_runner().poll(first).running

    def test_the_same_key_gives_the_same_handle_after_the_end_too(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        first = launch("finish")
        before = self.ended(runner, first)
        assert launch("finish") == first
        assert runner.poll(first) == before

    def test_another_key_in_the_same_folder_is_refused(self, launch: Callable[..., Handle]) -> None:
        launch("obey")
        with pytest.raises(RunnerError, match="another launch"):
            launch("obey", idempotency_key="another")

    def test_a_launch_that_fails_says_why_and_leaves_nothing(
        self, runner: Runner, tmp_path: Path
    ) -> None:
        spec = self.make_spec(tmp_path, "unstartable", workers=2)
        with pytest.raises(RunnerError) as caught:
            runner.launch(spec)
        assert caught.value.hint
        assert not self.of_run(runner, spec.run_id)

    def test_a_handle_is_plain_data_that_a_new_instance_can_use(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        handle = launch("obey", workers=2)
        text = json.dumps({"runner": handle.runner, "key": handle.key, "data": dict(handle.data)})
        again = Handle(**json.loads(text))
        other = self.make_runner()
        assert other.poll(again) == runner.poll(handle)
        other.release(again)
        assert runner.poll(handle) == other.poll(again)
        assert not runner.poll(handle).running

    # ---- signals

    def test_stop_lets_workers_checkpoint_and_exit_75(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        handle = launch("obey", workers=2)
        self.wait_until_it_listens(handle)
        runner.signal(handle, Signal.STOP)
        assert self.ended(runner, handle).exit_codes == (75, 75)

    def test_kill_ends_workers_that_do_not_obey(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        handle = launch("deaf")
        self.wait_until_it_listens(handle)
        runner.signal(handle, Signal.STOP)
        self.pass_time(0.3)
        assert runner.poll(handle).running
        runner.signal(handle, Signal.KILL)
        assert self.ended(runner, handle).exit_codes == (-signal.SIGKILL,)

    def test_signals_to_what_has_ended_do_nothing(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        handle = launch("finish")
        before = self.ended(runner, handle)
        runner.signal(handle, Signal.STOP)
        runner.signal(handle, Signal.KILL)
        assert runner.poll(handle) == before

    # ---- measure

    def test_running_workers_are_measured_and_ended_ones_are_not(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        handle = launch("obey", workers=2)
        self.wait_until_it_listens(handle)
        runner.measure(handle)
        self.pass_time(0.2)
        seen = runner.measure(handle)
        assert [m.rank for m in seen] == [0, 1]
        for measured in seen:
            assert measured.cpu_fraction is not None and measured.cpu_fraction >= 0
            assert measured.rss_bytes is not None and measured.rss_bytes > 0
        runner.release(handle)
        assert list(runner.measure(handle)) == []

    # ---- release

    def test_release_asks_first(self, runner: Runner, launch: Callable[..., Handle]) -> None:
        handle = launch("obey")
        self.wait_until_it_listens(handle)
        runner.release(handle)
        assert runner.poll(handle).exit_codes == (75,)

    def test_release_uses_force_after_the_grace_and_may_be_repeated(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        handle = launch("deaf", stop_grace_s=0.3)
        self.wait_until_it_listens(handle)
        runner.release(handle)
        status = runner.poll(handle)
        assert status.exit_codes == (-signal.SIGKILL,)
        runner.release(handle)
        assert runner.poll(handle) == status

    # ---- leftovers

    def test_leftovers_are_found_and_removed(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        handle = launch("obey", workers=2)
        run_id = str(handle.data["run_id"])
        found = self.of_run(runner, run_id)
        assert found
        for leftover in found:
            assert run_id in leftover.text
            runner.remove(leftover)
        assert not self.of_run(runner, run_id)
        assert not self.ended(runner, handle).running
        runner.remove(found[0])  # gone already: not an error

    @staticmethod
    def of_run(runner: Runner, run_id: str) -> list[Leftover]:
        return [leftover for leftover in runner.leftovers() if leftover.run_id == run_id]

    def wait_until_it_listens(self, handle: Handle) -> None:
        """Until the workers are so far that STOP means exit 75."""
        raise AssertionError("a subclass knows")


ACTS = """
    import json, os, signal, subprocess, sys, time

    act = sys.argv[1]
    print("out of", act, flush=True)
    print("err of", act, file=sys.stderr, flush=True)
    if act == "env":
        print(json.dumps(dict(os.environ)))
    if act == "fail":
        sys.exit(3)
    if act == "family":
        # A child in the group, one in a session of its own, and one without planner's mark.
        sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
        children = [
            subprocess.Popen(sleeper),
            subprocess.Popen(sleeper, start_new_session=True),
            subprocess.Popen(sleeper, start_new_session=True, env={}),
        ]
        print(json.dumps([child.pid for child in children]), flush=True)
    if act in ("obey", "deaf", "family"):
        deaf = act == "deaf"
        signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else lambda *_: sys.exit(75))
        with open(os.environ["PLANNER_EVENTS"], "a") as events:
            events.write(json.dumps({"t": time.time(), "type": "attached"}) + "\\n")
        time.sleep(600)
"""

LAUNCHER = """
    import json, resource, sys, time
    from planner.core.errors import RunnerError
    from runners.base import LaunchSpec
    from runners.registry import get_runner
    from planner.core.types import Place, ResourceConfig

    wish = json.loads(sys.argv[1])
    wish["place"] = Place(**wish["place"])
    wish["resources"] = ResourceConfig(**wish["resources"])
    wish["argv"] = tuple(wish["argv"])
    runner = get_runner(wish["resources"].runner)
    print("ready", flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    try:
        handle = runner.launch(LaunchSpec(**wish))
    except RunnerError as error:
        sys.exit(print(error) or 1)
    print(json.dumps({"runner": handle.runner, "key": handle.key, "data": dict(handle.data)}))
    sys.stdout.flush()
    time.sleep(600)
"""


class ProcessContract(RunnerContract):
    """What must hold wherever workers are real processes on this machine."""

    place: Place
    resources: ResourceConfig

    def make_spec(self, tmp_path: Path, act: str, **changes: Any) -> LaunchSpec:
        program = tmp_path / "acts.py"
        program.write_text(textwrap.dedent(ACTS))
        workers = changes.pop("workers", 1)
        for folder in ("attempt", "stage"):
            (tmp_path / folder).mkdir(exist_ok=True)
        argv = (sys.executable, "acts.py", act) if act != "unstartable" else ("no-such-command",)
        spec = LaunchSpec(
            run_id=f"r-{tmp_path.name}-{os.getpid()}",
            attempt=1,
            idempotency_key="key-1",
            argv=argv,
            workdir=str(tmp_path),
            env={"PATH": "/usr/bin:/bin"},
            resources=replace(self.resources, workers_per_node=workers, vcpus_per_node=workers),
            place=self.place,
            attempt_dir=str(tmp_path / "attempt"),
            stage_dir=str(tmp_path / "stage"),
            stop_grace_s=10.0,
        )
        return replace(spec, **changes)

    def wait_until_it_listens(self, handle: Handle) -> None:
        folder = Path(str(handle.data["attempt_dir"]))
        workers = len(self.make_runner().poll(handle).workers)
        files = [folder / f"events-{rank}.ndjson" for rank in range(workers)]
        self.until(lambda: all(f.exists() and f.read_bytes().endswith(b"\n") for f in files))

    # ---- what is started

    def test_a_missing_command_is_named(self, runner: Runner, tmp_path: Path) -> None:
        with pytest.raises(RunnerError, match="no-such-command"):
            runner.launch(self.make_spec(tmp_path, "unstartable"))

    def test_a_missing_working_folder_is_named(self, runner: Runner, tmp_path: Path) -> None:
        gone = str(tmp_path / "gone")
        with pytest.raises(RunnerError, match="gone"):
            runner.launch(self.make_spec(tmp_path, "finish", workdir=gone))

    def test_a_command_that_is_no_program_is_named_with_advice(
        self, runner: Runner, tmp_path: Path
    ) -> None:
        script = tmp_path / "train.sh"
        script.write_text("echo hello\n")
        spec = self.make_spec(tmp_path, "finish", argv=("./train.sh",))
        with pytest.raises(RunnerError, match=r"train\.sh is not executable"):
            runner.launch(spec)
        script.chmod(0o755)
        with pytest.raises(RunnerError, match=r"Exec format error") as caught:
            runner.launch(spec)
        assert "first line" in (caught.value.hint or "")
        assert not self.of_run(runner, spec.run_id)
        script.write_text("#!/bin/sh\nexit 4\n")  # once mended, the same key can be launched
        handle = runner.launch(spec)
        assert self.ended(runner, handle).exit_codes == (4,)
        runner.release(handle)

    def test_no_worker_runs_when_one_cannot_be_started(
        self, runner: Runner, tmp_path: Path
    ) -> None:
        spec = self.make_spec(tmp_path, "obey", workers=3)
        Path(spec.attempt_dir, "worker-2.out").mkdir()  # its output has nowhere to go
        with pytest.raises(RunnerError, match=r"worker-2\.out"):
            runner.launch(spec)
        assert not self.of_run(runner, spec.run_id)
        assert Path(spec.attempt_dir, "worker-0.out").read_text() in ("", "out of obey\n")

    def test_output_is_kept_per_worker(
        self, runner: Runner, launch: Callable[..., Handle], tmp_path: Path
    ) -> None:
        self.ended(runner, launch("fail", workers=2))
        for rank in (0, 1):
            assert (tmp_path / f"attempt/worker-{rank}.out").read_text() == "out of fail\n"
            assert (tmp_path / f"attempt/worker-{rank}.err").read_text() == "err of fail\n"

    def test_arguments_reach_the_command_as_they_are(
        self, runner: Runner, launch: Callable[..., Handle], tmp_path: Path
    ) -> None:
        odd = ("$HOME; rm -rf *", "a b", "*", "it's", "é\udcff", "")
        show = "import sys, os; print(*map(os.fsencode, sys.argv[1:]), sep='\\n')"
        self.ended(runner, launch("finish", argv=(sys.executable, "-c", show, *odd)))
        shown = (tmp_path / "attempt/worker-0.out").read_text().splitlines()
        assert shown == [repr(os.fsencode(text)) for text in odd]

    def test_the_environment_is_what_is_listed_and_nothing_else(
        self,
        runner: Runner,
        launch: Callable[..., Handle],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "must-not-leak")
        monkeypatch.setenv("SOMETHING", "else")
        env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONPATH": "/mine"}
        handle = launch("env", workers=2, env=env)
        self.ended(runner, handle)
        seen = [
            json.loads((tmp_path / f"attempt/worker-{rank}.out").read_text().splitlines()[1])
            for rank in (0, 1)
        ]
        ports = {worker.pop("MASTER_PORT") for worker in seen}
        assert len(ports) == 1 and 0 < int(ports.pop()) < 65536
        for rank, worker in enumerate(seen):
            assert worker == {
                "PATH": "/usr/bin:/bin",
                "LC_ALL": "C.UTF-8",
                "PYTHONPATH": f"{tmp_path / 'stage'}:/mine",
                "PLANNER_RUN_ID": str(handle.data["run_id"]),
                "PLANNER_ATTEMPT": "1",
                "PLANNER_EVENTS": str(tmp_path / f"attempt/events-{rank}.ndjson"),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
            }
        written = [p for p in (tmp_path / "attempt").iterdir() if p.suffix != ".out"]
        assert not any("/usr/bin:/bin" in p.read_text() for p in written), "env was stored"

    # ---- ends

    def test_a_worker_that_is_killed_shows_while_the_other_runs_on(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        handle = launch("obey", workers=2)
        self.wait_until_it_listens(handle)
        os.kill(self.pids(handle)[1], signal.SIGKILL)
        self.until(lambda: runner.poll(handle).workers[1].state is WorkerState.EXITED)
        status = runner.poll(handle)
        assert status.running
        assert status.exit_codes == (None, -signal.SIGKILL)
        assert status.workers[1].reason == "ended by SIGKILL"

    def test_kill_and_release_reach_children_in_other_sessions(
        self, runner: Runner, launch: Callable[..., Handle], tmp_path: Path
    ) -> None:
        handle = launch("family")
        self.wait_until_it_listens(handle)
        children = json.loads((tmp_path / "attempt/worker-0.out").read_text().splitlines()[1])
        assert all(is_alive(pid) for pid in children)
        runner.signal(handle, Signal.KILL)
        self.until(lambda: not any(is_alive(pid) for pid in children))
        runner.release(handle)
        assert not self.of_run(runner, str(handle.data["run_id"]))

    def test_stop_spares_the_children_of_a_worker(
        self, runner: Runner, launch: Callable[..., Handle], tmp_path: Path
    ) -> None:
        handle = launch("family")
        self.wait_until_it_listens(handle)
        children = json.loads((tmp_path / "attempt/worker-0.out").read_text().splitlines()[1])
        runner.signal(handle, Signal.STOP)
        assert self.ended(runner, handle).exit_codes == (75,)
        assert all(is_alive(pid) for pid in children)
        for pid in children:
            os.kill(pid, signal.SIGKILL)

    def test_workers_leave_when_whoever_launched_them_is_killed(
        self, runner: Runner, tmp_path: Path
    ) -> None:
        handle, launcher = self.launched_elsewhere(self.make_spec(tmp_path, "obey", workers=2))
        self.wait_until_it_listens(handle)
        launcher.kill()
        launcher.wait()
        assert self.ended(runner, handle).exit_codes == (75, 75)
        runner.release(handle)
        assert not self.of_run(runner, str(handle.data["run_id"]))

    def test_workers_that_do_not_leave_then_are_ended_after_the_grace(
        self, runner: Runner, tmp_path: Path
    ) -> None:
        spec = self.make_spec(tmp_path, "deaf", stop_grace_s=0.5)
        handle, launcher = self.launched_elsewhere(spec)
        self.wait_until_it_listens(handle)
        launcher.kill()
        launcher.wait()
        assert self.ended(runner, handle).exit_codes == (-signal.SIGKILL,)

    @pytest.mark.parametrize("after_s", [0.0, 0.005, 0.01, 0.02, 0.03, 0.05])
    def test_a_launch_cut_short_at_any_moment_can_be_repeated(
        self, runner: Runner, tmp_path: Path, after_s: float
    ) -> None:
        spec = self.make_spec(tmp_path, "obey", workers=2)
        launcher = self.launcher(spec)
        time.sleep(after_s)
        launcher.kill()
        launcher.wait()
        assert launcher.stdout is not None
        launcher.stdout.close()
        handle = runner.launch(spec)
        assert runner.launch(spec) == handle
        runner.release(handle)
        self.until(lambda: not self.of_run(runner, spec.run_id))
        assert not runner.poll(handle).running

    def launched_elsewhere(self, spec: LaunchSpec) -> tuple[Handle, subprocess.Popen[str]]:
        """Launched by another process, which then waits."""
        launcher = self.launcher(spec)
        assert launcher.stdout is not None
        with launcher.stdout:
            return Handle(**json.loads(launcher.stdout.readline())), launcher

    @staticmethod
    def launcher(spec: LaunchSpec, limit_bytes: int = -1) -> subprocess.Popen[str]:
        """Another process that is about to launch, and may write files of that size only."""
        wish = {name: getattr(spec, name) for name in LaunchSpec.__dataclass_fields__}
        for name in ("place", "resources"):
            value = wish[name]
            wish[name] = {field: getattr(value, field) for field in value.__dataclass_fields__}
        root = Path(__file__).parents[2]
        launcher = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(LAUNCHER), json.dumps(wish), str(limit_bytes)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "ready\n"
        return launcher

    def pids(self, handle: Handle) -> list[int]:
        """Process ids by rank."""
        raise AssertionError("a subclass knows")


def is_alive(pid: int) -> bool:
    """Whether there is such a process, a zombie not counted."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
