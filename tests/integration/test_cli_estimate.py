"""`planner estimate`: what it asks the services for, what it shows, how it ends."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
from support.fake_services import FakeServices
from support.planner_calls import Planner
from support.planning import all_failed, candidate, estimate, probe

from planner.cli import invocation
from planner.core.types import EstimateResult, Warning_
from planner.services.live import LiveServices
from planner.wire.published import generate


def test_estimate_asks_for_the_goal_that_was_typed(
    planner: Planner, services: FakeServices
) -> None:
    planner("estimate", "job.toml", "--deadline", "10m", "--budget", "$2", "--prefer", "time")
    (request,) = services.asked("estimate")
    assert request.goal.deadline_s == 600
    left_s = (request.goal.deadline_at - datetime.now(UTC)).total_seconds()
    assert left_s == pytest.approx(600, abs=30)
    assert (request.goal.budget_usd, request.goal.prefer) == (2.0, "time")
    assert request.job.name == "digits"


def test_estimate_passes_its_caps_on(planner: Planner, services: FakeServices) -> None:
    planner("estimate", "job.toml", "--max-probe-cost", "0.5", "--max-probe-time", "15m", "--fresh")
    (request,) = services.asked("estimate")
    assert (request.max_probe_cost_usd, request.max_probe_time_s) == (0.5, 900)
    assert (request.fresh, request.probe) == (True, True)


def test_estimate_of_a_command_line(planner: Planner, services: FakeServices) -> None:
    assert planner("estimate", "--", "python", "train.py", "--epochs", "3").code == 0
    (request,) = services.asked("estimate")
    assert request.job.command[:2] == ("python", "train.py")
    assert request.job.epochs == 3


def test_ndjson_has_no_gaps_and_ends_with_the_document_of_json(planner: Planner) -> None:
    events = [
        json.loads(line) for line in planner("estimate", "job.toml", "--ndjson").out.splitlines()
    ]
    for event in events:
        jsonschema.validate(event, generate("event"))
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "estimate.started"
    assert events[-1]["type"] == "estimate.completed"
    assert [e["type"] for e in events].count("estimate.completed") == 1
    finished = next(event for event in events if event["type"] == "probe.finished")
    assert finished["data"]["probe"] == events[-1]["data"]["probes"][0]
    assert events[-1]["data"] == planner("estimate", "job.toml", "--json").document


def test_progress_is_a_line_per_probe_on_stderr(planner: Planner, services: FakeServices) -> None:
    services.result = estimate(probes=(probe(), probe("failed", error="exit code 1: no torch")))
    result = planner("estimate", "job.toml", "--json")
    assert "probe 1: 1 worker x 16: ok, step 110.0 ms" in result.err
    assert "probe 2: 1 worker x 16: failed: exit code 1: no torch" in result.err


@pytest.mark.parametrize("command", ["estimate", "run"])
def test_why_a_script_fails_is_told_once_and_what_to_do_once(
    planner: Planner, services: FakeServices, command: str
) -> None:
    failing = (probe("failed", error="no torch"), probe("failed", error="no torch"))
    services.result = replace(
        estimate(candidates=[], probes=failing),
        warnings=(_warning("no torch"), _warning("few cores")),
    )
    result = planner(command, "job.toml")
    assert result.err.splitlines() == [
        "probe 1: 1 worker x 16: failed: no torch",
        "probe 2: 1 worker x 16: failed: as probe 1",
        "planner: No option can be offered: no probe ended well.",
        "  planner estimate -v shows what the probes printed",
    ]
    assert "no torch" not in result.out
    quiet = planner("-q", command, "job.toml").err
    assert services.result.recommendation.text in quiet, "where nothing was told before, in full"


def test_where_nothing_was_measured_it_says_what_measures(
    planner: Planner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(invocation, "open_services", lambda _: LiveServices(tmp_path / "state"))
    result = planner("estimate", "job.toml", "--no-probe")
    assert result.code == 5
    assert "nothing has been measured for this job here" in result.err
    assert "estimate without --no-probe measures it" in result.err


def test_a_cap_that_let_nothing_be_tried_is_what_to_raise(
    planner: Planner, services: FakeServices
) -> None:
    services.result = estimate(candidates=[], probes=(probe("skipped", error="over the cap"),))
    result = planner("estimate", "job.toml")
    assert result.code == 5
    assert "raise --max-probe-time or --max-probe-cost" in result.err


def test_why_one_probe_failed_is_not_told_again_as_a_warning(
    planner: Planner, services: FakeServices
) -> None:
    probes = (probe(), probe("failed", error="no torch"))
    services.result = replace(
        estimate(probes=probes), warnings=(_warning("probe 2: no torch"), _warning("few cores"))
    )
    result = planner("estimate", "job.toml")
    assert result.err.count("no torch") == 1
    assert "warning: few cores" in result.err


def _warning(text: str) -> Warning_:
    return Warning_(code="probe.failed", text=text, hint="look")


def _stale(source: str) -> EstimateResult:
    made = candidate()
    old = replace(made.offer.price, source=source, stale=source == "cache", age_s=9000)  # type: ignore[arg-type]
    return estimate(candidates=[replace(made, offer=replace(made.offer, price=old))])


@pytest.mark.parametrize(
    ("result", "flags", "code"),
    [
        (estimate(), (), 0),
        (estimate(), ("--deadline", "1h", "--budget", "9"), 0),
        (estimate(), ("--deadline", "2m"), 3),
        (estimate(), ("--budget", "0.0001"), 3),
        (estimate(), ("--deadline", "2m", "--fail-on", "infeasible"), 3),
        (all_failed(), (), 5),
        (all_failed(), ("--deadline", "2m"), 5),
        (_stale("cache"), (), 0),
        (_stale("cache"), ("--fail-on", "stale"), 9),
        (_stale("static"), ("--fail-on", "stale"), 9),
        (_stale("live"), ("--fail-on", "stale"), 0),
        (estimate(), ("--fail-on", "uncalibrated"), 5),
        (estimate(), ("--fail-on", "stale"), 0),
    ],
)
@pytest.mark.parametrize("form", ["plain", "json", "ndjson"])
def test_exit_codes_of_estimate_and_the_document_is_complete(
    planner: Planner,
    services: FakeServices,
    result: EstimateResult,
    flags: tuple[str, ...],
    code: int,
    form: str,
) -> None:
    services.result = result
    form_flag = () if form == "plain" else (f"--{form}",)
    ended = planner("estimate", "job.toml", *flags, *form_flag)
    assert ended.code == code
    if code:
        assert "planner: " in ended.err
    if form == "json":
        jsonschema.validate(ended.document, generate("estimate"))
        assert len(ended.document["options"]) == len(result.options)
        assert len(ended.document["probes"]) == len(result.probes)


def test_limit_keeps_the_best_options(planner: Planner) -> None:
    document = planner("estimate", "job.toml", "--json", "--limit", "2").document
    assert [o["rank"] for o in document["options"]] == [1, 2]
    assert document["recommendation"]["option_id"] == document["options"][0]["id"]


def test_refused_options_are_hidden_until_asked_for(planner: Planner) -> None:
    few = planner("estimate", "job.toml", "--deadline", "400s").out
    every = planner("estimate", "job.toml", "--deadline", "400s", "--all").out
    assert "2 more, refused or worse in all respects: --all" in few
    assert "deadline.missed" not in few
    assert every.count("deadline.missed") == 2
