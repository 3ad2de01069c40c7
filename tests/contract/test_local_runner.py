"""The local runner: the contract, and what only it promises."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from process_contract import ProcessContract

from planner.core.errors import CleanupError, RunnerError
from planner.core.job import Place
from planner.core.types import ResourceConfig
from runners.base import Handle, Runner, Signal, WorkerState
from runners.local import LocalRunner


class TestLocalRunner(ProcessContract):
    name = "local"
    place = Place(runner="local", pool="cpu", settings={"slots": 4, "usd_per_slot_h": 0.05})
    resources = ResourceConfig(runner="local", pool="cpu", market="local")

    def make_runner(self) -> Runner:
        return LocalRunner()

    def pids(self, handle: Handle) -> list[int]:
        return [pid for pid, _ in handle.data["workers"]]  # type: ignore[attr-defined]

    def test_workers_live_on_when_the_thread_that_launched_them_ends(
        self, runner: Runner, tmp_path: Path
    ) -> None:
        handles: list[Handle] = []
        spec = self.make_spec(tmp_path, "obey")
        thread = threading.Thread(target=lambda: handles.append(LocalRunner().launch(spec)))
        thread.start()
        thread.join()
        self.wait_until_it_listens(handles[0])
        self.pass_time(0.2)
        assert runner.poll(handles[0]).running
        runner.release(handles[0])

    def test_two_launches_of_one_key_at_once_give_one_handle(
        self, runner: Runner, tmp_path: Path
    ) -> None:
        handles: list[Handle] = []
        spec = self.make_spec(tmp_path, "obey", workers=2)
        threads = [
            threading.Thread(target=lambda: handles.append(LocalRunner().launch(spec)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(handles) == 4
        assert all(handle == handles[0] for handle in handles)
        assert len(self.of_run(runner, spec.run_id)) == 3  # two workers and their keeper
        runner.release(handles[0])

    def test_what_a_launch_without_a_record_left_is_ended_before_the_next(
        self, runner: Runner, launch: Callable[..., Handle], tmp_path: Path
    ) -> None:
        first = launch("obey")
        self.wait_until_it_listens(first)
        (tmp_path / "attempt/launch.json").unlink()  # as if the start had been cut short
        second = launch("obey")
        assert self.pids(second) != self.pids(first)
        assert not self.ended(runner, first).running
        assert runner.poll(second).running

    def test_with_its_keeper_killed_a_worker_leaves_and_is_lost(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        handle = launch("obey")
        self.wait_until_it_listens(handle)
        os.kill(handle.data["keeper"][0], signal.SIGKILL)  # type: ignore[index]
        status = self.ended(runner, handle)
        assert status.workers[0].state is WorkerState.LOST
        assert "keeper" in (status.workers[0].reason or "")
        runner.release(handle)

    def test_a_process_that_took_over_the_number_of_a_worker_is_not_touched(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        handle = launch("obey")
        self.wait_until_it_listens(handle)
        (pid, ticks), *_ = handle.data["workers"]  # type: ignore[misc, attr-defined]
        old = replace(
            handle,
            data={
                **handle.data,
                "attempt_dir": handle.data["attempt_dir"] + "-old",  # type: ignore[operator]
                "workers": [[pid, ticks - 1]],
                "keeper": [pid, ticks - 1],
            },
        )
        assert runner.poll(old).workers[0].state is WorkerState.LOST
        assert list(runner.measure(old)) == []
        runner.signal(old, Signal.STOP)
        runner.signal(old, Signal.KILL)
        runner.release(old)
        self.pass_time(0.1)
        assert runner.poll(handle).running

    def test_nothing_outlives_a_restart_of_the_machine(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        handle = launch("obey")
        before = replace(handle, data={**handle.data, "boot_id": "another"})
        status = runner.poll(before)
        assert status.workers[0].state is WorkerState.LOST
        runner.release(before)  # nothing to do, and the workers of this boot are not touched
        assert runner.poll(handle).running

    def test_another_machine_is_named_when_it_would_have_to_be_cleaned(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        handle = launch("finish")
        elsewhere = replace(
            handle, data={**handle.data, "boot_id": "another", "host": "other-machine"}
        )
        assert "other-machine" in (runner.poll(elsewhere).workers[0].reason or "")
        with pytest.raises(CleanupError, match="other-machine"):
            runner.release(elsewhere)

    def test_what_runs_elsewhere_or_ran_before_a_restart_cannot_be_joined(
        self, runner: Runner, launch: Callable[..., Handle], tmp_path: Path
    ) -> None:
        handle, unit = launch("obey"), self.make_unit(tmp_path, "obey", 1)
        for changes in ({"boot_id": "another"}, {"host": "other-machine"}):
            elsewhere = replace(handle, data={**handle.data, **changes})
            with pytest.raises(RunnerError, match="cannot join") as caught:
                runner.grow(elsewhere, unit)
            assert caught.value.hint
        assert len(self.of_run(runner, unit.run_id)) == 2  # a worker and its keeper
        before = replace(handle, data={**handle.data, "boot_id": "another"})
        runner.shrink(before, [0])  # it ended with its boot
        assert runner.poll(handle).running
        elsewhere = replace(before, data={**before.data, "host": "other-machine"})
        with pytest.raises(CleanupError, match="other-machine"):
            runner.shrink(elsewhere, [0])

    def test_workers_at_another_place_take_no_slot_of_this_one(
        self, runner: Runner, launch: Callable[..., Handle], grow: Callable[..., Handle]
    ) -> None:
        first = launch("obey", workers=4)
        with pytest.raises(RunnerError, match="4 of this run are there"):
            grow(first, "obey", 4)
        small = Place(runner="local", pool="other", settings={"slots": 1})
        unit = grow(first, "obey", 4, place=small)
        with pytest.raises(RunnerError, match="1 of this run are there"):
            grow(unit, "obey", 5, place=small)

    def test_units_of_one_run_that_start_at_once_do_not_exceed_the_slots(
        self, runner: Runner, launch: Callable[..., Handle], tmp_path: Path
    ) -> None:
        first = launch("obey", workers=2)
        handles: list[Handle] = []

        def grow(number: int) -> None:
            unit = self.make_unit(tmp_path, "obey", number)
            try:
                handles.append(LocalRunner().grow(first, unit))
            except RunnerError as error:
                assert error.code == "environment.no_slot"

        threads = [threading.Thread(target=grow, args=(number,)) for number in range(2, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(handles) == 2
        for handle in handles:
            runner.release(handle)

    def test_exit_codes_are_learned_on_a_full_disk(
        self, runner: Runner, launch: Callable[..., Handle], tmp_path: Path
    ) -> None:
        handle = launch("obey")
        self.wait_until_it_listens(handle)
        before = (tmp_path / "attempt/exits").stat()
        runner.signal(handle, Signal.STOP)
        self.ended(runner, handle)
        after = (tmp_path / "attempt/exits").stat()
        # The record overwrites bytes that were there from the start: no new block is needed.
        assert (after.st_size, after.st_blocks, after.st_ino) == (
            before.st_size,
            before.st_blocks,
            before.st_ino,
        )

    def test_a_launch_on_a_full_disk_starts_nothing(self, runner: Runner, tmp_path: Path) -> None:
        """`RLIMIT_FSIZE` makes writes fail as a full disk does."""
        spec = self.make_spec(tmp_path, "obey", workers=2)
        launcher = self.launcher(spec, limit_bytes=100)
        assert launcher.stdout is not None
        with launcher.stdout:
            answer = launcher.stdout.read()
        assert launcher.wait() == 1
        assert "could not be started" in answer
        assert not self.of_run(runner, spec.run_id)
        assert not (tmp_path / "attempt/launch.json").exists()
        assert not (tmp_path / "attempt/events-0.ndjson").exists(), "a worker ran its command"

    def test_more_workers_than_slots_are_refused(self, runner: Runner, tmp_path: Path) -> None:
        with pytest.raises(RunnerError, match="5 workers do not fit the 4 slots"):
            runner.launch(self.make_spec(tmp_path, "finish", workers=5))

    def test_several_machines_are_refused(self, runner: Runner, tmp_path: Path) -> None:
        spec = self.make_spec(tmp_path, "finish")
        with pytest.raises(RunnerError, match="2 machines"):
            runner.launch(replace(spec, resources=replace(spec.resources, nodes=2)))

    def test_an_attempt_folder_that_cannot_be_written_is_named(
        self, runner: Runner, tmp_path: Path
    ) -> None:
        with pytest.raises(RunnerError, match="/proc/1"):
            runner.launch(self.make_spec(tmp_path, "finish", attempt_dir="/proc/1"))

    def test_secrets_in_a_command_line_are_masked_in_leftovers(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        argv = (*self.make_spec_argv(), "--password", "hunter2hunter2")
        handle = launch("obey", argv=argv)
        texts = [found.text for found in self.of_run(runner, str(handle.data["run_id"]))]
        assert any("--password ***" in text for text in texts)
        assert not any("hunter2" in text for text in texts)

    def make_spec_argv(self) -> tuple[str, ...]:
        import sys

        return (sys.executable, "acts.py", "obey")

    def test_the_record_can_be_read_as_json(
        self, launch: Callable[..., Handle], tmp_path: Path
    ) -> None:
        handle = launch("finish", workers=2)
        record = json.loads((tmp_path / "attempt/launch.json").read_text())
        assert record == handle.data
        assert len(record["workers"]) == 2
