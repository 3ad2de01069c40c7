"""What the rules of a change say, and what is expected of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.core.adjust import Adjustment, parse_wish, pass_samples, planned
from planner.core.adjustrules import AdjustRefusedError, Site, decide
from planner.core.job import AdjustPolicy
from planner.services.runs.expect import expect
from planner.services.runs.facts import facts_of
from planner.services.runs.runview import run_view
from runners.fake import FakeRunner
from tests.support.runs import FakeClock, fake_estimate, make_case, plan_of

ALL = ("workers", "micro_batch", "loader_workers", "memory", "global_batch")


@pytest.fixture
def run(tmp_path):
    return plan_of(fake_estimate(tmp_path, workers=1, slots=4), "r-0001")


def facts(plan, levers=ALL, **changes):
    runner = FakeRunner(FakeClock())
    return replace(facts_of(plan, levers, lambda _name: runner, ["fake"]), **changes)


def verdict(plan, *pairs, now=None, told=None, **changes):
    flags = {key: changes.pop(key) for key in ("allow_maths", "lr_rule") if key in changes}
    wish = parse_wish(pairs, relaunch=changes.pop("relaunch", False), **flags)
    return decide(wish, now or planned(plan), told or facts(plan, **changes))


def refusal(plan, *pairs, **changes):
    with pytest.raises(AdjustRefusedError) as refused:
        verdict(plan, *pairs, **changes)
    return refused.value.code


def test_what_the_job_can_change_is_done_in_flight(run):
    found = verdict(run, "workers=2", "loader_workers=2")
    assert (found.how, found.why, found.asks) == ("in_flight", "", ())
    assert found.target.resources.workers == 2
    assert (found.target.knobs.micro_batch, found.target.knobs.accumulation) == (10, 1)
    assert found.target.price.usd_per_h == pytest.approx(2 * run.option.price.usd_per_h)


def test_no_more_loader_processes_than_a_machine_can_bear(run):
    assert verdict(run, "loader_workers=16").how == "in_flight"
    assert refusal(run, "loader_workers=5000") == "adjust.loader_workers"
    now = planned(run)
    many = replace(now, knobs=replace(now.knobs, loader_workers=100))
    assert verdict(run, "loader_workers=90", now=many).how == "in_flight"  # fewer than there are


@pytest.mark.parametrize(
    ("levers", "why"),
    [((), "its workers join each other by themselves"), (ALL, "")],
)
def test_why_it_takes_a_relaunch(run, levers, why):
    assert verdict(run, "workers=2", levers=levers).why == why


def test_a_runner_that_cannot_grow_takes_a_relaunch(run):
    told = facts(run)
    still = {key: replace(site, grows=False) for key, site in told.sites.items()}
    assert "cannot start workers" in verdict(run, "workers=2", told=replace(told, sites=still)).why


@pytest.mark.parametrize(
    ("pairs", "code"),
    [
        (("workers=5",), "adjust.workers"),
        (("micro_batch=11",), "adjust.micro_batch"),
        (("global_batch=20",), "adjust.maths"),
        (("move=local:1",), "adjust.place"),
    ],
)
def test_what_cannot_be_is_refused(run, pairs, code):
    assert refusal(run, *pairs) == code


def test_more_workers_than_samples_of_a_step_are_refused(tmp_path):
    plan = plan_of(fake_estimate(tmp_path, workers=1, slots=8, global_batch=4), "r-0001")
    assert refusal(plan, "workers=8") == "adjust.workers"
    assert refusal(plan, "workers=4", "global_batch=3", allow_maths=True) == "adjust.batch"


def test_workers_are_whole_replicas(tmp_path):
    plan = plan_of(fake_estimate(tmp_path, workers=4, slots=8, global_batch=16), "r-0001")
    knobs = replace(plan.option.knobs, tensor_parallel=2, pipeline_parallel=2)
    plan = replace(plan, option=replace(plan.option, knobs=replace(knobs, micro_batch=16)))
    assert refusal(plan, "workers=6") == "adjust.workers"
    more = verdict(plan, "workers=8").target
    assert (more.knobs.replicas(8), more.knobs.micro_batch, more.knobs.accumulation) == (2, 16, 1)
    assert pass_samples(more.knobs, 8) == 8
    assert refusal(plan, "workers=8", "micro_batch=9") == "adjust.micro_batch"


def test_the_job_file_has_its_say(run):
    never = AdjustPolicy(allow=(), ask=("micro_batch",), never=("workers",))
    assert refusal(run, "workers=2", policy=never) == "adjust.never"
    found = verdict(run, "micro_batch=5", "memory=low", policy=never)
    assert found.asks == ("micro_batch", "memory")


def test_the_global_batch_is_changed_with_its_schedule_and_changed_back(run):
    more = verdict(run, "global_batch=40", allow_maths=True, lr_rule="sqrt").target
    assert (more.lr_scale, more.schedule_batch, more.knobs.global_batch) == (2.0, 10, 40)
    back = verdict(run, "global_batch=10", allow_maths=True, lr_rule="sqrt", now=more).target
    assert (back.lr_scale, back.schedule_batch) == (1.0, None)


def test_memory_halves_the_micro_batch_and_gives_it_back(run):
    low = verdict(run, "memory=low").target
    assert (low.memory, low.knobs.micro_batch, low.knobs.accumulation) == ("low", 5, 2)
    assert verdict(run, "memory=normal", now=low).target.knobs.micro_batch == 10


def test_a_micro_batch_that_the_estimate_expects_to_fail_is_refused(run):
    small = replace(planned(run), knobs=replace(run.option.knobs, micro_batch=2, accumulation=5))
    options = tuple(
        replace(run.option, knobs=replace(run.option.knobs, micro_batch=micro), p_oom=p_oom)
        for micro, p_oom in ((2, 0.0), (4, 0.4), (8, 0.9))
    )
    assert verdict(run, "micro_batch=5", now=small, options=options).how == "in_flight"
    assert refusal(run, "micro_batch=9", now=small, options=options) == "adjust.memory"
    assert verdict(run, "micro_batch=9", now=small).how == "in_flight"


def test_a_script_without_the_sdk_is_told_plainly(run):
    assert refusal(run, "memory=low", tier=0) == "adjust.tier"
    assert refusal(run, "micro_batch=5", tier=0, relaunch=True) == "adjust.tier"
    assert refusal(run, "workers=2", tier=0) == "adjust.tier"
    assert verdict(run, "workers=2", tier=0, relaunch=True).how == "relaunch"
    command = ("train", "--batch={micro_batch}")
    found = verdict(run, "micro_batch=5", tier=0, relaunch=True, command=command)
    assert found.how == "relaunch"


@pytest.mark.parametrize(
    ("network", "how"), [("fake", "in_flight"), (None, "relaunch"), ("other", "relaunch")]
)
def test_a_move_is_in_flight_within_one_network_only(run, network, how):
    told = facts(run)
    offers = tuple(
        replace(o, resources=replace(o.resources, runner="far", pool="gpu", gpu="A100"))
        for o in told.sites["fake", "cpu"].offers
    )
    far = Site(runner="far", pool="gpu", grows=True, shrinks=True, network=network, offers=offers)
    told = replace(told, sites={**told.sites, ("far", "gpu"): far})
    found = verdict(run, "move=far:2", told=told)
    assert (found.how, found.moves, found.target.workers) == (how, True, 2)


def test_a_move_to_where_it_is_changes_the_number_of_workers_only_and_says_so(run):
    found = verdict(run, "move=fake:2")
    assert (found.how, found.moves) == ("in_flight", False)
    assert found.what == "workers 1 -> 2 (the place stays fake:cpu)"
    assert found.target == verdict(run, "workers=2").target
    policy = AdjustPolicy(allow=(), ask=("move",), never=("workers",))
    assert refusal(run, "move=fake:2", policy=policy) == "adjust.never"


def test_a_place_that_is_named_by_its_runner_alone_is_the_one_in_force(run):
    told = facts(run)
    offers = tuple(
        replace(o, resources=replace(o.resources, pool="other"))
        for o in told.sites["fake", "cpu"].offers
    )
    other = replace(told.sites["fake", "cpu"], pool="other", offers=offers)
    told = replace(told, sites={("fake", "other"): other, **told.sites})
    assert verdict(run, "move=fake:2", told=told).target.resources.pool == "cpu"
    assert verdict(run, "move=fake", told=told).what == (
        "nothing to do: it is at fake:cpu with 1 worker already; its other places: fake:other"
    )
    assert verdict(run, "move=fake:other", told=told).what == (
        "move 1 x cpu at fake:cpu -> 1 x cpu at fake:other"
    )


def test_a_place_has_one_name(run):
    assert list(facts(run).sites) == [("fake", "cpu")]


# ---- what is expected


def expected(tmp_path, *pairs, options=(), loaders=0, **changes):
    case = make_case(tmp_path, workers=1, slots=4, samples=2000)
    case.clock.at(60, lambda: case.send("cancel"))
    case.go()
    events = [e for e in case.events if e.type == "run.progress"]
    record = case.record
    view = run_view(case.plan, record, events[-1].ts, supervisor_alive=True)
    view = replace(view, **{"samples_per_s": 20.0, "usd_per_h": 3.6, **changes})
    now = planned(case.plan)
    now = replace(now, knobs=replace(now.knobs, loader_workers=loaders))
    wish = parse_wish(pairs, relaunch=False)
    found = decide(wish, now, facts(case.plan))
    return case.plan, expect(view, wish, now, found, options)


def test_without_an_estimate_the_rate_is_a_guess(tmp_path):
    _, found = expected(tmp_path, "workers=2")
    assert found.basis == "guess"
    assert found.samples_per_s.lo == 20.0 and found.samples_per_s.hi == 40.0
    assert 30 < found.samples_per_s.mid < 40
    assert found.dearer and found.peak_usd_per_h == pytest.approx(7.2)
    assert found.stall_s < 1.0 < found.downtime_s


@pytest.mark.parametrize(
    ("pairs", "changes", "stall_s"),
    [
        (("workers=2",), {"last_checkpoint_bytes": None}, 0.55),
        (("workers=2",), {"last_checkpoint_bytes": 100_000_000}, 0.75),
        (("micro_batch=5",), {"last_checkpoint_bytes": 100_000_000}, 1.0),  # two of its steps
        (("loader_workers=2",), {"samples_per_s": None}, 0.2),
    ],
)
def test_a_stall_depends_on_what_is_changed(tmp_path, pairs, changes, stall_s):
    _, found = expected(tmp_path, *pairs, **changes)
    assert found.stall_s == pytest.approx(stall_s)


@pytest.mark.parametrize(("loaders", "downtime_s"), [(0, 2.0), (4, 6.0), (100, 12.0)])
def test_a_change_waits_for_what_loaders_have_drawn(tmp_path, loaders, downtime_s):
    """A second to be heard of, eight steps of half a second, and a stall of one second."""
    _, found = expected(tmp_path, "micro_batch=5", loaders=loaders)
    assert found.downtime_s == pytest.approx(downtime_s)


@pytest.mark.parametrize(("asked", "stall_s"), [("workers=2", 0.9), ("micro_batch=5", 1.0)])
def test_the_last_change_of_the_same_kind_tells_its_stall(tmp_path, asked, stall_s):
    wish = parse_wish(["workers=2"], relaunch=False)
    told = {"id": "d1", "command": "c1", "what": "grown", "how": "in_flight", "wish": wish}
    past = Adjustment(**told, state="done", stall_s=0.9)
    _, found = expected(tmp_path, asked, adjustments=(past,))
    assert found.stall_s == pytest.approx(stall_s)


def test_the_kept_estimate_says_it_by_its_ratio(tmp_path):
    plan, _ = expected(tmp_path, "workers=2")
    option = plan.option
    two = replace(
        option,
        resources=replace(option.resources, workers_per_node=2, vcpus_per_node=2),
        knobs=replace(option.knobs, micro_batch=5),
        throughput_samples_per_s=option.throughput_samples_per_s.scaled(1.7),
    )
    shared = replace(  # as many samples a pass, but another layout
        two,
        knobs=replace(two.knobs, tensor_parallel=2),
        throughput_samples_per_s=option.throughput_samples_per_s.scaled(5.0),
    )
    (tmp_path / "b").mkdir()
    _, found = expected(tmp_path / "b", "workers=2", options=(shared, option, two))
    assert found.basis == "estimate"
    assert found.samples_per_s.mid == pytest.approx(34.0)


def test_fewer_workers_cost_no_more(tmp_path):
    _, found = expected(tmp_path, "micro_batch=5")
    assert not found.dearer
    assert any("BatchNorm" in note for note in found.notes)
