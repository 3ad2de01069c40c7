"""Every command: what goes to which stream, and how it ends when services fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from support.fake_services import RUN_ID, FakeServices
from support.planner_calls import Planner

from planner.core import errors
from planner.wire.published import generate

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
