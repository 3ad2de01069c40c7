"""What every runner must pass, to be subclassed by the tests of each one.

    class TestMyRunner(RunnerContract):
        name = "mine"
        def make_runner(self): ...
        def make_spec(self, tmp_path, act, **changes): ...

`RunnerContract` is for all runners, simulated ones too; `process_contract.ProcessContract` adds
what must hold wherever workers are real processes on this machine.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.core.errors import RunnerError
from runners.base import Handle, LaunchSpec, Leftover, Runner, Signal, Status, WorkerState

PATIENCE_S = 30.0
"""After so long something that should happen counts as not happening. Not a speed limit."""


class RunnerContract:
    """Launch, watch, stop and release, as `runners.base.Runner` promises.

    A subclass makes workers that play one of these acts: `finish` (exit 0 soon), `fail` (exit 3
    soon), `obey` (runs for long, exits 75 when told to stop), `deaf` (runs for long, ignores STOP),
    `unstartable` (cannot be launched). All acts but `unstartable` touch nothing outside. A place
    has four slots.
    """

    name: str

    def make_runner(self) -> Runner:
        """A new instance, sharing nothing in memory that a new process would not have."""
        raise AssertionError("a subclass makes the runner")

    def make_spec(self, tmp_path: Path, act: str, **changes: Any) -> LaunchSpec:
        """What to launch for an act; `workers` and fields of `LaunchSpec` may be changed."""
        raise AssertionError("a subclass makes the spec")

    def make_unit(self, tmp_path: Path, act: str, number: int, **changes: Any) -> LaunchSpec:
        """What to grow: workers from this number on, in a folder of their own."""
        folder = tmp_path / f"attempt/units/{number}"
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / "crew").mkdir(exist_ok=True)
        own = {"idempotency_key": f"unit-{number}", "attempt_dir": str(folder)}
        common = {"first_worker": number, "crew_dir": str(tmp_path / "crew")}
        spec = self.make_spec(tmp_path, act, **(own | common | changes))
        size = str(number + spec.resources.workers)
        return replace(spec, env={"WORLD_SIZE": size, **spec.env})

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

    @pytest.fixture
    def grow(self, runner: Runner, tmp_path: Path) -> Iterator[Callable[..., Handle]]:
        """Grows a launch by an act's workers; whatever was grown is gone after the test."""
        if not runner.capabilities().grows:
            pytest.skip("this runner does not grow")
        handles: list[Handle] = []

        def grow(beside: Handle, act: str, number: int, **changes: Any) -> Handle:
            handles.append(runner.grow(beside, self.make_unit(tmp_path, act, number, **changes)))
            return handles[-1]

        yield grow
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

    # ---- grow and shrink

    def test_what_it_says_it_cannot_do_is_refused(
        self, runner: Runner, launch: Callable[..., Handle], tmp_path: Path
    ) -> None:
        capabilities = runner.capabilities()
        handle = launch("obey", workers=2)
        if not capabilities.grows:
            with pytest.raises(RunnerError) as caught:
                runner.grow(handle, self.make_unit(tmp_path, "obey", 2))
            assert caught.value.hint
        if not capabilities.shrinks:
            with pytest.raises(RunnerError) as caught:
                runner.shrink(handle, [1])
            assert caught.value.hint
        assert runner.poll(handle).exit_codes == (None, None)

    def test_workers_are_started_beside_those_that_run(
        self,
        runner: Runner,
        launch: Callable[..., Handle],
        grow: Callable[..., Handle],
        tmp_path: Path,
    ) -> None:
        first = launch("obey", workers=2)
        self.wait_until_it_listens(first)
        unit = grow(first, "obey", 2, workers=2)
        self.wait_until_it_listens(unit)
        assert runner.poll(first).exit_codes == (None, None)
        status = runner.poll(unit)
        assert [(w.rank, w.state) for w in status.workers] == [
            (0, WorkerState.RUNNING),
            (1, WorkerState.RUNNING),
        ]
        for folder, numbers in (("attempt", "01"), ("attempt/units/2", "23")):
            for kind in ("events-{}.ndjson", "worker-{}.out", "worker-{}.err"):
                found = {path.name for path in (tmp_path / folder).glob(kind.format("*"))}
                assert found == {kind.format(number) for number in numbers}

    def test_the_same_unit_is_grown_once(
        self,
        runner: Runner,
        launch: Callable[..., Handle],
        grow: Callable[..., Handle],
    ) -> None:
        first = launch("obey")
        unit = grow(first, "obey", 1)
        assert unit.key == "unit-1"
        before = len(runner.leftovers())
        assert grow(first, "obey", 1) == unit
        assert len(runner.leftovers()) == before
        assert self.make_runner().poll(unit).running
        with pytest.raises(RunnerError, match="another launch"):
            grow(first, "obey", 1, idempotency_key="another")

    def test_a_unit_is_told_and_released_by_itself(
        self,
        runner: Runner,
        launch: Callable[..., Handle],
        grow: Callable[..., Handle],
    ) -> None:
        first = launch("obey")
        self.wait_until_it_listens(first)
        unit = grow(first, "obey", 1)
        self.wait_until_it_listens(unit)
        runner.signal(unit, Signal.STOP)
        assert self.ended(runner, unit).exit_codes == (75,)
        runner.release(unit)
        assert runner.poll(first).running
        assert runner.measure(first) and not runner.measure(unit)

    def test_released_units_leave_nothing(
        self,
        runner: Runner,
        launch: Callable[..., Handle],
        grow: Callable[..., Handle],
    ) -> None:
        first = launch("obey")
        unit = grow(first, "obey", 1, workers=2)
        run_id = str(first.data["run_id"])
        folders = {leftover.attempt_dir for leftover in self.of_run(runner, run_id)}
        assert folders == {str(first.data["attempt_dir"]), str(unit.data["attempt_dir"])}
        runner.release(unit)
        folders = {leftover.attempt_dir for leftover in self.of_run(runner, run_id)}
        assert folders == {str(first.data["attempt_dir"])}
        runner.release(first)
        runner.release(unit)
        assert not self.of_run(runner, run_id)

    def test_units_share_the_slots_of_a_place(
        self,
        runner: Runner,
        launch: Callable[..., Handle],
        grow: Callable[..., Handle],
    ) -> None:
        first = launch("obey", workers=2)
        self.wait_until_it_listens(first)
        grow(first, "obey", 2)
        before = runner.leftovers()
        with pytest.raises(RunnerError, match="do not fit") as caught:
            grow(first, "obey", 3, workers=2)
        assert caught.value.code == "environment.no_slot" and caught.value.hint
        assert runner.leftovers() == before
        runner.shrink(first, [1])
        self.until(lambda: not is_pending(runner.poll(first), 1))
        assert grow(first, "obey", 3, workers=2) is not None

    def test_a_unit_that_cannot_be_started_leaves_the_others_alone(
        self,
        runner: Runner,
        launch: Callable[..., Handle],
        grow: Callable[..., Handle],
    ) -> None:
        first = launch("obey")
        before = runner.leftovers()
        with pytest.raises(RunnerError) as caught:
            grow(first, "unstartable", 1)
        assert caught.value.hint
        with pytest.raises(RunnerError, match="WORLD_SIZE"):
            grow(first, "obey", 1, env={"WORLD_SIZE": ""})
        assert runner.leftovers() == before
        assert runner.poll(first).running

    def test_some_workers_are_ended_and_the_others_go_on(
        self,
        runner: Runner,
        launch: Callable[..., Handle],
        grow: Callable[..., Handle],
    ) -> None:
        first = launch("obey", workers=2)
        self.wait_until_it_listens(first)
        unit = grow(first, "obey", 2, workers=2)
        self.wait_until_it_listens(unit)
        runner.shrink(first, [1])
        runner.shrink(unit, [0])
        self.until(lambda: not is_pending(runner.poll(first), 1))
        self.until(lambda: not is_pending(runner.poll(unit), 0))
        for _ in range(2):
            assert runner.poll(first).exit_codes == (None, -signal.SIGKILL)
            assert runner.poll(unit).exit_codes == (-signal.SIGKILL, None)
            assert [m.rank for m in runner.measure(unit)] == [1]
            runner.shrink(first, [1])
            self.make_runner().shrink(unit, [0])
        with pytest.raises(RunnerError, match="no worker"):
            runner.shrink(first, [2])

    def test_to_shrink_what_has_ended_is_no_error(
        self, runner: Runner, launch: Callable[..., Handle]
    ) -> None:
        if not runner.capabilities().shrinks:
            pytest.skip("this runner does not shrink")
        handle = launch("finish", workers=2)
        before = self.ended(runner, handle)
        runner.shrink(handle, [0, 1])
        assert runner.poll(handle) == before

    @staticmethod
    def of_run(runner: Runner, run_id: str) -> list[Leftover]:
        return [leftover for leftover in runner.leftovers() if leftover.run_id == run_id]

    def wait_until_it_listens(self, handle: Handle) -> None:
        """Until the workers are so far that STOP means exit 75."""
        raise AssertionError("a subclass knows")


def is_pending(status: Status, rank: int) -> bool:
    """Whether that worker has not ended yet."""
    return status.workers[rank].state in (WorkerState.PENDING, WorkerState.RUNNING)
