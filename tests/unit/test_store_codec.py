"""What is stored comes back the same, and what is damaged says where."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.distribution import LEVELS, Distribution
from planner.core.errors import StoreError
from planner.core.job import Goal, JobSpec, Place
from planner.core.plan import Decision, Plan
from planner.core.prediction import Interval
from planner.core.recommendation import Flip, Recommendation
from planner.core.types import (
    EstimateResult,
    Knobs,
    ModelCard,
    Option,
    PriceQuote,
    ProbeResult,
    Reason,
    ResourceConfig,
    RunState,
    Warning_,
    WorkLoad,
)
from planner.store.codec import from_json, to_json
from runners.base import Handle

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
numbers = st.floats(allow_nan=False)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
times = st.datetimes(
    min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)
)
distributions = st.builds(
    Distribution,
    quantiles=st.lists(finite, min_size=len(LEVELS), max_size=len(LEVELS)).map(
        lambda values: tuple(sorted(values))
    ),
    evidence=st.sampled_from(["probe", "history", "transfer", "prior"]),
)
# Paths through one alternative of a union: a whole number stays whole, a float stays a float.
places = st.builds(
    Place,
    runner=names,
    pool=names,
    settings=st.dictionaries(
        names,
        names | st.booleans() | st.integers(-(2**53), 2**53) | finite
        | st.lists(names, max_size=3).map(tuple),
        max_size=4,
    ),
)  # fmt: skip
resources = st.builds(ResourceConfig)
knobs = st.builds(Knobs)
prices = st.builds(PriceQuote, as_of=times)
goals = st.builds(Goal, deadline_at=st.none() | times)
jobs = st.builds(
    JobSpec, places=st.lists(places, max_size=2).map(tuple), goal=goals, probe=st.builds(
        JobSpec.__dataclass_fields__["probe"].default.__class__
    )
)  # fmt: skip
options = st.builds(
    Option,
    resources=resources,
    knobs=knobs,
    price=prices,
    wait_s=distributions,
    run_s=distributions,
    total_s=distributions,
    cost_usd=distributions,
    memory_bytes=distributions,
    throughput_samples_per_s=distributions,
    total_interval=st.builds(Interval),
    cost_interval=st.builds(Interval),
    reasons=st.lists(st.builds(Reason), max_size=2).map(tuple),
)
probes = st.builds(ProbeResult, resources=resources, knobs=knobs, measured_at=times)
plans = st.builds(
    Plan,
    job=jobs,
    option=options,
    work=st.builds(WorkLoad),
    goal=goals,
    created_at=times,
)
estimates = st.builds(
    EstimateResult,
    created_at=times,
    job=jobs,
    work=st.builds(WorkLoad),
    goal=goals,
    recommendation=st.builds(
        Recommendation, flips=st.lists(st.builds(Flip), max_size=2).map(tuple)
    ),
    options=st.lists(options, max_size=2).map(tuple),
    probes=st.lists(probes, max_size=2).map(tuple),
    model=st.builds(ModelCard),
    warnings=st.lists(st.builds(Warning_), max_size=2).map(tuple),
)
decisions = st.builds(
    Decision,
    at=times,
    observation=st.dictionaries(names, finite | names | st.none(), max_size=3),
    alternatives=st.lists(st.tuples(names, st.none() | finite, names), max_size=2).map(tuple),
)


def through_text(obj):
    return from_json(type(obj), json.loads(json.dumps(to_json(obj), allow_nan=False)))


def no_nan(obj):
    return "nan" not in repr(obj)


@settings(max_examples=30, deadline=None)
@given(st.one_of(plans, estimates, decisions, probes, jobs).filter(no_nan))
def test_whatever_is_stored_comes_back_equal(obj):
    assert through_text(obj) == obj


@given(numbers)
def test_every_float_comes_back_even_an_infinite_one(value):
    goal = Goal(budget_usd=value)
    assert through_text(goal) == goal


def test_nan_has_a_stored_form_that_json_readers_accept():
    assert math.isnan(through_text(Goal(budget_usd=math.nan)).budget_usd)


def test_times_are_stored_in_utc_with_a_z():
    there = datetime(2026, 11, 21, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    assert to_json(there) == "2026-11-21T12:00:00Z"
    assert through_text(Goal(deadline_at=there)).deadline_at == there


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(StoreError, match="zone"):
        to_json(datetime(2026, 1, 1))


def test_plain_data_of_a_handle_comes_back():
    handle = Handle(runner="local", key="r-1/1", data={"pids": [1, 2], "at": 1.5, "x": None})
    assert through_text(handle) == handle


def test_states_are_stored_by_their_value():
    @dataclass(frozen=True)
    class Holder:
        state: RunState

    globals()["Holder"] = Holder
    assert to_json(Holder(RunState.STOPPED_BY_CAP)) == {"state": "stopped_by_cap"}


def test_unknown_keys_are_ignored_and_missing_ones_take_the_default():
    stored = to_json(Goal(budget_usd=3.0))
    del stored["confidence"]
    stored["from_a_later_version"] = {"a": 1}
    assert from_json(Goal, stored) == Goal(budget_usd=3.0)


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        ({"nodes": "two"}, "ResourceConfig.nodes"),
        ({"nodes": True}, "ResourceConfig.nodes"),
        ({"market": "moon"}, "ResourceConfig.market"),
        ({"runner": None}, "ResourceConfig.runner"),
    ],
)
def test_damage_names_its_place(damage, place):
    good = to_json(ResourceConfig(runner="local", pool="cpu", market="local"))
    with pytest.raises(StoreError, match=place):
        from_json(ResourceConfig, {**good, **damage})


def test_a_missing_key_without_default_is_damage():
    with pytest.raises(StoreError, match="pool"):
        from_json(ResourceConfig, {"runner": "local", "market": "local"})


def test_quantiles_that_decrease_are_damage_not_a_crash():
    bad = to_json(Distribution.exactly(1.0))
    bad["quantiles"][0] = 5.0
    with pytest.raises(StoreError, match="quantiles"):
        from_json(Distribution, bad)


@given(st.recursive(
    st.none() | st.booleans() | finite | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
))  # fmt: skip
def test_any_json_at_all_is_a_plan_or_a_store_error(data):
    with pytest.raises(StoreError):
        from_json(Plan, data)


def test_what_has_no_stored_form_is_refused():
    with pytest.raises(StoreError, match="no stored form"):
        to_json(replace(Goal(), prefer=object()))
