"""Every command: what goes to which stream, what it asks the services for, how it ends."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.fake_services import RUN_ID, FakeServices, view
from support.planner_calls import Planner
from support.planning import NOW, candidate, estimate, probe, three_candidates

from planner.cli import invocation
from planner.cli.runtext import live_line
from planner.core import errors
from planner.core.distribution import Distribution
from planner.core.events import Event
from planner.core.plan import Decision
from planner.core.types import EstimateResult, Goal, JobSpec, RunState, Warning_
from planner.services.api import Check, LaunchRequest, RunView
from planner.services.live import LiveServices
from planner.wire.published import generate
from runners.base import Leftover

GOLDEN = Path(__file__).parent.parent / "golden"
DEADLINE = (datetime.now(UTC) + timedelta(days=1)).replace(
    hour=10, minute=0, second=0, microsecond=0
)
"""Of the run that has one: still to come, on whatever day the tests are run."""
DAY = f"{DEADLINE:%Y-%m-%d}"
DAY_AFTER = f"{DEADLINE + timedelta(days=1):%Y-%m-%d}"

JSON_CALLS = {
    "estimate": ("estimate", "job.toml", "--json"),
    "run": ("run", "job.toml", "--yes", "--json"),
    "run detached": ("run", "job.toml", "--yes", "--detach", "--json"),
    "runs": ("status", "--json"),
    "status": ("status", RUN_ID, "--json"),
    "attach": ("attach", RUN_ID, "--json"),
    "pause": ("pause", RUN_ID, "--json"),
    "resume": ("resume", RUN_ID, "--yes", "--json"),
    "resume detached": ("resume", RUN_ID, "--yes", "--detach", "--json"),
    "cancel": ("cancel", RUN_ID, "--json"),
    "extend": ("extend", RUN_ID, "--budget", "+5", "--yes", "--json"),
    "adjust": ("adjust", RUN_ID, "workers=2", "--yes", "--json"),
    "compare": ("compare", "r-a", "r-b", "--json"),
    "doctor": ("doctor", "--json"),
    "clean": ("clean", "--json"),
}
SCHEMAS = {
    "estimate": "estimate",
    "runs": "runs",
    "adjust": "adjust",
    "compare": "comparison",
    "doctor": "doctor",
    "clean": "clean",
}
PLAIN_CALLS = {
    **{name: tuple(a for a in call if a != "--json") for name, call in JSON_CALLS.items()},
    "logs": ("logs", RUN_ID),
    "schema": ("schema", "estimate"),
    "version": ("version",),
    "help": ("--help",),
}
FIRST_ASKED = {
    "estimate": "estimate",
    "run": "launch",
    "run detached": "launch",
    "runs": "runs",
    "status": "view",
    "attach": "view",
    "pause": "pause",
    "resume": "resume",
    "resume detached": "resume",
    "cancel": "cancel",
    "extend": "extend",
    "adjust": "may adjust",
    "compare": "compare",
    "doctor": "doctor",
    "clean": "leftovers",
}
ERRORS = [
    errors.UsageError("bad value", hint="a better one"),
    errors.DataError("data/: empty"),
    errors.EnvironmentFault("scheduler is away"),
    errors.RunnerError("no free slot"),
    errors.StoreError("state directory is read-only"),
    errors.EvidenceError("every probe failed"),
    errors.PriceMovedError("it costs $2/h now"),
    errors.CleanupError("process 17 is still there"),
    errors.NotFoundError("no such thing"),
]


# ---- streams -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", JSON_CALLS)
def test_json_prints_one_valid_document(planner: Planner, name: str) -> None:
    result = planner(*JSON_CALLS[name])
    assert result.code == (errors.ExitCode.INTERRUPT if name == "x" else 0), result.err
    jsonschema.validate(result.document, generate(SCHEMAS.get(name, "run")))


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("name", JSON_CALLS)
def test_json_prints_an_error_document_when_services_fail(
    planner: Planner, services: FakeServices, name: str, error: errors.PlannerError
) -> None:
    services.fail[FIRST_ASKED[name]] = error
    result = planner(*JSON_CALLS[name])
    assert result.code == error.exit_code
    jsonschema.validate(result.document, generate("error"))
    assert result.document["text"] == error.text
    assert result.document["exit_code"] == result.code
    assert error.text in result.err


@pytest.mark.parametrize("name", [n for n in PLAIN_CALLS if n in FIRST_ASKED])
def test_without_json_a_failure_speaks_on_stderr_only(
    planner: Planner, services: FakeServices, name: str
) -> None:
    services.fail[FIRST_ASKED[name]] = errors.RunnerError("no free slot", hint="wait")
    result = planner(*PLAIN_CALLS[name])
    assert result.code == 4
    assert result.out == ""
    assert "planner: no free slot\n  wait" in result.err


@pytest.mark.parametrize("name", PLAIN_CALLS)
def test_no_escape_sequences_when_not_on_a_terminal(planner: Planner, name: str) -> None:
    result = planner(*PLAIN_CALLS[name])
    assert result.code == 0
    assert result.out
    assert "\x1b" not in result.out + result.err


@pytest.mark.parametrize("name", JSON_CALLS)
def test_quiet_says_nothing_when_all_is_well(planner: Planner, name: str) -> None:
    assert planner("-q", *JSON_CALLS[name]).err == ""


def test_global_options_may_stand_anywhere(planner: Planner, tmp_path: Path) -> None:
    assert planner("estimate", "job.toml", "--json", "-q").err == ""
    shown = planner("config", "path", f"--state-dir={tmp_path / 'elsewhere'}").out
    assert str(tmp_path / "elsewhere") in shown
    assert planner("status", "--state-dir").code == 2


def test_a_usage_error_with_json_is_a_document_too(planner: Planner) -> None:
    result = planner("estimate", "--json", "--no-such-flag")
    assert result.code == 2
    assert result.document["code"] == "usage"
    assert "--no-such-flag" in result.document["text"]
    both = planner("estimate", "job.toml", "--json", "--ndjson")
    assert (both.code, both.document["hint"]) == (2, "give one of them")


def test_numbers_that_the_locale_or_a_name_break_are_printed_all_the_same(
    planner: Planner, services: FakeServices
) -> None:
    services.lines = (replace(services.lines[0], text="caf\udce9 \u2713"),)
    result = planner("logs", RUN_ID)
    assert result.code == 0
    assert "caf" in result.out


# ---- help --------------------------------------------------------------------------------------


def _golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"{name} changed: UPDATE_GOLDEN=1 writes it again"


def test_golden_help(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _golden("help.txt", planner("--help").out)
    _golden("help-estimate.txt", planner("estimate", "--help").out)
    _golden("help-run.txt", planner("run", "--help").out)


def test_golden_estimate_table(planner: Planner, services: FakeServices) -> None:
    services.result = estimate(
        candidates=[*three_candidates(), candidate(950, 0.06, workers=1, micro_batch=32)]
    )
    result = planner("estimate", "job.toml", "--deadline", "1h", "--budget", "5", "--all")
    _golden("estimate-table.txt", re.sub(r"\(\d\d:\d\d UTC\)", "(HH:MM UTC)", result.out))


@pytest.mark.parametrize("name", [*(n for n in FIRST_ASKED if " " not in n), "logs", "config"])
def test_every_command_explains_itself(planner: Planner, name: str) -> None:
    name = "status" if name == "runs" else name
    result = planner(name, "--help")
    assert result.code == 0
    assert result.out.startswith(f"Usage: planner {name}")


def test_the_line_in_the_root_help_is_the_commands_own(planner: Planner) -> None:
    from planner.cli.lazy import COMMANDS

    for name, (_, line) in COMMANDS.items():
        shown = " ".join(planner(name, "--help").out.split())
        assert line.rstrip(".") in shown, name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("estmate",), "did you mean planner estimate?"),
        (("run", "--controler", "x"), "--controler"),
        (("estimate", "job.toml", "--confidence", "2"), "less than or equal to 0.99"),
        (("estimate", "job.toml", "--prefer", "luck"), "cost, time or risk"),
        (("estimate", "job.toml", "--deadline", "30"), "30 what?"),
        (("estimate", "job.toml", "--deadline", "-5m"), "negative"),
        (("estimate", "job.toml", "--deadline", "2001-01-01T00:00Z"), "past"),
        (("estimate", "job.toml", "--budget", "0"), "no money"),
        (("estimate", "job.toml", "--budget", "-3"), "negative"),
        (("estimate", "job.toml", "--fail-on", "rain"), "uncalibrated"),
        (("estimate", "job.toml", "--where", "slurm"), 'no place "slurm"'),
        (("estimate", "job.toml", "--no-probe", "--fresh"), "not both"),
        (("estimate", "nowhere.toml"), "nowhere.toml"),
        (("estimate",), "planner init --"),
        (("estimate", "job.toml", "--", "python", "train.py"), "not both"),
        (("status", "--", "python"), "init, estimate and run only"),
        (("status", "--since", "3"), "needs a run"),
        (("status", "r-zzzz"), "r-zzzz"),
        (("logs", RUN_ID, "--grep", "("), "regular expression"),
        (("logs", RUN_ID, "--source", "moon"), "train or planner"),
        (("extend", RUN_ID), "nothing to extend"),
        (
            ("extend", RUN_ID, "--budget", "2", "--yes"),
            "say --budget +2 to add 2 USD; for",
        ),
        (("extend", RUN_ID, "--deadline", "20m"), "20m can mean 20m more, or 20m in all"),
        (("extend", RUN_ID, "--deadline", "+30"), "30 what?"),
        (("compare", "r-a"), "one thing"),
        (("compare", "a", "b", "--fail-if-cost-increase", "ten"), "not a percentage"),
        (("schema", "moon"), "estimate"),
        (("run", "job.toml", "--controller", "wild"), "guarded"),
        (("run", "job.toml", "--yes", "--max-price", "abc"), "abc"),
        (("run", "job.toml", "--yes", "--name", "../x"), "--name may hold letters"),
        (("run", "job.toml", "--yes", "--name", ""), "--name may hold letters"),
        (("run", "job.toml", "--plan", "plan.json"), "its own job"),
        (("run", "--plan", "job.toml", "--yes"), "not JSON"),
        (("run", "--plan", "nowhere.json", "--yes"), "cannot be read"),
        (("--demo", "status"), "terminal app"),
        ((), "needs a terminal"),
        (("job.toml",), "needs a terminal"),
        (("job.toml", "--deadlin", "6h"), "planner JOB.toml --help"),
        (("--deadline", "6h"), "planner JOB.toml --deadline ..."),
        (("init",), "no command"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_named_and_ends_with_2(
    planner: Planner, services: FakeServices, arguments: tuple[str, ...], says: str
) -> None:
    result = planner(*arguments)
    assert result.code == 2, result.err
    assert says in result.err
    assert result.out == ""
    assert not services.asked("estimate"), "nothing was probed"
    assert not services.asked("launch")


def test_the_app_opens_with_the_goal_that_was_typed(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[JobSpec, Goal]] = []
    monkeypatch.setattr(
        "planner.tui.app.run_app", lambda _, *, job, goal, **__: opened.append((job, goal))
    )
    monkeypatch.setattr("planner.cli.commands.app.has_terminal", lambda: True)
    assert planner("job.toml", "--deadline", "10m", "--prefer", "time").code == 0
    assert planner("job.toml").code == 0
    assert planner("job.toml", "--budget", "none").code == 2
    assert [(goal.deadline_s, goal.prefer) for _, goal in opened] == [
        (600.0, "time"),
        (None, "cost"),
    ]
    assert all(job.goal == Goal() for job, _ in opened), "the job is as its file says"


# ---- estimate ----------------------------------------------------------------------------------


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


def _all_failed() -> EstimateResult:
    return estimate(candidates=[], probes=(probe("failed", error="exit code 1"), probe("oom")))


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
        (_all_failed(), (), 5),
        (_all_failed(), ("--deadline", "2m"), 5),
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


# ---- run ---------------------------------------------------------------------------------------


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
    services.result = _all_failed()
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


# ---- the other commands --------------------------------------------------------------------------


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


def limited() -> RunView:
    """A running run with a cap of $1 and a deadline at 10:00."""
    made = view()
    goal = Goal(budget_usd=1.0, deadline_at=DEADLINE)
    return replace(made, plan=replace(made.plan, goal=goal))


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


def test_doctor_fails_with_4_and_shows_the_fix(planner: Planner, services: FakeServices) -> None:
    services.checks += (Check(id="state", state="fail", text="read-only", fix="mount -o rw"),)
    result = planner("doctor", "--only", "state,gpu")
    assert result.code == 4
    assert "fix: mount -o rw" in result.out
    assert services.asked("doctor") == [("state", "gpu")]
    assert planner("doctor", "--json").document["ok"] is False


def test_clean_that_finds_nothing_names_what_is_kept(
    planner: Planner, services: FakeServices
) -> None:
    services.left = ()
    said = planner("clean")
    assert said.out.strip() == "nothing left behind"
    assert "--older-than 30d" in said.err
    assert "--older-than" not in planner("clean", "--older-than", "1d").err


def test_clean_removes_only_with_yes(planner: Planner, services: FakeServices) -> None:
    left = Leftover(kind="run folder", id="r-old", run_id="r-old", text="40 MB")
    services.left = (left,)
    assert "nothing was removed" in planner("clean", "--older-than", "30d").err
    assert not services.asked("clean")
    assert services.asked("leftovers") == [(False, 30 * 86400.0)]
    assert planner("clean", "--leaked", "--yes", "--json").document["removed"] is True
    assert services.asked("clean") == [(left,)]


@pytest.mark.parametrize("name", ["estimate", "run", "event", "error", "job", "config"])
def test_schema_prints_a_valid_schema(planner: Planner, name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(planner("schema", name).document)


def test_schema_without_a_name_lists_them(planner: Planner) -> None:
    listed = planner("schema").out.split()
    assert {"estimate", "run", "job", "config"} <= set(listed)
    for name in listed:
        assert planner("schema", name).code == 0


def test_config_without_a_command_lists_them(planner: Planner) -> None:
    result = planner("config")
    assert result.code == 0
    assert result.err == ""
    assert all(name in result.out for name in ("path", "show", "validate"))


def test_init_writes_a_job_file_that_estimate_takes(planner: Planner, tmp_path: Path) -> None:
    assert planner("init", "--", "python", "train.py", "--epochs", "3").out == "planner.toml\n"
    assert planner("config", "validate", "planner.toml").out.endswith("planner.toml: ok\n")
    again = planner("init", "--", "python", "train.py")
    assert again.code == 2
    assert "--force" in again.err
    assert "[job]" in planner("init", "-o", "-", "--", "python", "train.py").out


def test_config_shows_where_values_come_from(planner: Planner, tmp_path: Path) -> None:
    shown = planner("config", "show", "--json").document["settings"]
    assert {s["name"]: s["source"] for s in shown}["ui.theme"] == "default"
    assert str(tmp_path / "state") in planner("config", "path").out
