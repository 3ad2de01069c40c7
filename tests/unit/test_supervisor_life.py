"""The life of a run on a clock that jumps: attempts, what is told of them, the end."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from planner.core.types import RunState
from planner.services.supervisor.book import LoopSettings
from tests.support.runs import FakeClock, make_case


def test_a_run_that_goes_well(tmp_path):
    case = make_case(tmp_path)
    assert case.go() is RunState.DONE
    assert case.kinds() == [
        "run.created",
        "run.provisioning",
        "resource.acquired",
        "run.started",
        "resource.released",
        "run.finished",
    ]
    assert case.states() == ["planned", "provisioning", "running", "done"]
    record = case.record
    assert (record.step, record.steps_total, record.progress) == (200, 200, 1.0)
    assert record.metrics.keys() >= {"loss", "val_accuracy"}
    assert record.checkpoint is not None and record.checkpoint.step == 200
    assert record.spent_microusd == pytest.approx(record.held_s * 1000, rel=1e-6)
    report = json.loads(case.run.report.read_text())
    assert report["time_s"]["within"] is True
    assert report["cost_usd"]["within"] is True
    assert report["metrics"]["val_accuracy"] > 0.7
    assert report["times_s"]["steps"] > 0.8 * report["held_s"]


def test_numbers_of_the_journal_have_no_gaps_and_replay_to_the_same(tmp_path):
    case = make_case(tmp_path)
    case.go()
    assert [e.seq for e in case.events] == list(range(len(case.events)))
    assert case.record.gaps == 0


def test_six_hours_replay_in_a_moment_and_twice_the_same(tmp_path):
    """Six hours of steps of ten seconds; the wall time is only told, as machines differ."""
    looks = LoopSettings(poll_s=5.0)
    law = {"samples": 7200, "epochs": 3, "global_batch": 10, "sample_s": 1.0, "tail_s": 25.0}
    journals = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        case = make_case(tmp_path / name, settings=looks, checkpoint_interval_s=600.0, **law)
        began = time.perf_counter()
        assert case.go() is RunState.DONE
        print(f"six hours took {time.perf_counter() - began:.2f} s")
        assert case.clock.elapsed_s > 6 * 3600
        journals.append([(e.seq, e.ts, e.type, e.data.get("step")) for e in case.events])
    assert journals[0] == journals[1]
    assert len(journals[0]) < 25_000


def test_progress_is_told_at_most_every_two_seconds(tmp_path):
    case = make_case(tmp_path)
    case.go()
    at = [e.ts for e in case.events if e.type == "run.progress"]
    gaps = [(b - a).total_seconds() for a, b in pairwise(at[:-1])]
    assert min(gaps) >= 2.0
    metrics = [e for e in case.events if e.type == "run.metric"]
    assert len(metrics) <= 2 * len(at)


def test_the_remaining_time_is_near_the_truth(tmp_path):
    case = make_case(tmp_path)
    case.go()
    events = case.events
    end = events[-1].ts
    told = [e for e in events if e.type == "run.progress" and e.data["eta_s"]]
    inside = 0
    for event in told:
        left_s = (end - event.ts).total_seconds()
        quantiles = event.data["eta_s"]
        assert quantiles[10] == pytest.approx(left_s, rel=0.25, abs=6.0)
        inside += quantiles[0] - 5 <= left_s <= quantiles[-1] + 5
    assert inside > 0.9 * len(told)


def test_the_fake_clock_of_these_tests_is_one(tmp_path):
    clock = FakeClock()
    clock.sleep(5)
    assert clock.monotonic_s() == 5
    assert replace(make_case(tmp_path).plan, retries=1).retries == 1
