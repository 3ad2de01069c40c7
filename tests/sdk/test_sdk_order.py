"""Which samples each worker takes: every one once, whatever the sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.sdk.order import Micro, has_room, micro_batches, over_from, step_bounds, step_end

workers = st.integers(1, 9)
sizes = st.integers(1, 300)


@given(samples=st.integers(0, 2000), batch=sizes, count=workers, drop_last=st.booleans())
def test_steps_cover_an_epoch_without_gap_or_overlap(
    samples: int, batch: int, count: int, drop_last: bool
) -> None:
    bounds = list(step_bounds(samples, batch, count, drop_last=drop_last))
    edges = [0, *(stop for _, stop in bounds)]
    assert [start for start, _ in bounds] == edges[:-1]
    left_out = samples - edges[-1]
    assert 0 <= left_out < batch if drop_last else left_out == 0


@given(samples=st.integers(1, 2000), batch=sizes, count=workers, done=st.integers(0, 50))
def test_steps_from_a_boundary_are_the_rest_of_the_same_steps(
    samples: int, batch: int, count: int, done: int
) -> None:
    bounds = list(step_bounds(samples, batch, count))
    done = min(done, len(bounds) - 1)
    assert list(step_bounds(samples, batch, count, start=bounds[done][0])) == bounds[done:]


@given(samples=st.integers(0, 400), batch=sizes, drop_last=st.booleans(), at=st.integers(0, 500))
def test_an_epoch_is_over_where_no_step_begins(
    samples: int, batch: int, drop_last: bool, at: int
) -> None:
    over = at >= over_from(samples, batch, drop_last=drop_last)
    assert over == (step_end(samples, batch, 1, drop_last=drop_last, start=at) is None)


@given(samples=st.integers(1, 2000), batch=sizes, count=workers)
def test_only_the_last_step_differs_in_size(samples: int, batch: int, count: int) -> None:
    *full, last = [stop - start for start, stop in step_bounds(samples, batch, count)]
    assert set(full) <= {batch}
    assert last < batch + 2 * count
    assert last >= 2 * count or not full


def test_a_last_step_too_small_to_share_joins_the_one_before() -> None:
    assert list(step_bounds(131, 64, 2)) == [(0, 64), (64, 131)]
    assert list(step_bounds(132, 64, 2)) == [(0, 64), (64, 128), (128, 132)]


@given(samples=st.integers(1, 400), batch=sizes, before=workers, after=workers)
def test_only_an_epochs_last_step_has_no_room_for_more_workers(
    samples: int, batch: int, before: int, after: int
) -> None:
    """Else workers that wait to join wait for ever."""
    *full, _ = starts = [start for start, _ in step_bounds(samples, batch, before)]
    room = {start: has_room(samples, batch, after, start=start) for start in starts}
    alike = len(list(step_bounds(samples, batch, after))) == len(starts)
    assert room[0]
    assert all(room[start] for start in full) or not alike


def test_a_short_last_step_is_passed_over_where_a_longer_one_gives_two_samples_each() -> None:
    starts = (0, 8, 16)
    assert [has_room(20, 8, 3, start=start) for start in starts] == [True, True, False]
    assert [has_room(20, 8, 2, start=start) for start in starts] == [True, True, True]
    assert [has_room(20, 4, 3, start=start) for start in (0, 4, 8)] == [True, True, True]


@given(per_worker=st.integers(1, 60), count=workers, data=st.data())
def test_workers_share_a_step_without_gap_or_overlap(
    per_worker: int, count: int, data: st.DataObject
) -> None:
    samples = per_worker * count + data.draw(st.integers(0, count - 1))
    micro_batch = data.draw(st.integers(1, 70))
    shares = [
        micro_batches(samples, rank=rank, workers=count, micro_batch=micro_batch)
        for rank in range(count)
    ]
    taken = [i for share in shares for micro in share for i in range(micro.start, micro.stop)]
    assert taken == list(range(samples))
    assert len({len(share) for share in shares}) == 1, "workers meet in the last micro-batch"
    for share in shares:
        sizes = [micro.stop - micro.start for micro in share]
        assert max(sizes) <= micro_batch + (2 if micro_batch <= 3 else 0)
        assert min(sizes) >= 2 or per_worker < 2 or micro_batch < 2
        assert [m.first for m in share] == [True] + [False] * (len(share) - 1)
        assert [m.last for m in share] == [False] * (len(share) - 1) + [True]


def weights(share: tuple[Micro, ...], count: int) -> list[float]:
    """What each sample's gradient is multiplied by in the end, of one worker's samples."""
    out: list[float] = []
    for i, micro in enumerate(share):
        size = micro.stop - micro.start
        factor = 1.0
        for later in share[i + 1 :]:
            factor *= later.carry
        out += [factor * share[-1].finish / size / count] * size
    return out


@given(per_worker=st.integers(4, 60), count=workers, data=st.data())
def test_every_sample_weighs_the_same_in_a_step(
    per_worker: int, count: int, data: st.DataObject
) -> None:
    samples = per_worker * count + data.draw(st.integers(0, count - 1))
    micro_batch = data.draw(st.integers(2, 70))
    for rank in range(count):
        share = micro_batches(samples, rank=rank, workers=count, micro_batch=micro_batch)
        assert weights(share, count) == pytest.approx([1 / samples] * len(weights(share, count)))
        assert share[-1].finish == pytest.approx(
            micro_batches(samples, rank=0, workers=count, micro_batch=micro_batch)[-1].finish
        ), "after the workers met, all must scale alike"


def test_a_worker_without_a_share_does_a_sample_that_weighs_nothing() -> None:
    """A loss may leave more workers than the step has samples; the others wait for all parts."""
    shares = [micro_batches(2, rank=rank, workers=4, micro_batch=8) for rank in range(4)]
    assert [len(share) for share in shares] == [1, 1, 1, 1]
    parts = [(micro.start, micro.stop, micro.weight) for (micro,) in shares]
    assert parts == [(0, 1, 0.5), (1, 2, 0.5), (1, 2, 0.0), (1, 2, 0.0)]
