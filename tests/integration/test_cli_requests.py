"""Requests to a run: pause, cancel, resume, extend."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.fake_services import DAY, RUN_ID, FakeServices, limited, view
from support.planner_calls import Planner

from planner.core import errors
from planner.core.types import RunState
from planner.services.api import RunView


def test_pause_and_cancel_wait_until_the_run_rests(
    planner: Planner, services: FakeServices
) -> None:
    assert planner("pause", RUN_ID, "--json").document["state"] == "paused"
    assert planner("cancel", RUN_ID, "--now", "--json").document["state"] == "cancelled"
    assert services.asked("cancel") == [True]


def unkept(state: RunState = RunState.RUNNING) -> RunView:
    """A run of a script without the SDK: nothing to go on from."""
    made = view(state, last_checkpoint_at=None, last_checkpoint_step=None)
    return replace(made, plan=replace(made.plan, job=replace(made.plan.job, tier=0)))


def test_a_pause_that_loses_all_progress_asks(planner: Planner, services: FakeServices) -> None:
    services.views = [unkept()]
    assert "checkpoint  none: its script keeps no checkpoint" in planner("status", RUN_ID).out
    result = planner("pause", RUN_ID)
    assert result.code == 10
    assert "throws away all it has done (50.0 % of the work)" in result.err
    assert f"pause {RUN_ID} --yes" in result.err
    assert not services.asked("pause")
    assert planner("pause", RUN_ID, "--yes").code == 0
    assert services.asked("pause") == [RUN_ID]


def test_a_run_that_keeps_no_checkpoint_says_so_in_its_plan(
    planner: Planner, services: FakeServices
) -> None:
    says = "cannot be paused or resumed midway"
    assert says not in planner("run", "job.toml", "--yes", "--detach").err
    services.result = replace(services.result, job=replace(services.result.job, tier=0))
    assert planner("run", "job.toml", "--yes", "--detach").err.count(says) == 1


def test_a_paused_run_without_a_checkpoint_starts_from_the_beginning(
    planner: Planner, services: FakeServices
) -> None:
    services.views = [unkept(RunState.PAUSED)]
    assert "starts from the beginning when it is resumed" in planner("status", RUN_ID).out


def test_resume_asks_before_it_spends(planner: Planner, services: FakeServices) -> None:
    result = planner("resume", RUN_ID)
    assert result.code == 10
    assert not services.asked("resume")
    assert f"resume {RUN_ID} --yes" in result.err
    assert planner("resume", RUN_ID, "--yes").code == 0
    assert services.asked("resume") == [RUN_ID]


@pytest.mark.parametrize(("flags", "code"), [((), 6), (("--detach",), 0)])
def test_resume_watches_as_run_does_unless_detached(
    planner: Planner, services: FakeServices, flags: tuple[str, ...], code: int
) -> None:
    services.views = [view(), view(), view(RunState.FAILED, reason="exit code 1")]
    assert planner("resume", RUN_ID, "--yes", *flags).code == code


def test_resume_says_that_it_cannot_be_done_before_it_asks(
    planner: Planner, services: FakeServices
) -> None:
    services.fail["may resume"] = errors.TransitionError("r-7f3k is cancelled", hint="a new run")
    result = planner("resume", RUN_ID)
    assert result.code == 2
    assert "is cancelled" in result.err
    assert "--yes" not in result.err


def test_extend_shows_what_was_and_what_will_be(planner: Planner, services: FakeServices) -> None:
    services.views = [limited()]
    result = planner("extend", RUN_ID, "--deadline", "+2h", "--budget", "+2", "--yes", "--json")
    assert f"budget $1.00 -> $3.00, deadline {DAY} 10:00:00 -> 12:00:00 UTC" in result.err
    assert services.asked("extend") == [(7200.0, 2.0)]


def test_extend_asks_before_more_may_be_spent(planner: Planner, services: FakeServices) -> None:
    services.views = [limited()]
    result = planner("extend", RUN_ID, "--budget", "+2")
    assert result.code == 10
    assert "planner --state-dir" in result.err and "--budget +2 --yes" in result.err
    assert "budget $1.00 -> $3.00" in result.err
    assert not services.asked("extend")


def test_extend_says_that_it_cannot_be_done_before_it_asks(
    planner: Planner, services: FakeServices
) -> None:
    services.fail["may extend"] = errors.TransitionError("run r-7f3k has no cap", hint="none")
    result = planner("extend", RUN_ID, "--budget", "+2")
    assert result.code == 2
    assert "has no cap" in result.err
    assert "confirmation" not in result.err
