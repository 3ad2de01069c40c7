"""From candidates to ranked options with reasons, ids and a recommendation."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from support.planning import (
    NOW,
    WORK,
    candidate,
    estimate,
    goal,
    knobs,
    resources,
    three_candidates,
)

from planner.cli.optiontable import goal_words
from planner.core import explain
from planner.core.job import Goal
from planner.core.options import build_options, option_id, rescore_options, rescored
from planner.core.units import format_duration, format_money
from planner.wire.to_wire import estimate_document


def test_a_rescored_document_counts_its_deadline_from_when_it_was_scored_again() -> None:
    later = NOW + timedelta(minutes=5)
    asked = goal(1200.0, confidence=0.5)
    result = rescored(estimate(), asked, later)
    assert result.created_at == NOW  # its evidence gets no younger
    document = estimate_document(result)
    ends, scored = (
        datetime.fromisoformat(t) for t in (document["goal"]["deadline_at"], document["created_at"])
    )
    left_s = (ends - scored).total_seconds()
    assert left_s == 900
    by_id = {o["id"]: o["p_deadline"] for o in document["options"]}
    for option in result.options:
        assert by_id[option.id] == pytest.approx(option.total_s.prob_below(left_s))
    # Given at that very time, each flip's deadline makes the flip.
    found = [f for f in result.recommendation.flips if f.variable == "deadline_s"]
    assert found
    for flip in found:
        asked_s = flip.value * (1.01 if flip.op == ">" else 0.99)
        again = rescored(estimate(), goal(300 + asked_s, confidence=0.5), scored)
        assert again.recommendation.option_id == flip.to


def test_ids_are_stable_across_runs_and_machines() -> None:
    assert option_id(resources(2), knobs(16, workers=2)) == "oyrrb7t7"


def test_an_option_says_how_its_replicas_are_spread() -> None:
    plain = estimate().options[0]
    spread = replace(plain.knobs, tensor_parallel=2, pipeline_parallel=2)
    option = replace(plain, resources=resources(4), knobs=spread)
    assert explain.label(option) == "local:cpu 4 workers (tensor 2 x pipeline 2) x 16 x4"
    assert option_id(resources(4), spread) != option_id(resources(4), plain.knobs)
    told = estimate_document(replace(estimate(), options=(option,)))["options"][0]["knobs"]
    assert (told["tensor_parallel"], told["pipeline_parallel"]) == (2, 2)


def test_ids_follow_resources_and_knobs_only() -> None:
    base = option_id(resources(2), knobs(16, workers=2))
    assert option_id(resources(4), knobs(16, workers=2)) != base
    assert option_id(resources(2), knobs(32, workers=2)) != base
    more_memory = replace(resources(2), memory_bytes_per_node=1, gpu_memory_bytes=1)
    assert option_id(more_memory, knobs(16, workers=2)) == base


def test_ids_do_not_depend_on_predictions_goal_or_order() -> None:
    one, _ = build_options(three_candidates(), WORK, Goal(), NOW)
    slower = [candidate(2000, 9.9, workers=n) for n in (4, 2, 1)]
    two, _ = build_options(slower, WORK, goal(5), NOW)
    assert {o.id for o in one} == {o.id for o in two}


def test_without_a_goal_everything_that_fits_is_feasible_and_chances_are_unknown() -> None:
    options, recommendation = build_options(three_candidates(), WORK, Goal(), NOW)
    assert all(o.feasible and o.p_deadline is None and o.p_budget is None for o in options)
    assert [o.rank for o in options] == [1, 2, 3]
    assert recommendation.option_id == options[0].id
    assert recommendation.text == "Cheapest option."


def test_cost_is_time_times_price() -> None:
    (option,), _ = build_options([candidate(1800, 2.0)], WORK, Goal(), NOW)
    assert option.cost_usd.p50 == pytest.approx(1.0)
    assert option.cost_interval.lo == option.cost_usd.p05
    assert option.total_interval.hi == option.total_s.p95
    assert option.total_interval.level == 0.9


def test_waiting_counts_for_time_and_not_for_money() -> None:
    (option,), _ = build_options([candidate(1800, 2.0, wait_s=600)], WORK, Goal(), NOW)
    assert option.total_s.p50 == pytest.approx(2400)
    assert option.cost_usd.p50 == pytest.approx(1.0)


def test_throughput_is_samples_of_a_mean_step_over_its_time() -> None:
    (option,), _ = build_options([candidate(230)], WORK, Goal(), NOW)  # one second a step
    assert option.throughput_samples_per_s.p50 == pytest.approx(1437 / 23)
    assert option.throughput_samples_per_s.p05 < option.throughput_samples_per_s.p95


@pytest.mark.parametrize(
    ("asked", "codes"),
    [
        (goal(100), {"deadline.missed"}),
        (goal(None, 0.001), {"budget.exceeded"}),
        (goal(100, 0.001), {"deadline.missed", "budget.exceeded"}),
    ],
)
def test_a_refused_option_says_why_under_a_code(asked: Goal, codes: set[str]) -> None:
    options, recommendation = build_options(three_candidates(), WORK, asked, NOW)
    assert recommendation.option_id is None
    for option in options:
        assert not option.feasible
        assert {r.code for r in option.reasons} == codes
        assert all(r.text for r in option.reasons)


def test_what_a_refused_option_says_would_do_does() -> None:
    refused, _ = build_options(three_candidates(), WORK, goal(100, 0.001), NOW)
    deadline_s = refused[0].total_s.quantile(0.9)
    budget_usd = refused[0].cost_usd.quantile(0.95)
    said = " ".join(reason.text for reason in refused[0].reasons)
    assert f"{format_duration(deadline_s)} would do" in said
    assert f"{format_money(budget_usd)} would do" in said
    enough = goal(1.001 * deadline_s, 1.001 * budget_usd)
    options, _ = build_options(three_candidates(), WORK, enough, NOW)
    assert next(o for o in options if o.id == refused[0].id).feasible


def test_an_option_that_runs_out_of_memory_comes_last_and_is_off_the_front() -> None:
    given = [candidate(10, 0.01, workers=8, p_oom=0.7), *three_candidates()]
    options, recommendation = build_options(given, WORK, Goal(), NOW)
    assert options[-1].reasons[0].code == "memory.oom"
    assert not options[-1].on_front
    assert all(o.dominated_by is None for o in options), "what does not fit dominates nothing"
    assert recommendation.option_id != options[-1].id


def test_when_nothing_is_feasible_the_least_bad_is_named() -> None:
    options, recommendation = build_options(three_candidates(), WORK, goal(200), NOW)
    assert recommendation.option_id is None
    assert options[0].resources.workers == 4
    assert options[0].id in recommendation.text
    assert "least bad" in recommendation.text


def test_no_candidates_no_options_one_sentence() -> None:
    options, recommendation = build_options([], WORK, goal(200), NOW)
    assert options == ()
    assert recommendation.option_id is None
    assert recommendation.text.startswith("There is no option")


def test_a_dominated_option_names_who_dominates_it() -> None:
    given = [candidate(300, 0.1, workers=1), candidate(600, 0.2, workers=2)]
    options, _ = build_options(given, WORK, Goal(), NOW)
    assert [o.on_front for o in options] == [True, False]
    assert options[1].dominated_by == options[0].id


def test_the_deadline_counts_from_when_it_was_stated() -> None:
    asked = goal(600)
    _, soon = build_options(three_candidates(), WORK, asked, NOW)
    _, late = build_options(three_candidates(), WORK, asked, NOW + timedelta(seconds=200))
    assert soon.option_id is not None
    assert late.option_id not in (None, soon.option_id), "200 s later only a faster one will do"


@pytest.mark.parametrize("probing_s", [0, 100])
def test_a_deadline_flip_is_what_to_ask_for_next(probing_s: float) -> None:
    now = NOW + timedelta(seconds=probing_s)
    options, recommendation = build_options(three_candidates(), WORK, goal(800), now)
    flip = next(f for f in recommendation.flips if (f.variable, f.op) == ("deadline_s", "<"))
    for factor, changes in ((0.95, True), (1.05, False)):
        seconds = flip.value * factor
        again = Goal(deadline_s=seconds, deadline_at=now + timedelta(seconds=seconds))
        _, other = rescore_options(options, again, now)
        assert other.option_id == (flip.to if changes else recommendation.option_id)


def test_a_deadline_flip_does_not_depend_on_how_long_probing_took() -> None:
    asked = Goal(deadline_at=NOW + timedelta(seconds=800), deadline_s=800)
    found = [
        build_options(three_candidates(), WORK, asked, NOW + timedelta(seconds=s))[1].flips
        for s in (0, 30)
    ]
    early, late = ({f.op: f.value for f in f_ if f.variable == "deadline_s"} for f_ in found)
    assert early["<"] == late["<"]


def test_rescoring_equals_building_anew() -> None:
    options, _ = build_options(three_candidates(), WORK, Goal(), NOW)
    asked = goal(550, 1.0, prefer="time")
    assert rescore_options(options, asked, NOW) == build_options(
        three_candidates(), WORK, asked, NOW
    )


def test_of_a_configuration_offered_twice_the_cheaper_counts() -> None:
    options, _ = build_options(
        [candidate(usd_per_h=2.0), candidate(usd_per_h=1.0)], WORK, Goal(), NOW
    )
    assert [o.price.usd_per_h for o in options] == [1.0]


def test_why_says_merit_comparison_flips_and_bottleneck() -> None:
    result = estimate(goal(1200, 5.0))
    text = "\n".join(explain.why(result.options, result.recommendation))
    assert "Cheapest option with P(time) >= 0.90 and P(cost) >= 0.95." in text
    assert "Against" in text
    assert "saves" in text
    assert "later" in text
    assert "an hour is worth more than" in text
    assert "a faster device would help" in text


def test_why_not() -> None:
    result = estimate(goal(600))
    pick = result.option(result.recommendation.option_id or "")
    slow = next(o for o in result.options if o.resources.workers == 1)
    assert "P(time <= 10m00s)" in explain.why_not(slow, pick)
    dear = next(o for o in result.options if o.resources.workers == 4)
    assert "dearer" in explain.why_not(dear, pick)
    assert explain.why_not(pick, pick) == ""


@pytest.mark.parametrize(("probing_s", "left"), [(1, ""), (130, ", 11m10s left")])
def test_the_title_of_a_table_says_what_probing_left_of_the_deadline(
    probing_s: int, left: str
) -> None:
    asked = goal(800)
    assert asked.deadline_at is not None
    words = goal_words(asked, asked.deadline_at - timedelta(seconds=800 - probing_s))
    assert words[0] == f"deadline 13m20s ({asked.deadline_at:%H:%M} UTC{left})"
