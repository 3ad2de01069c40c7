"""What must hold of a runner wherever workers are real processes on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runner_contract import RunnerContract

from planner.core.errors import RunnerError
from planner.core.job import Place
from planner.core.types import ResourceConfig
from runners.base import Handle, LaunchSpec, Runner, Signal, WorkerState

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
        while True:  # a signal just before a long sleep would be noticed after it
            time.sleep(0.1)
"""

LAUNCHER = """
    import json, resource, sys, time
    from planner.core.errors import RunnerError
    from runners.base import LaunchSpec
    from runners.registry import get_runner
    from planner.core.job import Place
    from planner.core.types import ResourceConfig

    wishes = json.loads(sys.argv[1])
    for wish in wishes:
        wish["place"] = Place(**wish["place"])
        wish["resources"] = ResourceConfig(**wish["resources"])
        wish["argv"] = tuple(wish["argv"])
    first, *units = [LaunchSpec(**wish) for wish in wishes]
    runner = get_runner(first.resources.runner)
    print("ready", flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    try:
        handles = [runner.launch(first)]
        handles += [runner.grow(handles[0], unit) for unit in units]
    except RunnerError as error:
        sys.exit(print(error) or 1)
    for handle in handles:
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
        if not program.exists():  # a worker that just starts may be reading it
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

        def listening() -> int:
            files = folder.glob("events-*.ndjson")
            return sum(file.read_bytes().endswith(b"\n") for file in files)

        self.until(lambda: listening() == workers)

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
                "PLANNER_WORKER": str(rank),
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

    def test_a_launch_tells_its_workers_where_they_find_others(
        self, runner: Runner, launch: Callable[..., Handle], tmp_path: Path
    ) -> None:
        self.ended(runner, launch("env", crew_dir=str(tmp_path / "crew")))
        seen = json.loads((tmp_path / "attempt/worker-0.out").read_text().splitlines()[1])
        assert seen["PLANNER_CREW_DIR"] == str(tmp_path / "crew")

    def test_workers_that_join_are_told_so(
        self,
        runner: Runner,
        launch: Callable[..., Handle],
        grow: Callable[..., Handle],
        tmp_path: Path,
    ) -> None:
        env = {"LC_ALL": "C.UTF-8", "WORLD_SIZE": "4", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
        unit = grow(launch("obey", workers=2), "env", 5, workers=2, env=env)
        assert self.ended(runner, unit).exit_codes == (0, 0)
        folder = tmp_path / "attempt/units/5"
        for rank, number in enumerate((5, 6)):
            seen = (folder / f"worker-{number}.out").read_text().splitlines()[1]
            assert json.loads(seen) == {
                "LC_ALL": "C.UTF-8",
                "PYTHONPATH": str(tmp_path / "stage"),
                "PLANNER_RUN_ID": str(unit.data["run_id"]),
                "PLANNER_ATTEMPT": "1",
                "PLANNER_WORKER": str(number),
                "PLANNER_JOIN": "1",
                "PLANNER_CREW_DIR": str(tmp_path / "crew"),
                "PLANNER_EVENTS": str(folder / f"events-{number}.ndjson"),
                "RANK": str(number),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "4",
                "LOCAL_WORLD_SIZE": "2",
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
            }

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

    def test_a_worker_is_ended_with_all_its_children_and_no_others(
        self, runner: Runner, launch: Callable[..., Handle], tmp_path: Path
    ) -> None:
        if not runner.capabilities().shrinks:
            pytest.skip("this runner does not shrink")
        handle = launch("family", workers=2)
        self.wait_until_it_listens(handle)
        ended, spared = (
            json.loads((tmp_path / f"attempt/worker-{rank}.out").read_text().splitlines()[1])
            for rank in (0, 1)
        )
        pids = self.pids(handle)
        os.kill(pids[0], signal.SIGKILL)  # its children outlive it
        self.until(lambda: runner.poll(handle).workers[0].state is WorkerState.EXITED)
        adopted = [pid for pid in ended if is_alive(pid)]
        runner.shrink(handle, [0])
        assert not any(is_alive(pid) for pid in ended[:2])
        assert all(is_alive(pid) for pid in (pids[1], *spared))
        runner.shrink(handle, [1])
        assert not any(is_alive(pid) for pid in (pids[1], *spared))
        for pid in adopted:  # the one without planner's mark, whose parent is gone
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)

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

    def test_grown_workers_leave_then_too(self, runner: Runner, tmp_path: Path) -> None:
        if not runner.capabilities().grows:
            pytest.skip("this runner does not grow")
        specs = (
            self.make_spec(tmp_path, "obey"),
            self.make_unit(tmp_path, "obey", 1, workers=2),
            self.make_unit(tmp_path, "deaf", 3, stop_grace_s=0.5),
        )
        *handles, launcher = self.launched_elsewhere(*specs)
        for handle in handles:
            self.wait_until_it_listens(handle)
        launcher.kill()
        launcher.wait()
        codes = [self.ended(runner, handle).exit_codes for handle in handles]
        assert codes == [(75,), (75, 75), (-signal.SIGKILL,)]
        for handle in handles:
            runner.release(handle)
        assert not self.of_run(runner, specs[0].run_id)

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

    def launched_elsewhere(self, *specs: LaunchSpec) -> tuple[Any, ...]:
        """Launched by another process, which then waits: a handle for each, and the process.

        What follows the first is grown beside it.
        """
        launcher = self.launcher(*specs)
        assert launcher.stdout is not None
        with launcher.stdout:
            handles = [Handle(**json.loads(launcher.stdout.readline())) for _ in specs]
        return (*handles, launcher)

    @staticmethod
    def launcher(*specs: LaunchSpec, limit_bytes: int = -1) -> subprocess.Popen[str]:
        """Another process that is about to launch, and may write files of that size only."""
        wishes = []
        for spec in specs:
            wish = {name: getattr(spec, name) for name in LaunchSpec.__dataclass_fields__}
            for name in ("place", "resources"):
                value = wish[name]
                wish[name] = {field: getattr(value, field) for field in value.__dataclass_fields__}
            wishes.append(wish)
        root = Path(__file__).parents[2]
        launcher = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(LAUNCHER), json.dumps(wishes), str(limit_bytes)],
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
