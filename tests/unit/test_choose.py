"""The pick under chance constraints, and what would change it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from planner.core.choose import (
    MAX_P_OOM,
    MIN_BUDGET_CONFIDENCE,
    Scores,
    Table,
    Terms,
    flips,
    front_of,
    quantile,
    score,
    vary,
)
from planner.core.distribution import LEVELS, Distribution, prob_below

BEYOND = 1e-5  # relative step that counts as "just" beyond a threshold

row = st.tuples(
    st.floats(10, 10_000),  # median total time, s
    st.floats(0, 0.6),  # its spread
    st.sampled_from([0.0, 0.05, 0.4, 2.0]),  # price, usd/h
    st.sampled_from([0.0, 0.0, 0.01, 0.3]),  # p_oom
    st.integers(0, 2),  # place
)


def table_of(rows: list[tuple[float, float, float, float, int]]) -> Table:
    total = np.asarray([Distribution.lognormal(r[0], r[1]).quantiles for r in rows])
    usd_per_h = np.asarray([r[2] for r in rows])
    return Table(
        total_s=total,
        cost_usd=total * usd_per_h[:, None] / 3600,
        p_oom=np.asarray([r[3] for r in rows]),
        usd_per_h=usd_per_h,
        place=np.asarray([r[4] for r in rows]),
        tie=np.arange(len(rows)),
    )


tables = st.lists(row, min_size=1, max_size=12).map(table_of)
all_terms = st.builds(
    Terms,
    deadline_s=st.none() | st.floats(5, 20_000),
    budget_usd=st.none() | st.floats(0.01, 5),
    confidence=st.sampled_from([0.5, 0.8, 0.9, 0.95]),
    prefer=st.sampled_from(["cost", "time", "risk"]),
)


def exact(*rows: tuple[float, float]) -> Table:
    """Options of exactly so many seconds and dollars."""
    flat = np.ones((1, len(LEVELS)))
    seconds = np.asarray([[r[0]] for r in rows]) * flat
    return Table(
        total_s=seconds,
        cost_usd=np.asarray([[r[1]] for r in rows]) * flat,
        p_oom=np.zeros(len(rows)),
        usd_per_h=np.asarray([r[1] / r[0] * 3600 for r in rows]),
        place=np.arange(len(rows)),
        tie=np.arange(len(rows)),
    )


THREE = exact((900, 1.0), (500, 1.5), (300, 3.0))


@pytest.mark.parametrize(
    ("terms", "pick"),
    [
        (Terms(), 0),
        (Terms(prefer="time"), 2),
        (Terms(deadline_s=600), 1),
        (Terms(deadline_s=400), 2),
        (Terms(deadline_s=100), None),
        (Terms(budget_usd=2.0, prefer="time"), 1),
        (Terms(budget_usd=0.5), None),
        (Terms(deadline_s=600, budget_usd=1.2), None),
        (Terms(hour_value_usd=10.0), 1),
        (Terms(hour_value_usd=40.0), 2),
    ],
)
def test_pick_of_three_certain_options(terms: Terms, pick: int | None) -> None:
    assert score(THREE, terms).pick == pick


def test_the_slower_option_wins_when_it_alone_is_sure_enough() -> None:
    shaky = Distribution.lognormal(80, 1.0).quantiles  # median 80 s, 95 % quantile 414 s
    steady = Distribution.lognormal(95, 0.01).quantiles
    table = Table(
        total_s=np.asarray([shaky, steady]),
        cost_usd=np.asarray([shaky, steady]) / 1000,
        p_oom=np.zeros(2),
        usd_per_h=np.full(2, 3.6),
        place=np.zeros(2, dtype=int),
        tie=np.arange(2),
    )
    assert score(table, Terms(deadline_s=100, prefer="time")).pick == 1


def test_a_budget_is_held_more_surely_than_a_deadline() -> None:
    assert Terms(confidence=0.8).budget_confidence == MIN_BUDGET_CONFIDENCE
    assert Terms(confidence=0.97).budget_confidence == 0.97


def test_an_option_that_may_run_out_of_memory_is_never_picked() -> None:
    table = replace(THREE, p_oom=np.asarray([MAX_P_OOM + 0.01, 0.0, 0.0]))
    assert score(table, Terms()).pick == 1
    assert score(replace(THREE, p_oom=np.ones(3)), Terms()).pick is None


def test_equal_costs_go_to_the_faster_then_to_the_first() -> None:
    assert score(exact((900, 1.0), (500, 1.0)), Terms()).pick == 1
    assert score(exact((500, 1.0), (500, 1.0)), Terms()).pick == 0


def test_low_risk_prefers_the_likelier_option() -> None:
    total = np.asarray([Distribution.lognormal(m, 0.2).quantiles for m in (800, 500)])
    table = Table(
        total_s=total,
        cost_usd=np.asarray([[1.0] * len(LEVELS), [2.0] * len(LEVELS)]),
        p_oom=np.zeros(2),
        usd_per_h=np.ones(2),
        place=np.arange(2),
        tie=np.arange(2),
    )
    assert score(table, Terms(deadline_s=1100)).pick == 0
    assert score(table, Terms(deadline_s=1100, prefer="risk")).pick == 1


def test_when_nothing_is_feasible_the_nearest_miss_comes_first() -> None:
    assert score(THREE, Terms(deadline_s=200)).order[0] == 2
    assert score(THREE, Terms(budget_usd=0.5)).order[0] == 0


@given(tables, all_terms)
def test_order_is_a_permutation_with_feasible_rows_first(table: Table, terms: Terms) -> None:
    scores = score(table, terms)
    assert sorted(scores.order.tolist()) == list(range(len(table.p_oom)))
    flags = scores.feasible[scores.order]
    assert (np.diff(flags.astype(int)) <= 0).all()
    assert (scores.pick is None) == (not scores.feasible.any())


@given(tables, all_terms)
def test_the_pick_equals_brute_force(table: Table, terms: Terms) -> None:
    assume(terms.prefer != "risk")
    scores = score(table, terms)
    allowed = []
    for i in range(len(table.p_oom)):
        time = Distribution(quantiles=tuple(table.total_s[i]))
        cost = Distribution(quantiles=tuple(table.cost_usd[i]))
        if table.p_oom[i] > MAX_P_OOM:
            continue
        if terms.deadline_s is not None and time.prob_below(terms.deadline_s) < terms.confidence:
            continue
        limit = terms.budget_usd
        if limit is not None and cost.prob_below(limit) < terms.budget_confidence:
            continue
        allowed.append((cost.mean, time.mean) if terms.prefer == "cost" else (time.mean, cost.mean))
    if not allowed:
        assert scores.pick is None
        return
    assert scores.pick is not None
    assert scores.first[scores.pick] == pytest.approx(min(allowed)[0])


@given(tables, all_terms)
def test_a_pick_by_cost_or_time_is_on_the_front(table: Table, terms: Terms) -> None:
    assume(terms.prefer != "risk")
    scores = score(table, terms)
    on_front, _ = front_of(scores)
    assert scores.pick is None or on_front[scores.pick]


@given(tables, all_terms)
def test_the_front_equals_brute_force(table: Table, terms: Terms) -> None:
    scores = score(table, terms)
    on_front, dominated_by = front_of(scores)
    for i in range(len(table.p_oom)):
        rivals = [j for j in range(len(table.p_oom)) if _dominates(scores, j, i)]
        assert on_front[i] == (bool(scores.fits[i]) and not rivals)
        if scores.fits[i]:
            assert dominated_by[i] in rivals if rivals else dominated_by[i] == -1


def _dominates(scores: Scores, j: int, i: int) -> bool:
    if not scores.fits[j] or (scores.feasible[i] and not scores.feasible[j]):
        return False
    ours = (scores.mean_total_s[j], scores.mean_cost_usd[j])
    theirs = (scores.mean_total_s[i], scores.mean_cost_usd[i])
    return ours[0] <= theirs[0] and ours[1] <= theirs[1] and ours != theirs


@settings(max_examples=300)
@given(tables, all_terms)
def test_choosing_again_just_beyond_a_flip_changes_the_pick(table: Table, terms: Terms) -> None:
    scores = score(table, terms)
    for flip in flips(table, terms, scores):
        assert scores.pick is not None
        sign = 1 if flip.op == ">" else -1
        for step, expected in ((BEYOND, flip.to), (-BEYOND, scores.pick)):
            value = flip.value * (1 + sign * step)
            again = score(*vary(table, terms, flip.variable, value, scores.pick))
            assert again.pick is not None
            # Two thresholds may lie closer together than the step: then only "changed" is sure.
            changed = step > 0 and again.pick != scores.pick
            assert changed or _same(again, expected, again.pick)


@settings(max_examples=150)
@given(tables, all_terms, st.data())
def test_nothing_changes_before_the_nearest_flip(
    table: Table, terms: Terms, data: st.DataObject
) -> None:
    """Between today's value and the threshold the pick holds, wherever one looks."""
    assume(terms.prefer != "risk")
    scores = score(table, terms)
    assume(scores.pick is not None)
    now = {
        "deadline_s": terms.deadline_s,
        "budget_usd": terms.budget_usd,
        "confidence": terms.confidence,
        "hour_value_usd": 0.0,
        "usd_per_h": float(table.usd_per_h[scores.pick]),
    }
    for flip in flips(table, terms, scores):
        start = now[flip.variable]
        if start is None:
            start = flip.value * 10
        part = data.draw(st.floats(0, 0.999))
        value = start + part * (flip.value - start)
        assume(value > 0)
        again = score(*vary(table, terms, flip.variable, value, scores.pick))
        # Between options that are equal in all respects the last bit of a sum decides.
        assert again.pick is not None
        assert _same(again, scores.pick, again.pick)


