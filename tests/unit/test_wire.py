"""The documents: schemas, the published example, the mapping from the domain."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError
from support.planning import NOW, candidate, estimate, goal, probe

from planner.core.errors import ExitCode, InfeasibleError, UsageError
from planner.core.events import Event
from planner.core.prediction import MemoryParts
from planner.wire import published
from planner.wire.estimate_v1 import Estimate
from planner.wire.to_wire import error_document, estimate_document, event_document

GOLDEN = Path(__file__).parent.parent / "golden"
EXAMPLE = json.loads((GOLDEN / "estimate.v1.example.json").read_text(encoding="utf-8"))


RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
FORMATS = jsonschema.FormatChecker([])


@FORMATS.checks("date-time")
def is_utc(value: object) -> bool:
    return not isinstance(value, str) or RFC_3339_UTC.fullmatch(value) is not None


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The published schema with unknown keys forbidden everywhere."""
    if isinstance(schema, dict):
        closed = {key: strict(value) for key, value in schema.items()}
        if closed.get("type") == "object" and "properties" in closed:
            closed["additionalProperties"] = False
        return closed
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    return schema


def check(document: dict[str, Any], name: str) -> None:
    """Valid against the published schema and its strict form, formats included."""
    schema = published.generate(name)
    for form in (schema, strict(schema)):
        jsonschema.Draft202012Validator(form, format_checker=FORMATS).validate(document)


@pytest.mark.parametrize("name", sorted(published.DOCUMENTS))
def test_committed_schema_is_the_generated_one(name: str) -> None:
    committed = published.path_of(name).read_text(encoding="utf-8")
    assert committed == published.text_of(name), "run: python -m planner.wire.published"


@pytest.mark.parametrize("name", sorted(published.DOCUMENTS))
def test_published_form_is_open_and_valid_draft_2020_12(name: str) -> None:
    schema = published.generate(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert '"additionalProperties": false' not in json.dumps(schema)


def test_example_validates_and_survives_the_models() -> None:
    check(EXAMPLE, "estimate")
    known = Estimate.model_validate(EXAMPLE)  # of minor 0: keys that came later are not set
    assert known.model_dump(mode="json", exclude_unset=True) == EXAMPLE


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema": "planner.estimate/2"}, "another major version"),
        ({"seed": "7"}, "a number as text"),
        ({"created_at": "yesterday"}, "not a time"),
        ({"probe_cost_usd": -1}, "negative money"),
        ({"surprise": 1}, "unknown key"),
    ],
)
def test_strict_form_refuses(change: dict[str, Any], why: str) -> None:
    with pytest.raises((jsonschema.ValidationError, ValidationError)):
        check({**EXAMPLE, **change}, "estimate")
    assert why


def test_open_form_lets_a_later_minor_version_add_keys() -> None:
    jsonschema.validate({**EXAMPLE, "added_later": 1}, published.generate("estimate"))


def test_what_memory_is_made_of_is_told_with_its_evidence() -> None:
    found = estimate()
    parts = MemoryParts(
        context_bytes=4e8,
        weights_bytes=1e8,
        gradients_bytes=None,
        optimizer_bytes=2e8,
        activations_bytes=3e8,
        synchronisation_bytes=0.0,
        evidence="transfer",
    )
    first = replace(found.options[0], memory_parts=parts)
    document = estimate_document(replace(found, options=(first, *found.options[1:])))
    check(document, "estimate")
    told = document["options"][0]["memory_parts"]
    assert told == asdict(parts)


def test_every_key_is_present_even_when_unknown() -> None:
    document = estimate_document(estimate())
    check(document, "estimate")
    assert document["goal"]["deadline_s"] is None
    assert document["options"][0]["p_deadline"] is None
    assert document["options"][0]["memory_parts"] is None
    assert document["model"]["coverage"] is None


def test_estimate_with_a_goal_validates_and_is_ordered() -> None:
    document = estimate_document(estimate(goal(700, 1.0)))
    check(document, "estimate")
    assert [o["rank"] for o in document["options"]] == [1, 2, 3]
    assert document["work"]["samples"] == 14370
    assert document["created_at"] == "2025-03-14T11:40:00Z"


def test_estimate_where_every_probe_failed_is_complete() -> None:
    failed = (
        probe("failed", error="exit code 1: ModuleNotFoundError: no_such"),
        probe("oom", error="killed at 7.9 GB", workers=2),
    )
    document = estimate_document(estimate(goal(600), candidates=[], probes=failed))
    check(document, "estimate")
    assert document["options"] == []
    assert document["recommendation"]["option_id"] is None
    assert [p["error"] for p in document["probes"]] == [p.error for p in failed]


def test_the_same_estimate_gives_the_same_bytes() -> None:
    one, two = (estimate_document(estimate(goal(700, 1.0))) for _ in range(2))
    assert json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)


def test_numbers_carry_no_binary_rounding() -> None:
    result = replace(estimate(), probe_cost_usd=0.1 + 0.2)
    assert json.dumps(estimate_document(result)["probe_cost_usd"]) == "0.3"


def test_a_number_that_is_not_finite_is_refused_or_null() -> None:
    with pytest.raises(ValidationError):
        estimate_document(replace(estimate(), probe_cost_usd=math.nan))
    event = Event(seq=0, ts=NOW, type="run.progress", data={"a": math.inf, "b": [math.nan, 1.0]})
    assert event_document(event)["data"] == {"a": None, "b": [None, 1.0]}


def test_an_interrupted_market_shows_its_interruptions() -> None:
    risky = [candidate(7200, 1.0, hazard=0.5)]
    option = estimate_document(estimate(candidates=risky))["options"][0]
    assert option["expected_interruptions"] == pytest.approx(1.0, rel=0.05)
    assert option["price"]["interruptions_per_h"] == 0.5


def test_error_document_of_our_own_error() -> None:
    document = error_document(UsageError("no file a.toml", hint="planner init -- CMD"))
    check(document, "error")
    assert document["exit_code"] == ExitCode.USAGE
    assert document["hint"] == "planner init -- CMD"
    assert error_document(InfeasibleError("none"))["exit_code"] == 3


def test_error_document_masks_secrets_in_text_and_hint() -> None:
    error = UsageError("cannot open https://me:hunter2@host/x", hint="password=hunter2 is wrong")
    assert "hunter2" not in json.dumps(error_document(error))


def test_error_document_of_a_bug_tells_no_values() -> None:
    document = error_document(ValueError("password=hunter2"))
    check(document, "error")
    assert "hunter2" not in json.dumps(document)
    assert document["exit_code"] == ExitCode.INTERNAL


def test_event_document() -> None:
    event = Event(seq=17, ts=NOW, type="probe.progress", data={"step": 3}, run_id=None)
    document = event_document(event)
    check(document, "event")
    assert document["seq"] == 17
    assert document["run_id"] is None
