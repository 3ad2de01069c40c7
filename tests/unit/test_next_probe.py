"""What is said of the next probe: one line for people, one object for scripts."""

from __future__ import annotations

from dataclasses import replace

import jsonschema
import pytest
from support.planning import estimate

from planner.cli.optiontable import estimate_text
from planner.core import explain
from planner.core.nextprobe import NextProbe
from planner.core.types import EstimateResult
from planner.store.codec import from_json, to_json
from planner.wire import published
from planner.wire.to_wire import estimate_document


def with_probe(reason: str = "not_worth", **changes: object) -> EstimateResult:
    result = estimate()
    probe = NextProbe(
        option_id=result.options[1].id,
        reason=reason,  # type: ignore[arg-type]
        time_s=40.0,
        cost_usd=0.003,
        saves_usd=0.12,
        p_change=0.08,
    )
    return replace(result, next_probe=replace(probe, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        ("not_worth", "not worth it."),
        ("worth", "worth it."),
        ("settled", "not needed, the pick is settled."),
        ("cap", "worth it, but beyond what probes may take."),
        ("stopped", "worth it, but probing was stopped."),
    ],
)
def test_the_line_says_what_it_costs_what_it_saves_and_the_verdict(
    reason: str, verdict: str
) -> None:
    assert explain.next_probe_text(with_probe(reason)) == (
        "Next probe: local:cpu 2 workers x 16 x2: $0.0030, 40s; would save $0.12 on average"
        f" (the pick changes with 8 %): {verdict}"
    )


def test_where_time_counts_the_saving_is_a_time() -> None:
    text = explain.next_probe_text(with_probe(cost_usd=0.0, saves_usd=None, saves_s=75.0))
    assert ": 40s; would save 1m15s on average" in text


def test_nothing_saved_is_said_as_such() -> None:
    settled = {"p_change": 0.0, "cost_usd": 0.0}
    for saved in ({"saves_usd": 0.0}, {"saves_usd": None, "saves_s": 0.2}):
        text = explain.next_probe_text(with_probe("settled", **settled, **saved))
        word = "no time" if "saves_s" in saved else "nothing"
        assert f"would save {word} on average (the pick changes with 0 %)" in text


def test_the_table_ends_with_the_line() -> None:
    shown = estimate_text(with_probe(), show_all=False, limit=None)
    assert shown.splitlines()[-1].startswith("Next probe: local:cpu 2 workers x 16 x2: ")
    assert "Next probe" not in estimate_text(estimate(), show_all=False, limit=None)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_narrow_terminal_hides_nothing_of_an_option(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("planner.cli.optiontable.terminal_width", lambda: width)
    result = estimate()
    shown = estimate_text(result, show_all=True, limit=None)
    for option in result.options:
        rows = shown[shown.index(option.id) :].splitlines()[:2]
        told = "\n".join(rows)
        assert option.evidence in told
        assert all(reason.code in told for reason in option.reasons)
        assert f"dominated by {option.dominated_by}" in told or option.dominated_by is None


def test_the_document_carries_it_and_every_decision() -> None:
    result = with_probe()
    assert result.next_probe is not None
    made = replace(result.next_probe, reason="worth", cost_usd=0.001)
    document = estimate_document(replace(result, probe_decisions=(made,)))
    jsonschema.validate(document, published.generate("estimate"))
    assert document["schema_minor"] == 1
    assert document["next_probe"] == {
        "option_id": result.options[1].id,
        "reason": "not_worth",
        "time_s": 40.0,
        "cost_usd": 0.003,
        "saves_usd": 0.12,
        "saves_s": None,
        "p_change": 0.08,
    }
    assert [d["reason"] for d in document["probe_decisions"]] == ["worth"]


def test_unknown_is_null() -> None:
    document = estimate_document(estimate())
    assert document["next_probe"] is None
    assert document["probe_decisions"] == []


def test_it_is_kept_and_estimates_from_before_are_still_read() -> None:
    result = with_probe()
    kept = to_json(result)
    assert from_json(EstimateResult, kept) == result
    del kept["next_probe"], kept["probe_decisions"]
    assert from_json(EstimateResult, kept).next_probe is None
