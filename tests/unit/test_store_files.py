"""Files survive crashes; growing files are read line by line; ids cannot leave their folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.errors import NotFoundError, StoreError
from planner.core.job import Goal
from planner.store.files import NdjsonTail, json_line, load, read_json, save, write_atomic
from planner.store.layout import StateDir, check_id, file_system, on_network_disk


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    write_atomic(path, b"new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_disk_that_is_full_leaves_the_old_content(tmp_path):
    """A child may write 4 kB and no more: the write fails in the middle, as on a full disk."""
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from planner.store.files import write_atomic\n"
        "from planner.core.errors import StoreError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_atomic(Path(sys.argv[1]), b'x' * 100_000)\n"
        "except StoreError as error: print(error.text)\n"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert str(path) in seen.stdout
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_saved_values_load_again_and_a_broken_file_is_named(tmp_path):
    path = tmp_path / "goal.json"
    save(path, Goal(budget_usd=2.0))
    assert load(Goal, path) == Goal(budget_usd=2.0)
    path.write_text('{"budget_usd": "lots"}')
    with pytest.raises(StoreError, match=r"goal\.json.*budget_usd"):
        load(Goal, path)
    path.write_text('{"budget_')
    with pytest.raises(StoreError, match=r"goal\.json is damaged"):
        read_json(path)
    with pytest.raises(StoreError, match="cannot read"):
        read_json(tmp_path / "absent.json")


def test_a_tail_gives_each_line_once(tmp_path):
    path = tmp_path / "events.ndjson"
    tail = NdjsonTail(path)
    assert tail.read_new() == []
    path.write_bytes(json_line({"a": 1}) + json_line({"a": 2}))
    assert tail.read_new() == [{"a": 1}, {"a": 2}]
    assert tail.read_new() == []
    with path.open("ab") as file:
        file.write(json_line({"a": 3}))
    assert NdjsonTail(path, offset=tail.offset).read_new() == [{"a": 3}]


def test_a_half_written_line_waits_for_its_end(tmp_path):
    path = tmp_path / "events.ndjson"
    tail = NdjsonTail(path)
    path.write_bytes(b'{"a":1}\n{"b":')
    assert tail.read_new() == [{"a": 1}]
    with path.open("ab") as file:
        file.write(b'2}\n{"c":3}\n')
    assert tail.read_new() == [{"b": 2}, {"c": 3}]


def test_garbage_is_passed_over_counted_and_shown(tmp_path):
    path = tmp_path / "events.ndjson"
    path.write_bytes(b'\xff\xfe\x00\n[1,2]\n"text"\n\n{"a":1}\nnot json\n')
    seen: list[bytes] = []
    tail = NdjsonTail(path, on_skip=seen.append)
    assert tail.read_new() == [{"a": 1}]
    assert tail.skipped == len(seen) == 4


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 20))
def test_no_garbage_whatever_stops_the_lines_after_it(tmp_path_factory, chunks, size):
    path = tmp_path_factory.mktemp("tail") / "events.ndjson"
    content = b"\n".join(chunks) + b'\n{"end":true}\n'
    tail, seen = NdjsonTail(path), []
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(content), size):
            file.write(content[start : start + size])
            seen += tail.read_new()
    assert seen[-1] == {"end": True}


def test_a_file_that_was_cut_is_read_again(tmp_path):
    path = tmp_path / "events.ndjson"
    path.write_bytes(json_line({"a": 1}) + json_line({"a": 2}))
    tail = NdjsonTail(path)
    tail.read_new()
    path.write_bytes(b'{"b":1}\n')
    assert tail.read_new() == [{"b": 1}]


def test_infinity_is_refused_in_a_line():
    with pytest.raises(StoreError, match="JSON"):
        json_line({"a": float("inf")})


@pytest.mark.parametrize(
    "bad", ["", "..", "../x", "a/b", "/etc", ".hidden", "a..b", "x" * 101, "a\n"]
)
def test_ids_cannot_leave_their_folder(bad, tmp_path):
    with pytest.raises(NotFoundError):
        StateDir(tmp_path).run(bad)


def test_good_ids_are_kept():
    assert check_id("r-7f3k") == "r-7f3k"


def test_a_run_has_its_folders_and_counts_only_with_a_journal(tmp_path):
    state = StateDir(tmp_path / "state")
    assert state.run_ids() == ()
    run = state.run("r-0001")
    run.create()
    assert run.commands.is_dir() and run.checkpoints.is_dir()
    assert state.run_ids() == ()
    run.journal.touch()
    assert state.run_ids() == ("r-0001",)
    assert run.attempt(2).events(1) == run.path / "attempts" / "2" / "events-1.ndjson"


def test_a_state_directory_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="make the folder"):
        StateDir(tmp_path / "file" / "state").require_writable()


def test_a_state_directory_that_cannot_be_written_is_refused():
    with pytest.raises(StoreError) as caught:
        StateDir(Path("/proc/self")).require_writable()
    assert "/proc/self" in caught.value.text
    assert "--state-dir" in (caught.value.hint or "")


def test_the_file_system_is_known_by_its_mount():
    assert file_system(Path("/proc/self")) == "proc"
    assert not on_network_disk(Path("/proc/self"))
