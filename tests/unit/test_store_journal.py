"""The journal is the truth: gapless, durable, and whole again after a crash."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.errors import StoreError
from planner.core.events import Event
from planner.core.plan import Decision
from planner.core.types import RunState
from planner.store import journal as journal_module
from planner.store.codec import to_json
from planner.store.journal import Journal, JournalReader, read_events
from planner.store.record import RunRecord
from planner.store.series import SERIES_CAP, SeriesBuffer

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class StepClock:
    """Each look at the clock is a second later."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at

    def monotonic_s(self) -> float:
        return (self.at - START).total_seconds()

    def sleep(self, duration_s: float) -> None:
        self.at += timedelta(seconds=duration_s)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.ndjson"


def open_journal(path):
    return Journal(path, "r-1", StepClock())


def test_numbers_have_no_gaps_over_two_writers(path):
    first = open_journal(path)
    first.append("run.created", {"state": "planned"})
    first.append("run.progress", {"step": 1})
    first.close()
    second = open_journal(path)
    assert [e.type for e in second.events] == ["run.created", "run.progress"]
    second.append("run.finished", {"state": "done"})
    second.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["seq"] for line in lines] == [0, 1, 2]
    assert {line["schema"] for line in lines} == {"planner.event/1"}
    assert {line["run_id"] for line in lines} == {"r-1"}


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(1, 60), lines=st.integers(1, 4))
def test_a_half_written_last_line_is_put_aside_and_the_rest_kept(tmp_path_factory, cut, lines):
    path = tmp_path_factory.mktemp("journal") / "journal.ndjson"
    first = open_journal(path)
    for step in range(lines + 1):
        first.append("run.progress", {"step": step})
    first.close()
    whole = path.read_bytes()
    os.truncate(path, len(whole) - min(cut, len(whole.splitlines()[-1])))
    half = path.read_bytes().splitlines()[-1] if not path.read_bytes().endswith(b"\n") else b""
    again = open_journal(path)
    assert again.torn_bytes == len(half)
    event = again.append("run.finished", {"state": "failed"})
    again.close()
    assert event.seq == lines
    assert [e.seq for e in read_events(path)] == list(range(lines + 1))
    if half:
        assert half in path.with_name("journal.torn").read_bytes()


def test_readers_follow_and_bear_a_line_in_the_middle_of_being_written(path):
    writer = open_journal(path)
    reader = JournalReader(path)
    writer.append("run.created", {})
    assert [e.seq for e in reader.read_new()] == [0]
    with path.open("ab") as file:
        file.write(b'{"seq":1,"ts"')
    assert reader.read_new() == []
    writer.close()


def test_events_of_a_later_version_and_garbage_are_passed_over(path):
    writer = open_journal(path)
    writer.append("run.created", {"name": "a"})
    writer.close()
    with path.open("ab") as file:
        file.write(b'{"seq":1,"ts":"2026-11-21T12:00:00Z","type":"run.teleported","data":{}}\n')
        file.write(b'{"seq":2,"ts":"yesterday","type":"run.progress","data":{}}\n')
        file.write(b"\x00\x00\x00\n")
    assert [e.seq for e in read_events(path)] == [0]


