"""`planner run` and `planner attach`: what is launched, what is shown, how it ends."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.fake_services import DAY, DAY_AFTER, RUN_ID, FakeServices, limited, view
from support.planner_calls import Planner
from support.planning import NOW, all_failed, estimate

from planner.core.events import Event
from planner.core.plan import Decision
from planner.core.types import RunState, Warning_
from planner.services.api import LaunchRequest


def _launched(services: FakeServices) -> LaunchRequest:
    (request,) = services.asked("launch")
    assert isinstance(request, LaunchRequest)
    return request


def test_run_shows_the_plan_launches_the_pick_and_tells_how_it_ended(
    planner: Planner, services: FakeServices
) -> None:
    result = planner("run", "job.toml", "--deadline", "1h", "--budget", "1", "--yes")
    assert result.code == 0
    request = _launched(services)
    assert request.option_id == request.estimate.recommendation.option_id
    assert request.max_usd_per_h == request.estimate.options[0].price.usd_per_h
    assert "P(on time)" in result.err
    last = result.out.splitlines()[-1]
    assert last.startswith("r-7f3k done  time 14m40s (predicted ")
    assert "inside)" in last
    assert "cost $0.0122 (predicted" in last
    assert "test_accuracy 0.956" in last


def test_without_a_terminal_and_without_yes_it_ends_with_10(
    planner: Planner, services: FakeServices
) -> None:
    result = planner("run", "--name", "a-b", "--", "python", "my train.py")
    assert result.code == 10
    assert "run --name a-b --yes -- python 'my train.py'\n" in result.err
    assert not services.asked("launch")


def test_run_takes_another_option_by_unique_prefix(
    planner: Planner, services: FakeServices
) -> None:
    other = services.result.options[2].id
    assert planner("run", "job.toml", "--yes", "--option", other[:5]).code == 0
    assert _launched(services).option_id == other


@pytest.mark.parametrize("wanted", ["o", "ozzz"])
def test_an_option_that_is_not_one_is_refused(
    planner: Planner, services: FakeServices, wanted: str
) -> None:
    result = planner("run", "job.toml", "--yes", "--option", wanted)
    assert result.code == 2
    assert services.result.options[0].id in result.err
    assert not services.asked("launch")


def test_nothing_feasible_is_not_launched_unless_an_option_is_named(
    planner: Planner, services: FakeServices
) -> None:
    result = planner("run", "job.toml", "--deadline", "1m", "--yes")
    assert result.code == 3
    assert "least bad" in result.err
    assert not services.asked("launch")
    fastest = services.result.options[2].id
    assert planner("run", "job.toml", "--deadline", "1m", "--yes", "--option", fastest).code == 0


def test_run_with_every_probe_failed_ends_with_5(planner: Planner, services: FakeServices) -> None:
    services.result = all_failed()
    assert planner("run", "job.toml", "--yes").code == 5
    assert not services.asked("launch")


@pytest.mark.parametrize(("age_s", "reused"), [(30, True), (3000, False)])
def test_a_fresh_estimate_is_reused_under_the_new_goal(
    planner: Planner, services: FakeServices, age_s: float, reused: bool
) -> None:
    made = datetime.fromtimestamp(datetime.now(UTC).timestamp() - age_s, UTC)
    services.kept = replace(estimate(), created_at=made)
    planner("run", "job.toml", "--yes", "--budget", "3")
    assert bool(services.asked("estimate")) != reused
    assert _launched(services).estimate.goal.budget_usd == 3.0


@pytest.mark.parametrize("kept", [True, False])
def test_what_to_bear_in_mind_is_told_before_a_launch(
    planner: Planner, services: FakeServices, kept: bool
) -> None:
    doubt = Warning_(
        code="probe.only_one", text="Everything rests on one probe.", hint="probe more"
    )
    services.result = replace(services.result, warnings=(doubt,))
    if kept:
        services.kept = replace(services.result, created_at=datetime.now(UTC))
    result = planner("run", "job.toml", "--yes", "--detach")
    assert result.code == 0
    assert result.err.index("warning: Everything rests on one probe.") < result.err.index("runs on")


def test_a_printed_plan_can_be_run(
    planner: Planner, services: FakeServices, tmp_path: Path
) -> None:
    services.estimates["e-0000001"] = services.result
    (tmp_path / "plan.json").write_text(planner("estimate", "job.toml", "--json").out)
    services.calls.clear()
    result = planner("run", "--plan", "plan.json", "--yes", "--detach", "--json")
    assert result.document["run_id"] == RUN_ID
    assert not services.asked("estimate")
    assert _launched(services).estimate.id == "e-0000001"


def test_a_plan_that_is_not_kept_here_is_refused(planner: Planner, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(planner("estimate", "job.toml", "--json").out)
    result = planner("run", "--plan", "plan.json", "--yes")
    assert result.code == 2
    assert "not kept" in result.err


def test_flags_of_run_reach_the_launch(planner: Planner, services: FakeServices) -> None:
    flags = ("--name", "nightly2", "--retry", "0", "--max-price", "0.5", "--controller", "off")
    assert planner("run", "job.toml", "--yes", *flags).code == 0
    request = _launched(services)
    assert (request.name, request.retries, request.max_usd_per_h) == ("nightly2", 0, 0.5)
    assert request.controller == "off"


@pytest.mark.parametrize("name", ["nightly", "digits"])
def test_a_second_run_of_a_live_name_attaches(
    planner: Planner, services: FakeServices, name: str
) -> None:
    services.summaries = (view(RunState.RUNNING, name=name).summary,)
    flags = ("--name", name) if name != "digits" else ()  # the job's own name counts as one
    result = planner("run", "job.toml", *flags, "--yes")
    assert result.code == 0
    assert "attaching" in result.err
    assert not services.asked("estimate") + services.asked("launch")


def test_a_run_that_is_joined_is_not_told_as_launched(
    planner: Planner, services: FakeServices
) -> None:
    services.summaries = (view(name="digits").summary,)
    services.views = [limited()]
    asked = ("--budget", "5", "--deadline", f"{DAY_AFTER}T10:00Z")
    result = planner("run", "job.toml", "--yes", "--detach", *asked)
    assert result.code == 0
    assert result.out == f"{RUN_ID} attached, not launched: planner attach {RUN_ID}\n"
    assert "budget $1.00, $5.00 asked for" in result.err
    assert f"deadline {DAY} 10:00:00 UTC, {DAY_AFTER} 10:00:00 asked for" in result.err
    assert f"planner extend {RUN_ID}" in result.err
    assert "warning" not in planner("run", "job.toml", "--yes", "--detach", "--budget", "1").err


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--budget", "0.0001"), "budget $1.00, $0.0001 asked for"),
        (("--deadline", "{day}T09:00Z"), "{day} 09:00:00 asked for"),
        (("--max-price", "0.01"), "$0.0100/h asked for"),
        (("--option", "ozzz"), "ozzz asked for"),
    ],
)
def test_a_run_that_does_not_keep_to_what_is_asked_for_is_not_joined(
    planner: Planner, services: FakeServices, asked: tuple[str, ...], says: str
) -> None:
    services.summaries = (view(name="digits").summary,)
    services.views = [limited()]
    flags = (flag.format(day=DAY) for flag in asked)
    result = planner("run", "job.toml", "--yes", "--detach", *flags)
    assert (result.code, result.out) == (2, "")
    assert says.format(day=DAY) in result.err
    assert f"planner attach {RUN_ID}" in result.err
    assert not services.asked("estimate") + services.asked("launch")


@pytest.mark.parametrize(
    ("final", "code"),
    [
        (view(RunState.DONE), 0),
        (view(RunState.DONE, late=True), 8),
        (view(RunState.FAILED, reason="exit code 1 at step 7"), 6),
        (view(RunState.STOPPED_BY_CAP, reason="cap of $1.00"), 7),
        (view(RunState.CANCELLED), 130),
        (view(RunState.PAUSED), 0),
    ],
    ids=lambda v: v.summary.state.value if hasattr(v, "summary") else "",
)
@pytest.mark.parametrize("command", ["run", "attach"])
def test_exit_codes_of_a_run(
    planner: Planner, services: FakeServices, final: Any, code: int, command: str
) -> None:
    services.views = [view(), final]
    call = ("run", "job.toml", "--yes") if command == "run" else ("attach", RUN_ID)
    result = planner(*call)
    assert result.code == code
    if final.summary.reason:
        assert final.summary.reason in result.err


def test_what_was_not_released_ends_with_12(planner: Planner, services: FakeServices) -> None:
    leak = Event(
        seq=3,
        ts=services.journal[0].ts,
        type="resource.leaked",
        data={"text": "pid 17", "key": "k"},
    )
    services.journal.append(leak)
    result = planner("run", "job.toml", "--yes")
    assert result.code == 12
    assert "pid 17" in result.err
    assert "planner clean --leaked --yes" in result.err
    services.journal.append(replace(leak, seq=4, type="resource.released", data={"key": "k"}))
    services.views = [view(RunState.DONE)]
    assert planner("run", "job.toml", "--yes").code == 0


def test_a_run_whose_supervisor_is_gone_is_not_waited_for(
    planner: Planner, services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planner.cli.watch.ORPHAN_S", 0.0)
    services.views = [view(supervisor_alive=False)]
    result = planner("attach", RUN_ID)
    assert result.code == 4
    assert result.out.splitlines()[-1].startswith(f"{RUN_ID} running (supervisor gone)  time")
    assert f"planner resume {RUN_ID}" in result.err


def test_piped_output_is_a_line_per_change(planner: Planner, services: FakeServices) -> None:
    services.views = [view(epoch=5), view(epoch=5), view(epoch=6), view(RunState.DONE)]
    lines = planner("run", "job.toml", "--yes").out.splitlines()
    assert sum(line.startswith("r-7f3k  running") for line in lines) == 2
    assert any("hold: all inside plan" in line for line in lines)
    assert lines.count("warning: 80 % of the cap is spent") == 1


def test_why_a_run_failed_is_told_once(planner: Planner, services: FakeServices) -> None:
    again = Decision(id="d1", at=NOW, action="start again", why="no torch", mode="guarded")
    gave_up = replace(again, id="d3", action="give up", why="no torch; 2 retries are used up")
    failed = view(RunState.FAILED, reason="no torch", decisions=(again, again, gave_up))
    services.views = [view(decisions=(again,)), view(decisions=(again, again)), failed]
    result = planner("run", "job.toml", "--yes")
    assert "start again: no torch" in result.out
    assert "start again: as before" in result.out
    assert "give up: 2 retries are used up" in result.out
    assert result.err.count("no torch") == 1


def test_ndjson_of_a_run_holds_its_events_once(planner: Planner, services: FakeServices) -> None:
    services.views = [view(), view(), view(RunState.DONE)]
    events = [
        json.loads(line)
        for line in planner("run", "job.toml", "--yes", "--ndjson").out.splitlines()
    ]
    mine = [event for event in events if event["run_id"] == RUN_ID]
    assert [event["seq"] for event in mine] == [0, 1, 2]
    assert events[-1]["type"] == "run.finished"