def _same(scores: Scores, one: int, other: int) -> bool:
    """Whether two options take and cost the same."""
    means = (scores.mean_total_s, scores.mean_cost_usd)
    return one == other or all(m[one] == pytest.approx(m[other], rel=1e-12) for m in means)


def test_hour_value_at_which_speed_pays_is_the_price_of_an_hour_saved() -> None:
    found = {f.variable: f for f in flips(THREE, Terms(), score(THREE, Terms()))}
    flip = found["hour_value_usd"]
    assert flip.to == 1
    assert flip.value == pytest.approx((1.5 - 1.0) / ((900 - 500) / 3600))


def test_flips_of_deadline_budget_and_price() -> None:
    terms = Terms(deadline_s=600, budget_usd=5.0)
    found = {(f.variable, f.op): f for f in flips(THREE, terms, score(THREE, terms))}
    assert found["deadline_s", "<"].value == pytest.approx(500)
    assert found["deadline_s", "<"].to == 2
    assert found["deadline_s", ">"].value == pytest.approx(900)
    assert found["deadline_s", ">"].to == 0
    assert found["usd_per_h", ">"].to == 2
    assert found["usd_per_h", ">"].value == pytest.approx(1.5 / 500 * 3600 * 2)
    assert ("budget_usd", "<") not in found, "nothing else keeps the deadline for less"


def test_no_flip_without_a_pick_and_none_for_a_free_price() -> None:
    terms = Terms(deadline_s=1)
    assert flips(THREE, terms, score(THREE, terms)) == ()
    free = exact((900, 0.0), (500, 0.0))
    assert not [f for f in flips(free, Terms(), score(free, Terms())) if f.variable == "usd_per_h"]


@given(st.floats(10, 1000), st.floats(0, 1), st.floats(0.01, 0.99))
def test_quantile_is_the_inverse_of_prob_below(median: float, spread: float, level: float) -> None:
    quantiles = np.asarray([Distribution.lognormal(median, spread).quantiles])
    value = float(quantile(quantiles, level)[0])
    assert prob_below(quantiles, value * (1 + 1e-9))[0] >= level - 1e-6
