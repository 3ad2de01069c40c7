"""What `planner clean` finds and removes, and above all what it leaves alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from planner.core.errors import CleanupError
from planner.core.types import RunState
from planner.services.clean import KEPT_S, clean, leftovers, size_bytes
from planner.services.runs.runlock import held, sign_in
from planner.store.layout import StateDir
from runners.base import Leftover
from runners.fake import FakeRunner
from tests.support.runs import START, Case, FakeClock, create_run, fake_estimate, plan_of

DAY_S = 86400


class House:
    """A state directory, and a clock that starts at the runs' own time."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        self.state = StateDir(folder / "state")
        self.clock = FakeClock()

    def case(self, run_id: str) -> Case:
        plan = plan_of(fake_estimate(self.work, samples=100, epochs=1), run_id)
        run = create_run(self.state, plan, self.clock)
        return Case(run, plan, self.clock, FakeRunner(self.clock))

    def ended(self, run_id: str) -> Case:
        case = self.case(run_id)
        assert case.go() is RunState.DONE
        return case

    def folder(self, place: str, name: str, age_s: float) -> Path:
        folder = self.state.path / place / name
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x" * 1000)
        at = (self.clock.now() - timedelta(seconds=age_s)).timestamp()
        os.utime(folder, (at, at))
        return folder

    def found(self, **arguments: object) -> list[tuple[str, str]]:
        listed = leftovers(self.state.path, clock=self.clock, **arguments)  # type: ignore[arg-type]
        return [(one.kind, one.id) for one in listed]

    def remove(self, *chosen: Leftover) -> None:
        clean(self.state.path, chosen, clock=self.clock)

    def all(self) -> tuple[Leftover, ...]:
        return leftovers(self.state.path, older_than_s=0, clock=self.clock)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def marked(run_id: str, attempt_dir: Path) -> subprocess.Popen[bytes]:
    """A process as a runner would have started it."""
    code = "import time; print('up', flush=True); time.sleep(60)"
    env = {"PLANNER_RUN_ID": run_id, "PLANNER_EVENTS": str(attempt_dir / "events-0.ndjson")}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_state_directory_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert leftovers(tmp_path / "none") == ()
    assert not (tmp_path / "none").exists()


# ---- runs


def test_an_ended_run_is_offered_after_thirty_days_or_what_was_asked(house: House) -> None:
    house.ended("r-old")
    house.clock.sleep(10 * DAY_S)
    assert house.found() == []
    assert house.found(older_than_s=9 * DAY_S) == [("run", "r-old")]
    house.clock.sleep(KEPT_S)
    assert house.found() == [("run", "r-old")]
    assert house.found(leaked_only=True) == []


def test_it_says_what_it_is_how_large_and_since_when(house: House) -> None:
    case = house.ended("r-old")
    (case.run.checkpoints / "big").write_bytes(b"x" * 5_000_000)
    house.clock.sleep(DAY_S)
    (one,) = house.all()
    assert "digits, done" in one.text
    assert "5.0 MB" in one.text
    assert one.since is not None
    assert START < one.since < house.clock.now()


def test_a_removed_run_is_gone_with_all_its_files(house: House) -> None:
    case = house.ended("r-old")
    house.clock.sleep(DAY_S)
    house.remove(*house.all())
    assert not case.run.path.exists()
    assert house.all() == ()


def test_a_run_that_has_not_ended_is_never_offered(house: House) -> None:
    house.case("r-planned")
    house.clock.sleep(100 * DAY_S)
    assert house.found(older_than_s=0) == []


def test_a_run_that_somebody_looks_after_is_never_offered(house: House) -> None:
    case = house.ended("r-busy")
    house.clock.sleep(DAY_S)
    sign_in(case.run)
    assert house.found(older_than_s=0) == []


def test_a_run_that_is_resumed_in_between_stays(house: House) -> None:
    case = house.ended("r-old")
    house.clock.sleep(DAY_S)
    chosen = house.all()
    with held(case.run), pytest.raises(CleanupError, match="another process"):
        house.remove(*chosen)
    sign_in(case.run)
    with pytest.raises(CleanupError, match="in use now"):
        house.remove(*chosen)
    assert case.run.journal.exists()


def test_a_launch_that_never_got_to_a_journal_is_offered_when_old(house: House) -> None:
    house.folder("runs", "r-half", age_s=40 * DAY_S)
    house.folder("runs", "r-fresh", age_s=60)
    assert house.found() == [("run", "r-half")]


# ---- slices and the work of probes