def test_what_matters_is_synced_and_progress_is_not(path, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr(journal_module.os, "fsync", synced.append)
    writer = open_journal(path)
    synced.clear()
    writer.append("run.progress", {})
    writer.append("run.metric", {})
    assert synced == []
    for kind in ("decision.applied", "resource.acquired", "run.stopping", "run.checkpoint"):
        writer.append(kind, {})
    assert len(synced) == 4


def test_a_full_disk_delays_events_and_loses_only_progress(path, monkeypatch):
    """The disk takes half of a line and then refuses, as a real one does."""
    writer = open_journal(path)
    writer.append("run.created", {})
    real_write = os.write
    full = True

    def write(handle, data):
        if not full:
            return real_write(handle, data)
        real_write(handle, bytes(data)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    writer.append("run.progress", {"step": 1})
    writer.append("guard.warning", {"text": "disk"})
    writer.append("run.progress", {"step": 2})
    assert writer.dropped == 2
    with pytest.raises(StoreError, match="disk refuses"):
        writer.require_written()
    full = False
    writer.append("run.progress", {"step": 3})
    writer.require_written()
    writer.close()
    seen = read_events(path)
    assert [e.type for e in seen] == ["run.created", "guard.warning", "run.progress"]
    assert [e.seq for e in seen] == [0, 1, 2]


def test_kill_9_loses_nothing_that_append_returned_for(path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from planner.core.clock import SystemClock\n"
        "from planner.store.journal import Journal\n"
        "j = Journal(Path(sys.argv[1]), 'r-1', SystemClock())\n"
        "for i in range(50): j.append('run.progress', {'step': i})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert RunRecord.replay(read_events(path)).step == 49


def test_a_journal_in_a_place_that_cannot_be_written_is_a_store_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="journal"):
        open_journal(tmp_path / "file" / "journal.ndjson")


# ---- what a journal means


def replay(*parts):
    clock = StepClock()
    events = [
        Event(seq=seq, ts=clock.now(), type=kind, data=data, run_id="r-1")
        for seq, (kind, data) in enumerate(parts)
    ]
    return RunRecord.replay(events)


LIFE = (
    ("run.created", {"state": "planned", "name": "digits", "budget_microusd": 1_000_000}),
    ("run.provisioning", {"state": "provisioning", "attempt": 1}),
    ("resource.acquired", {"attempt": 1, "usd_per_h": 0.1, "source": "contract"}),
    ("run.started", {"state": "running", "attempt": 1}),
    ("run.progress", {"step": 5, "epoch": 1, "spent_microusd": 40, "samples_per_s": 10.0}),
    ("run.metric", {"step": 5, "values": {"loss": 2.0}}),
    ("run.checkpoint", {"step": 5, "bytes": 100, "path": "c5", "duration_s": 0.1}),
    ("run.progress", {"step": 9, "epoch": 1, "spent_microusd": 70, "samples_per_s": 12.0}),
    ("run.metric", {"step": 9, "values": {"loss": 1.0, "val_accuracy": 0.9}}),
)


def test_a_life_replays_to_a_record():
    record = replay(*LIFE)
    assert (record.state, record.step, record.spent_microusd) == (RunState.RUNNING, 9, 70)
    assert record.metrics == {"loss": 1.0, "val_accuracy": 0.9}
    assert record.best["loss"] == (1.0, 2.0)
    assert record.checkpoint is not None and record.checkpoint.path == "c5"
    assert record.series["samples_per_s"].values == [10.0, 12.0]
    assert record.holding and record.usd_per_h == 0.1


def test_steps_since_the_checkpoint_count_as_redone_when_a_run_goes_on():
    record = replay(
        *LIFE,
        ("run.interrupted", {"state": "interrupted", "reason": "worker 0 died"}),
        ("run.provisioning", {"state": "provisioning", "attempt": 2}),
        ("run.started", {"state": "running", "attempt": 2}),
        ("run.resumed", {"step": 5, "attempt": 2}),
    )
    assert (record.step, record.steps_redone, record.attempt) == (5, 4, 2)
    assert record.interruptions == 1


def test_a_pause_is_idle_time():
    events = (*LIFE, ("run.stopping", {"state": "stopping"}), ("run.paused", {"state": "paused"}))
    paused = replay(*events)
    assert paused.total_s(START + timedelta(days=1)) == pytest.approx(len(events) - 1)
    resumed = replay(*events, ("run.provisioning", {"state": "provisioning", "attempt": 2}))
    assert resumed.idle_s == pytest.approx(1.0)
    assert resumed.ended_at is None


def test_a_decision_may_extend_the_caps_and_is_measured_later():
    decision = Decision(id="d1", at=START, action="extend", why="asked", mode="manual")
    record = replay(
        *LIFE,
        ("decision.applied", {**to_json(decision), "budget_microusd": 5_000_000}),
        ("decision.measured", {**to_json(decision), "measured": "ok"}),
    )
    assert record.budget_microusd == 5_000_000
    assert record.decisions["d1"].measured == "ok"


def test_money_never_goes_back():
    assert replay(*LIFE, ("run.progress", {"spent_microusd": 3})).spent_microusd == 70


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KEYS = (
    "state",
    "attempt",
    "values",
    "eta_s",
    "times_s",
    "log",
    "exit_codes",
    "deadline_at",
    "step",
)


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(sorted(journal_module._KNOWN)),
    data=st.dictionaries(st.sampled_from(KEYS), json_values),
)
def test_no_event_whatever_breaks_a_replay(kind, data):
    record = replay(*LIFE, (kind, data))
    assert record.last_seq == len(LIFE)


def test_missing_numbers_are_counted():
    event = Event(seq=3, ts=START, type="run.progress", data={})
    assert RunRecord.replay([event]).gaps == 3


def test_a_long_series_keeps_its_shape_in_few_points():
    series = SeriesBuffer()
    for i in range(20 * SERIES_CAP):
        series.add(float(i), float(i))
    assert SERIES_CAP <= len(series.values) <= 2 * SERIES_CAP
    assert series.at_s == series.values
    assert series.values == sorted(series.values)
    assert series.values[-1] > 19 * SERIES_CAP
