"""How far a run is, and how long it still takes, from what its workers say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.adjust import planned
from planner.services.supervisor.progress import Progress
from tests.support.runs import fake_estimate, plan_of


@pytest.fixture
def plan(tmp_path):
    """200 steps of about half a second."""
    return plan_of(fake_estimate(tmp_path), "r-1")


def attached(progress, **keys):
    known = {"epochs": 2, "steps_per_epoch": 100, "global_batch": 10, "resumed": None}
    progress.take({"type": "attached", **known, **keys})


def steps(progress, number, times, waits=None):
    waits = [0.0] * len(times) if waits is None else waits
    progress.take({"type": "steps", "step": number, "step_time_s": times, "wait_s": waits})


def test_before_any_step_nothing_is_known_of_the_rest(plan):
    progress = Progress(plan)
    assert progress.remaining() is None
    attached(progress)
    assert progress.remaining() is None
    assert (progress.steps_total, progress.fraction) == (200, 0.0)


@pytest.mark.parametrize(
    ("resumed", "steps_total"),
    [
        ({"step": 130, "epoch": 1, "position": 300}, 200),
        ({"step": 65, "epoch": 1, "position": 300}, 135),  # half of them were twice as large
        ({"step": 230, "epoch": 1, "position": 300}, 300),
    ],
)
def test_where_steps_of_another_size_were_done_samples_tell_what_is_left(
    plan, resumed, steps_total
):
    progress = Progress(plan)
    attached(progress, samples=1000, resumed=resumed)
    assert (progress.step, progress.steps_total) == (resumed["step"], steps_total)


def test_the_first_step_of_an_attempt_is_known_by_its_time(plan):
    progress = Progress(plan)
    attached(progress)
    progress.take({"type": "steps", "t": 100.0, "step": 3, "step_time_s": [9.0, 0.5, 0.5]})
    assert (progress.first_step_t, progress.stall_s) == (99.0, None)
    progress.take({"type": "steps", "t": 110.0, "step": 4, "step_time_s": [10.0]})
    progress.new_attempt(step=4)
    assert progress.first_step_t is None
    progress.take({"type": "steps", "t": 130.0, "step": 6, "step_time_s": [5.0, 2.0]})
    assert (progress.first_step_t, progress.stall_s) == (128.0, 18.0)


def test_an_epochs_last_step_may_be_shorter(plan):
    progress = Progress(plan)
    at = {"step": 5, "epoch": 0, "position": 95}
    attached(progress, samples=995, resumed=at)
    assert progress.steps_total == 5 + 90 + 100


def some_steps(progress, number, samples, epoch):
    many = {"step_time_s": [0.1] * number, "wait_s": [0.0] * number}
    progress.take({"type": "steps", "step": number, "samples": samples, "epoch": epoch, **many})


@pytest.mark.parametrize("told_of_epochs", [True, False])
def test_what_is_left_out_of_each_epoch_is_not_left_to_do(plan, told_of_epochs):
    """100 samples, three steps of 32, six of 16: five epochs of each, but for a step of 32."""
    progress = Progress(plan)
    attached(progress, epochs=10, steps_per_epoch=3, global_batch=32, samples=100)
    assert progress.steps_total == 30
    for epoch in range(5) if told_of_epochs else ():
        some_steps(progress, 3 * (epoch + 1), 96 * (epoch + 1), epoch)
        progress.take({"type": "epoch", "epoch": epoch, "step": 3 * (epoch + 1), "tail_s": 0.1})
    some_steps(progress, 16, 16 * 32, 5)
    now = {"step": 16, "samples": 16 * 32, "epoch": 5, "position": 32}
    now |= {"global_batch": 16, "steps_per_epoch": 6}
    progress.take({"type": "adjusted", **now})
    assert progress.steps_total == 16 + 4 + 4 * 6
    assert not progress.in_tail
    some_steps(progress, 20, 16 * 32 + 4 * 16, 5)
    assert progress.in_tail


def test_a_global_batch_that_the_job_tells_nothing_of_leaves_out_what_it_did_before(plan):
    plan = replace(plan, work=replace(plan.work, samples=100, epochs=10))
    progress = Progress(plan)
    attached(progress, epochs=10, steps_per_epoch=3, global_batch=32, samples=100)
    some_steps(progress, 15, 15 * 32, 5)
    knobs = replace(plan.option.knobs, global_batch=16)
    progress.expect(replace(planned(plan), knobs=knobs))
    assert progress.steps_total == 15 + 5 * 6


def test_steady_steps_give_a_narrow_estimate(plan):
    progress = Progress(plan)
    attached(progress)
    for number in range(10, 101, 10):
        steps(progress, number, [2.0] * 10)
    remaining = progress.remaining()
    assert remaining.steps == 100
    assert remaining.run_s.p50 == pytest.approx(200, rel=0.05)
    assert remaining.run_s.p95 / remaining.run_s.p05 < 1.2
    assert progress.samples_per_s == pytest.approx(5.0)


def test_the_recent_past_counts_more(plan):
    progress = Progress(plan)
    attached(progress)
    for number in range(1, 101):
        steps(progress, number, [1.0 if number <= 50 else 3.0])
    assert progress.remaining().run_s.p50 > 230


def test_the_first_step_is_not_taken_for_the_pace(plan):
    progress = Progress(plan)
    attached(progress)
    steps(progress, 3, [30.0, 0.5, 0.5])
    assert progress.remaining().run_s.p50 < 200


def test_tails_and_checkpoints_are_part_of_the_rest(plan):
    progress = Progress(plan)
    attached(progress)
    for number in range(10, 101, 10):
        steps(progress, number, [0.5] * 10)
    before = progress.remaining().run_s.p50
    progress.take({"type": "epoch", "epoch": 0, "step": 100, "tail_s": 40.0})
    assert progress.remaining().run_s.p50 > before + 30
    progress.take({"type": "checkpoint", "step": 100, "duration_s": 10.0})
    assert progress.remaining().run_s.p50 > before + 50
    assert progress.longest_tail_s == 40.0
    assert progress.stop_s(99.0) == pytest.approx(15.5)


def test_a_checkpoint_that_is_written_meanwhile_costs_only_its_stall(plan):
    progress, synchronous = Progress(plan), Progress(plan)
    for one in (progress, synchronous):
        attached(one)
        for number in range(10, 101, 10):
            steps(one, number, [0.5] * 10)
    progress.take({"type": "checkpoint", "step": 100, "duration_s": 60.0, "stall_s": 0.25})
    synchronous.take({"type": "checkpoint", "step": 100, "duration_s": 60.0})
    assert progress.times_s["checkpoints"] == pytest.approx(0.25)
    assert synchronous.times_s["checkpoints"] == pytest.approx(60.0)
    assert (progress.checkpoint_stall_s, progress.checkpoint_s) == (0.25, 60.0)
    assert synchronous.checkpoint_stall_s == 60.0
    assert progress.stop_s(0.0) == synchronous.stop_s(0.0) == pytest.approx(90.5)
    assert progress.remaining().run_s.p50 < synchronous.remaining().run_s.p50


def test_waiting_for_data_is_told_apart(plan):
    progress = Progress(plan)
    attached(progress)
    steps(progress, 4, [1.0] * 4, [0.25] * 4)
    assert progress.loader_wait == pytest.approx(0.25)
    assert progress.times_s == pytest.approx({"loading": 1.0, "steps": 3.0})


def test_a_new_attempt_counts_from_where_it_resumed(plan):
    progress = Progress(plan)
    attached(progress)
    steps(progress, 50, [0.5] * 50)
    progress.new_attempt()
    attached(progress, resumed={"step": 40, "epoch": 0, "path": "x"})
    assert (progress.step, progress.steps_seen) == (40, 0)
    progress.new_attempt()
    attached(progress)
    assert progress.step == 0


def test_steps_are_never_behind_what_was_saved(plan):
    progress = Progress(plan)
    attached(progress)
    steps(progress, 95, [0.5] * 95)
    progress.take({"type": "checkpoint", "step": 104, "epoch": 1, "samples": 1040})
    assert (progress.step, progress.epoch, progress.samples) == (104, 1, 1040)
    assert progress.fraction == pytest.approx(0.52)
    progress.take({"type": "checkpoint", "step": 60, "epoch": 0, "samples": 600})
    assert progress.step == 104


def test_a_job_that_says_nothing_of_its_length_uses_the_plans(plan):
    progress = Progress(plan)
    attached(progress, steps_per_epoch=None, epochs=None, global_batch=None)
    steps(progress, 50, [0.5] * 50)
    assert progress.fraction == 0.25


def test_the_peak_is_the_largest_of_all_workers(plan):
    progress = Progress(plan)
    progress.take_memory({"peak_device_bytes": 5})
    progress.take_memory({"peak_device_bytes": None, "peak_rss_bytes": 9})
    progress.take_memory({"peak_device_bytes": 7})
    assert progress.peak_memory_bytes == 9


odd = st.sampled_from(
    [None, -3, 0, 7, 10**9, True, 0.5, -1.0, 1e308, float("inf"), float("nan"), "x"]
)
KEYS = ["step", "epoch", "samples", "tail_s", "duration_s", "stall_s", "epochs"]
KEYS += ["steps_per_epoch", "global_batch", "peak_device_bytes", "peak_rss_bytes"]
KINDS = ["attached", "steps", "epoch", "checkpoint", "finished", "memory", "other"]
said = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS)},
    optional={
        **dict.fromkeys(KEYS, odd),
        "step_time_s": odd | st.lists(odd, max_size=4),
        "wait_s": odd | st.lists(odd, max_size=4),
        "resumed": odd | st.dictionaries(st.sampled_from(KEYS), odd, max_size=3),
    },
)


@settings(max_examples=300, deadline=None)
@given(st.lists(said, max_size=8))
def test_nothing_a_job_says_breaks_the_supervisor(tmp_path_factory, events):
    progress = Progress(plan_of(fake_estimate(tmp_path_factory.mktemp("p")), "r-1"))
    for event in events:
        progress.take(event)
        progress.take_memory(event)
        progress.remaining()
        assert 0.0 <= progress.fraction <= 1.0
        assert progress.stop_s(1.0) >= 0
        assert progress.samples_per_s is None or progress.samples_per_s > 0