def test_slices_are_offered_when_old(house: House) -> None:
    house.folder("slices", "abc-0.1", age_s=31 * DAY_S)
    house.folder("slices", "def-0.1", age_s=DAY_S)
    assert house.found() == [("slice", "abc-0.1")]


def test_the_work_of_a_probe_that_was_cut_off_is_offered_after_an_hour(house: House) -> None:
    house.folder("probes/work", "p-1-aa", age_s=2 * 3600)
    house.folder("probes/work", "p-2-bb", age_s=60)
    assert house.found() == [("probe work", "p-1-aa")]


def test_the_work_of_a_probe_that_runs_is_left_alone(
    house: House, started: list[subprocess.Popen[bytes]]
) -> None:
    work = house.folder("probes/work", "p-1-aa", age_s=2 * 3600)
    house.folder("slices", "abc-0.1", age_s=31 * DAY_S)
    started.append(marked("p-1", work / "attempt"))
    assert [kind for kind, _ in house.found()] == ["process"]


# ---- processes


def test_a_process_without_an_owner_is_found_and_ended(
    house: House, started: list[subprocess.Popen[bytes]]
) -> None:
    case = house.case("r-1")
    started.append(marked("r-1", case.run.attempt(1).path))
    (one,) = leftovers(house.state.path, leaked_only=True)
    assert (one.kind, one.run_id) == ("process", "r-1")
    assert str(started[0].pid) in one.text
    house.remove(one)
    assert started[0].wait(timeout=20) != 0
    assert leftovers(house.state.path, leaked_only=True) == ()


def test_a_process_whose_supervisor_lives_is_left_alone(
    house: House, started: list[subprocess.Popen[bytes]]
) -> None:
    case = house.case("r-1")
    sign_in(case.run)
    started.append(marked("r-1", case.run.attempt(1).path))
    assert house.found(leaked_only=True) == []


def test_a_process_of_another_state_directory_is_left_alone(
    house: House, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    house.case("r-1")
    elsewhere = tmp_path / "other" / "runs" / "r-1" / "attempts" / "1"
    started.append(marked("r-1", elsewhere))
    assert house.found(leaked_only=True) == []


# ---- guards


@pytest.mark.parametrize("name", ["", ".", "..", "../work", "a/b", "a\0"])
@pytest.mark.parametrize("kind", ["run", "slice", "probe work"])
def test_nothing_outside_its_place_is_removed(house: House, kind: str, name: str) -> None:
    precious = house.work / "precious"
    precious.write_text("mine")
    house.folder("slices", "s", age_s=0)
    with pytest.raises(CleanupError):
        house.remove(Leftover(kind=kind, id=name, run_id=None, text=""))
    assert precious.exists()
    assert (house.state.path / "slices" / "s").exists()


def test_a_link_is_neither_offered_nor_followed(house: House) -> None:
    (house.work / "precious").write_text("mine")
    house.state.slices.joinpath("link").symlink_to(house.work)
    assert house.found(older_than_s=0) == []
    with pytest.raises(CleanupError):
        house.remove(Leftover(kind="slice", id="link", run_id=None, text=""))
    assert (house.work / "precious").exists()


def test_a_place_that_is_itself_a_link_is_not_emptied(house: House) -> None:
    house.state.path.mkdir()
    (house.work / "precious").mkdir()
    (house.state.path / "slices").symlink_to(house.work)
    with pytest.raises(CleanupError):
        house.remove(Leftover(kind="slice", id="precious", run_id=None, text=""))
    assert (house.work / "precious").exists()


def test_what_cannot_be_removed_is_named_and_the_rest_is_removed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = house.folder("slices", "stuck", age_s=DAY_S)
    free = house.folder("slices", "free", age_s=DAY_S)
    chosen = house.all()
    rmtree = shutil.rmtree

    def refuses(path: Path) -> None:
        if path.name == "stuck":
            raise PermissionError(13, "Permission denied", str(path))
        rmtree(path)

    monkeypatch.setattr("planner.services.clean.shutil.rmtree", refuses)
    with pytest.raises(CleanupError) as caught:
        house.remove(*chosen)
    assert "slice stuck" in caught.value.text
    assert "1 of 2" in caught.value.text
    assert stuck.exists()
    assert not free.exists()


def test_removing_what_is_gone_already_is_fine(house: House) -> None:
    house.folder("slices", "s", age_s=DAY_S)
    chosen = house.all()
    house.remove(*chosen)
    house.remove(*chosen)


def test_a_size_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"x" * 100)
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "big")
    assert 100 <= size_bytes(tmp_path / "a") < 1000
