"""`checkpoint_interval=auto`: the interval follows what checkpoints cost the run."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from planner.core.adjust import planned
from planner.core.daly import MINIMUM_S, checkpoint_interval_s
from planner.services.supervisor.controlfile import ControlFile
from planner.services.supervisor.intervals import HAZARD_PER_H, AutoInterval
from planner.services.supervisor.progress import Progress
from tests.support.runs import fake_estimate, plan_of


class Case:
    """A run whose interval planner chooses, and what it decided."""

    def __init__(self, tmp_path):
        plan = plan_of(fake_estimate(tmp_path), "r-1")
        self.now = replace(planned(plan), checkpoint_auto=True)
        self.control = tmp_path / "control.json"
        self.progress = Progress(plan)
        self.decisions = []
        book = SimpleNamespace(decide=lambda action, why, **more: self.decisions.append(more))
        self._auto = AutoInterval(book, ControlFile(self.control, 60.0), self.progress)

    def interval_s(self):
        self.now = self._auto.look(self.now)
        return self.now.knobs.checkpoint_interval_s

    def checkpoints(self, count=5, **took):
        for _ in range(count):
            self.progress.take({"type": "checkpoint", "step": 1, **took})


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


def test_before_a_checkpoint_was_seen_it_stays(case):
    assert case.interval_s() == case.now.knobs.checkpoint_interval_s
    assert not case.decisions and not case.control.exists()


def test_it_follows_the_time_that_training_stands_still(case):
    case.checkpoints(duration_s=20.0, stall_s=1.0)
    expected = checkpoint_interval_s(1.0, HAZARD_PER_H, workers=case.now.workers)
    assert case.interval_s() == pytest.approx(expected)
    assert json.loads(case.control.read_text())["checkpoint_interval_s"] == pytest.approx(expected)
    assert case.decisions[0]["observation"]["stall_s"] == 1.0
    assert case.decisions[0]["observation"]["checkpoint_s"] == 20.0


def test_the_whole_time_counts_where_nothing_is_said_of_the_stall(case):
    case.checkpoints(duration_s=20.0)
    expected = checkpoint_interval_s(20.0, HAZARD_PER_H, workers=case.now.workers)
    assert case.interval_s() == pytest.approx(expected)


@pytest.mark.parametrize(("written_s", "least_s"), [(2.0, MINIMUM_S), (900.0, 900.0)])
def test_the_next_one_does_not_begin_before_the_last_is_on_the_disk(case, written_s, least_s):
    case.checkpoints(duration_s=written_s, stall_s=0.0)
    assert case.interval_s() == least_s


def test_it_stays_until_one_of_the_two_changes_by_a_fifth(case):
    case.checkpoints(duration_s=2.0, stall_s=0.0)
    case.interval_s()
    case.checkpoints(duration_s=2.2, stall_s=0.0)
    case.interval_s()
    assert len(case.decisions) == 1
    case.checkpoints(duration_s=2.2, stall_s=0.1)
    case.interval_s()
    case.checkpoints(duration_s=900.0, stall_s=0.1)
    assert case.interval_s() == pytest.approx(900.0)
    assert len(case.decisions) == 3
