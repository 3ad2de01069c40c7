"""Each generation is claimed once, and only who leads the newest one may write a checkpoint."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from planner.sdk.crew.plan import CrewFolder, Member, Plan


def member(worker: int) -> Member:
    return Member(worker, "127.0.0.1", 10_000 + worker)


def plan(generation: int, *workers: int) -> Plan:
    members = tuple(map(member, workers))
    return Plan(generation=generation, members=members, everyone=workers)


@pytest.fixture
def folder(tmp_path: Path) -> CrewFolder:
    made = CrewFolder(tmp_path / "crew")
    made.make()
    return made


def at_once(work: Callable[[int], None]) -> None:
    start = threading.Barrier(8)

    def run(number: int) -> None:
        start.wait()
        work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_one_of_many_that_claim_the_same_generation_at_once_gets_it(folder: CrewFolder) -> None:
    """Though they are of one process id, as workers in containers are."""
    taken: list[int] = []

    def claim(worker: int) -> None:
        if CrewFolder(folder.path).claim(plan(1, worker), member(worker)):
            taken.append(worker)

    at_once(claim)
    assert len(taken) == 1
    assert folder.led_by(taken[0])
    assert not any(folder.led_by(worker) for worker in range(8) if worker != taken[0])


def test_all_that_ask_at_once_have_the_same_secret(folder: CrewFolder) -> None:
    known: list[str] = []
    at_once(lambda _: known.append(CrewFolder(folder.path).secret()))
    assert len(known) == 8
    assert len(set(known)) == 1
    assert len(known[0]) == 32


def test_after_a_move_neither_the_former_workers_nor_their_next_plan_count(
    folder: CrewFolder,
) -> None:
    assert folder.claim(plan(1, 0, 1), member(0))
    assert folder.claim(plan(2, 2, 3), member(0)), "worker 0 has others take over"
    assert not folder.claim(plan(2, 0, 1), member(1)), "the number is taken"
    assert folder.claim(plan(3, 3), member(3)), "who took over loses a worker"
    assert folder.led_by(3)
    assert not any(map(folder.led_by, (0, 1, 2)))
    assert [m.worker for m in folder.known()] == [3]


def test_the_newest_generation_tells_whom_to_turn_to(folder: CrewFolder) -> None:
    assert folder.known() == []
    folder.claim(plan(9, 0), member(0))
    folder.claim(plan(10, 2, 1), member(0))
    assert [m.worker for m in folder.known()] == [0, 2, 1]


def test_a_job_that_is_over_says_so_even_if_nobody_ever_joined(tmp_path: Path) -> None:
    folder = CrewFolder(tmp_path / "never-made")
    assert not folder.over
    folder.finish()
    assert folder.over


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o701, 0o700])
def test_a_folder_that_is_there_already_is_closed_to_others(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "crew"
    path.mkdir()
    path.chmod(mode)
    CrewFolder(path).make()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CrewFolder(tmp_path / "crew")
    folder.make()
    monkeypatch.setattr(os, "geteuid", lambda: folder.path.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        folder.make()


def test_in_a_container_root_takes_the_folder_of_whoever_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CrewFolder(tmp_path / "crew")
    folder.make()
    there = folder.path.stat()
    outside = os.stat_result((*there[:4], 1000, *there[5:]))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "stat", lambda *_, **__: outside)
    folder.make()


def test_where_a_folder_cannot_be_closed_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "crew"
    path.mkdir()
    path.chmod(0o755)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    CrewFolder(path).make()
    assert "open to other users" in capsys.readouterr().err
