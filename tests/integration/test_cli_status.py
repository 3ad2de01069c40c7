"""What is told of runs: their status, their logs, how two of them compare."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.fake_services import DAY, RUN_ID, FakeServices, limited, view
from support.planner_calls import Planner

from planner.cli.runtext import live_line
from planner.core.distribution import Distribution
from planner.core.types import RunState
from planner.services.api import RunView


def test_status_of_one_run_tells_what_matters(planner: Planner) -> None:
    text = planner("status", "nightly").out
    for word in ("50.0 %", "epoch 6 of 10", "step 115 of 230", "16 samples/s", "$0.0122 of $1.00"):
        assert word in text


@pytest.mark.parametrize(
    ("state", "late", "says"),
    [
        (RunState.RUNNING, False, "deadline    {day} 10:00 UTC  P(on time) 0.97\n"),
        (RunState.PAUSED, False, "deadline    {day} 10:00 UTC\n"),
        (RunState.CANCELLED, False, "deadline    {day} 10:00 UTC\n"),
        (RunState.DONE, False, "deadline    {day} 10:00 UTC, kept\n"),
        (RunState.DONE, True, "deadline    {day} 10:00 UTC, missed\n"),
    ],
)
def test_the_chance_to_be_on_time_is_told_while_it_is_open(
    planner: Planner, services: FakeServices, state: RunState, late: bool, says: str
) -> None:
    made = view(state, p_deadline=0.97, late=late)
    services.views = [replace(made, plan=limited().plan)]
    assert says.format(day=DAY) in planner("status", RUN_ID).out
    assert ("P(on time)" in live_line(made)) == (state is RunState.RUNNING)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (view(), "alive"),
        (view(supervisor_alive=False), "gone"),
        (view(RunState.DONE), "ended"),
        (view(RunState.PAUSED), "ended"),
    ],
)
def test_only_a_run_that_needs_a_supervisor_has_lost_it(
    planner: Planner, services: FakeServices, made: RunView, says: str
) -> None:
    services.views = [made]
    assert f"supervisor  {says} " in planner("status", RUN_ID).out


def test_no_time_left_is_not_told(planner: Planner, services: FakeServices) -> None:
    services.views = [view(eta_s=Distribution.exactly(0.0))]
    assert "left" not in planner("status", RUN_ID).out
    assert "left" not in live_line(services.views[0])
    assert "left 7m20s" in live_line(view())


def test_status_tells_when_the_supervisor_is_gone(planner: Planner, services: FakeServices) -> None:
    services.views = [view(supervisor_alive=False, usd_per_h=0.0, samples_per_s=None)]
    answered = planner("status", RUN_ID)
    text = answered.out
    assert answered.code == 0, "a question that was answered"
    assert "running (supervisor gone)" in text
    assert f"planner resume {RUN_ID} goes on from step 92" in text
    assert "checkpoint  at step 92, " in text
    assert "/h now" not in text and "speed       -" in text
    document = planner("status", RUN_ID, "--json").document
    assert document["supervisor_alive"] is False
    assert document["last_checkpoint"]["step"] == 92
    services.summaries = (view(supervisor_alive=False).summary,)
    assert "running (supervisor gone)" in planner("status").out


def test_status_since_prints_the_events_a_reader_missed(planner: Planner) -> None:
    lines = planner("status", RUN_ID, "--since", "0").out.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2]


def test_status_without_runs(planner: Planner, services: FakeServices) -> None:
    services.summaries = ()
    assert "no runs yet" in planner("status").out
    assert planner("status", "--json").document["runs"] == []


def test_logs_filters(planner: Planner) -> None:
    everything = planner("logs", RUN_ID).out.splitlines()
    assert everything == [
        "11:40:00 planner: launched",
        "epoch 1 loss 0.91",
        "[1] epoch 1 done",
    ]
    assert planner("logs", RUN_ID, "--grep", "loss").out == "epoch 1 loss 0.91\n"
    assert "planner:" not in planner("logs", RUN_ID, "--source", "train").out
    assert planner("logs", RUN_ID, "--since", "5m").out == "", "all of it is from another day"


def test_logs_follow_until_the_run_rests(planner: Planner, services: FakeServices) -> None:
    services.views = [view(), view(), view(RunState.DONE)]
    result = planner("logs", "-f", RUN_ID)
    assert result.code == 0
    assert result.out.count("loss 0.91") == 1
    assert len(services.asked("logs")) == 3


def test_compare_says_first_when_the_work_differs(planner: Planner) -> None:
    lines = planner("compare", "r-a", "r-b").out.splitlines()
    assert lines[0] == "! B trains on other data"
    assert "5m00s" in lines[2]
    assert "+10.0 %" in lines[2]


def test_compare_shortens_digests_in_its_table_only(
    planner: Planner, services: FakeServices
) -> None:
    digests = f"sha256:{'a1' * 32}", f"sha256:{'b2' * 32}"
    text = f"code or data: {' against '.join(digests)}"
    services.differences = (text,)
    first = planner("compare", "r-a", "r-b").out.splitlines()[0]
    assert first == "! code or data: sha256:a1a1a1a1a1a1 against sha256:b2b2b2b2b2b2"
    assert text in planner("compare", "r-a", "r-b", "--json").document["differences"]


@pytest.mark.parametrize(
    ("gate", "code"),
    [
        (("--fail-if-time-increase", "5%"), 3),
        (("--fail-if-time-increase", "10%"), 0),
        (("--fail-if-cost-increase", "0%"), 0),
    ],
)
def test_compare_gates(planner: Planner, gate: tuple[str, str], code: int) -> None:
    assert planner("compare", "r-a", "r-b", *gate).code == code
