"""What one more probe is worth: exactly nothing where it can change nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.planning import NOW, WORK, candidate

from planner.core.choose import Terms
from planner.core.job import Goal
from planner.core.nextprobe import verdict
from planner.core.options import build_options, table_of
from planner.core.probevalue import Answer, Question, value_of_probing
from planner.core.types import Option

DRAWS = 128
SPREAD = 0.1


def deviations(count: int, seed: int = 0) -> np.ndarray:
    """Centred normal draws of `count` options that share nothing, exactly."""
    values = np.random.default_rng(seed).standard_normal((DRAWS, count))
    values -= values.mean(axis=0)
    return np.linalg.qr(values)[0] * np.sqrt(DRAWS)


def options(runs: list[float], usd_per_h: list[float], **more: float) -> list[Option]:
    """Options of so many seconds and dollars an hour, in that order."""
    given = [
        candidate(run, usd, workers=i + 1, spread=2.2 * SPREAD, **more)
        for i, (run, usd) in enumerate(zip(runs, usd_per_h, strict=True))
    ]
    made, _ = build_options(given, WORK, Goal(), NOW)
    return sorted(made, key=lambda o: o.resources.workers)


def question(
    listed: list[Option],
    log_run: np.ndarray,
    terms: Terms | None = None,
    *,
    probed: list[int] | None = None,
    probe_s: float = 10.0,
    probe_usd: float = 0.001,
) -> Question:
    rows = np.arange(len(listed)) if probed is None else np.asarray(probed)
    return Question(
        table=table_of(listed),
        terms=terms or Terms(),
        run_s=np.asarray([o.run_s.p50 for o in listed]) * np.exp(log_run),
        mean_run_s=np.asarray([o.run_s.mean for o in listed]),
        probed=rows,
        probe_s=np.full(len(rows), probe_s),
        probe_usd=np.full(len(rows), probe_usd),
    )


CLOSE = options([1e5, 5e4, 3e4], [1.0, 2.05, 3.6])
"""Expected costs of about $28, $29 and $31."""
FAR = options([1e5, 5e4, 3e4], [1.0, 40.0, 90.0])


def test_close_options_of_unsure_cost_are_worth_a_probe() -> None:
    found = value_of_probing(question(CLOSE, SPREAD * deviations(3)))
    assert found.in_money
    assert found.pick == 0
    assert 0 < found.saves < found.regret
    assert 0 < found.p_change < 1
    assert verdict(found) == "worth"


def test_a_settled_ranking_is_worth_exactly_nothing() -> None:
    found = value_of_probing(question(FAR, SPREAD * deviations(3)))
    assert (found.regret, found.saves, found.p_change) == (0, 0, 0)
    assert verdict(found) == "settled"


def test_what_is_known_is_worth_nothing() -> None:
    found = value_of_probing(question(CLOSE, np.zeros((DRAWS, 3))))
    assert (found.regret, found.saves, found.p_change) == (0, 0, 0)


def test_errors_that_all_options_share_decide_nothing() -> None:
    shared = np.repeat(SPREAD * deviations(1), 3, axis=1)
    found = value_of_probing(question(CLOSE, shared))
    assert (found.saves, found.p_change) == (0, 0)


def test_a_probe_of_what_is_never_picked_and_shares_nothing_is_worth_nothing() -> None:
    listed = options([1e5, 5e4, 3e4], [1.0, 2.05, 90.0])
    found = value_of_probing(question(listed, SPREAD * deviations(3), probed=[2]))
    assert found.regret > 0
    assert (found.best, found.saves, found.p_change) == (0, 0, 0)


def test_a_probe_tells_of_what_shares_its_error() -> None:
    listed = options([1e5, 5e4, 3e4], [1.0, 2.05, 90.0])
    log_run = SPREAD * deviations(3)
    log_run[:, 2] = log_run[:, 1]
    assert value_of_probing(question(listed, log_run, probed=[2])).saves > 0


def test_the_cheaper_probe_is_made_where_both_tell_the_same() -> None:
    log_run = SPREAD * deviations(3)
    log_run[:, 2] = log_run[:, 1]
    asked = question(CLOSE, log_run, probed=[1, 2])
    for dear, cheap in ((0, 1), (1, 0)):
        usd = np.asarray([0.0, 0.0])
        usd[dear], usd[cheap] = 0.5, 0.001
        assert value_of_probing(replace(asked, probe_usd=usd)).best == cheap


@settings(max_examples=25, deadline=None)
@given(
    share=st.floats(0.1, 1.0),
    spread=st.floats(0.01, 0.15),
    gap=st.floats(1.6, 2.6),
    seed=st.integers(0, 5),
)
def test_surer_predictions_never_raise_the_value(
    share: float, spread: float, gap: float, seed: int
) -> None:
    listed = options([1e5, 5e4], [1.0, gap])
    drawn = deviations(2, seed)
    wide, narrow = (
        value_of_probing(question(listed, factor * spread * drawn, probed=[1])).saves
        for factor in (1.0, share)
    )
    assert narrow <= wide * 1.02 + 1e-6 * CLOSE[0].cost_usd.mean


@settings(max_examples=25, deadline=None)
@given(
    noise=st.floats(0.01, 1.0),
    deadline_s=st.none() | st.floats(1e4, 3e5),
    budget_usd=st.none() | st.floats(10, 100),
    prefer=st.sampled_from(["cost", "time", "risk"]),
)
def test_a_value_is_finite_and_the_same_each_time(
    noise: float, deadline_s: float | None, budget_usd: float | None, prefer: str
) -> None:
    terms = Terms(deadline_s=deadline_s, budget_usd=budget_usd, prefer=prefer)  # type: ignore[arg-type]
    asked = replace(question(CLOSE, SPREAD * deviations(3), terms), probe_log_sd=noise)
    found = value_of_probing(asked)
    assert 0 <= found.saves <= found.takes
    assert 0 <= found.p_change <= 1 + 1e-9
    assert found == value_of_probing(asked)


def test_a_noisy_probe_is_worth_less() -> None:
    asked = question(CLOSE, SPREAD * deviations(3), probed=[1])
    good, poor = (value_of_probing(replace(asked, probe_log_sd=sd)).saves for sd in (0.02, 0.5))
    assert poor < 0.5 * good


# ---- goals


def test_whether_the_cheap_option_keeps_the_deadline_is_worth_a_probe() -> None:
    """It is refused now; after a good result it would be the pick."""
    listed = options([5e4, 3e4], [1.0, 4.0])
    terms = Terms(deadline_s=5.6e4)
    found = value_of_probing(question(listed, SPREAD * deviations(2), terms, probed=[0]))
    assert found.pick == 1
    assert found.saves > 1
    assert 0.1 < found.p_change < 0.9


def test_without_the_deadline_the_same_probe_is_worth_nothing() -> None:
    listed = options([5e4, 3e4], [1.0, 8.0])
    found = value_of_probing(question(listed, SPREAD * deviations(2), probed=[0]))
    assert found.saves == 0


def test_a_pick_that_may_miss_the_deadline_is_regretted_as_a_whole() -> None:
    """It has to be done again."""
    listed = options([4e4, 1e4], [1.0, 40.0])
    sure, unsure = (
        value_of_probing(question(listed, sd * deviations(2), Terms(deadline_s=5.6e4)))
        for sd in (0.005, SPREAD)
    )
    assert (sure.pick, unsure.pick) == (0, 0)
    assert unsure.regret > sure.regret
    assert unsure.regret < unsure.takes


def test_where_no_option_can_meet_the_goal_no_probe_is_worth_anything() -> None:
    terms = Terms(deadline_s=100.0)
    found = value_of_probing(question(FAR, 0.025 * deviations(3), terms))
    assert found.pick == 2  # the fastest: fewest times over
    assert (found.regret, found.saves) == (0, 0)
    assert verdict(found) == "settled"


def test_a_deadline_in_the_past_is_answered() -> None:
    found = value_of_probing(question(FAR, 0.025 * deviations(3), Terms(deadline_s=-5.0)))
    assert found.saves == 0


def test_a_probe_is_charged_for_what_its_time_takes_from_the_deadline() -> None:
    listed = options([4e4, 3.9e4], [1.0, 1.03])
    asked = question(listed, SPREAD * deviations(2), Terms(deadline_s=5.6e4))
    brief = value_of_probing(asked)
    lasting = value_of_probing(replace(asked, probe_s=np.full(2, 1e4)))
    assert brief.price < 0.1 < lasting.price
    assert verdict(lasting) == "not_worth"


def test_time_counts_where_time_is_preferred_or_nothing_costs_money() -> None:
    listed = options([4.1e4, 4e4], [1.0, 2.0])
    asked = question(listed, SPREAD * deviations(2), Terms(prefer="time"))
    found = value_of_probing(asked)
    assert not found.in_money
    assert found.price == 10.0
    assert found.takes == pytest.approx(listed[1].total_s.mean)
    free = options([4.1e4, 4e4], [0.0, 0.0])
    found = value_of_probing(question(free, SPREAD * deviations(2), probe_usd=0.0))
    assert not found.in_money
    assert found.saves > 10


def test_a_free_probe_is_charged_for_its_time_at_the_price_of_the_pick() -> None:
    found = value_of_probing(question(CLOSE, SPREAD * deviations(3), probe_s=36.0, probe_usd=0.0))
    assert found.in_money
    assert found.price == pytest.approx(0.01 * CLOSE[found.pick].price.usd_per_h)


def test_what_hardly_fits_into_memory_is_never_the_pick_and_tells_less() -> None:
    log_run = SPREAD * deviations(2)
    full = options([1e5, 5e4], [1.0, 2.05], p_oom=0.04)
    sure = options([1e5, 5e4], [1.0, 2.05])
    some, all_ = (value_of_probing(question(o, log_run, probed=[1])).saves for o in (full, sure))
    assert some == pytest.approx(0.96 * all_)
    none = options([1e5, 5e4], [1.0, 2.05], p_oom=0.9)
    assert value_of_probing(question(none, log_run)).saves == 0


def test_a_single_option_needs_no_probe() -> None:
    found = value_of_probing(question(options([1e5], [1.0]), SPREAD * deviations(1)))
    assert (found.pick, found.regret, found.saves) == (0, 0, 0)
    assert verdict(found) == "settled"


def test_thousands_of_options_are_answered() -> None:
    rng = np.random.default_rng(0)
    runs, usd = rng.uniform(1e4, 1e5, 2000), rng.uniform(1, 9, 2000)
    listed = options(runs.tolist(), usd.tolist())
    found = value_of_probing(question(listed, SPREAD * rng.standard_normal((DRAWS, 2000))))
    assert found.saves > 0


# ---- the stop rule


BASE = Answer(in_money=True, pick=0, takes=10, regret=1, best=0, saves=0.5, price=0.1, p_change=0.3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "worth"),
        ({"price": 0.6}, "not_worth"),
        ({"regret": 0.04}, "settled"),
        ({"p_change": 0.009}, "settled"),
    ],
)
def test_the_stop_rule(change: dict[str, float], reason: str) -> None:
    assert verdict(replace(BASE, **change)) == reason  # type: ignore[arg-type]
