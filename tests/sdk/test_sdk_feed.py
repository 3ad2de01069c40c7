"""Where steps are, how they are shared out, and that a change never loses or repeats a sample."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from planner.sdk.loading import END, LoaderSettings
from planner.sdk.plannedfeed import PlannedFeed, Shape

pytestmark = pytest.mark.torch

ALONE = Shape(rank=0, workers=1, global_batch=8, micro_batch=8, split=True, drop_last=False)


def feed_of(samples: int, shape: Shape = ALONE, loaders: int = 0) -> PlannedFeed:
    loader = DataLoader(range(samples), batch_size=8, shuffle=True)  # type: ignore[arg-type]
    settings_ = LoaderSettings(loaders)
    return PlannedFeed(loader, shape=shape, shuffle=True, seed=1, settings=settings_)


@given(samples=st.integers(9, 60), start=st.integers(0, 40), steps=st.integers(0, 20))
def test_so_many_steps_ahead_is_where_they_lead(samples: int, start: int, steps: int) -> None:
    feed = feed_of(samples)
    order, position = feed.ahead(0, 0, start)
    expected = (order, position)
    for _ in range(steps):
        step = feed.step(*expected)
        assert step is not None
        expected = (expected[0], step.stop)
        if feed.done(step.stop):
            expected = (expected[0] + 1, 0)
    assert feed.ahead(order, position, steps) == expected


@settings(max_examples=60)
@example(samples=26, changes=[(1, 3, 8, True)])  # more workers than an epoch's end has samples
@given(
    samples=st.integers(20, 60),
    changes=st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 8), st.booleans()),
        max_size=4,
    ),
)
def test_every_epoch_holds_every_sample_once_over_all_workers(
    samples: int, changes: list[tuple[int, int, int, bool]]
) -> None:
    """Workers of a changing number, micro-batches that change, announced ahead or not at all."""
    feeds = [feed_of(samples)]
    seen: Counter[int] = Counter()
    epochs, order, position, step_number = 3, 0, 0, 0
    plan = dict.fromkeys(range(200), None) | {c[0] * 3: c[1:] for c in changes}
    feeds[0].open(0, 0, again=False)
    while order < epochs:
        change = plan[step_number]
        if change is not None:
            workers, micro, announced = change
            shapes = [
                replace(ALONE, rank=r, workers=workers, micro_batch=micro) for r in range(workers)
            ]
            while len(feeds) < workers:
                feeds.append(feed_of(samples))
                feeds[-1].open(order, position, again=False)
            del feeds[workers:]
            for feed, shape in zip(feeds, shapes, strict=True):
                if announced:
                    feed.announce(order, position, shape)
                feed.reshape(order, position, shape)
        stops = set()
        for feed in feeds:
            step = feed.step(order, position)
            assert step is not None
            stops.add(step.stop)
            for micro in step.micros:
                batch = feed.fetch()
                assert batch is not END
                assert len(batch) == micro.stop - micro.start
                if micro.weight:  # a worker without a share does a sample that does not count
                    seen.update(batch.tolist())
        (position,) = stops
        step_number += 1
        if feeds[0].done(position):
            order, position = order + 1, 0
            for feed in feeds:
                feed.open(order, 0, again=False)
    assert seen == Counter(dict.fromkeys(range(samples), epochs))


def test_what_was_drawn_ahead_is_passed_over_after_a_rewind() -> None:
    feed = feed_of(64, loaders=2)
    feed.open(0, 0, again=False)
    first = [feed.fetch().tolist() for _ in range(2)]
    feed.rewind(0, 8, replace(ALONE, micro_batch=4))
    again = [feed.fetch().tolist() for _ in range(4)]
    assert again[0] + again[1] == first[1]
    rest = [feed.fetch().tolist() for _ in range(10)]
    assert feed.fetch() is END
    assert sorted(first[0] + [i for part in (*again, *rest) for i in part]) == list(range(64))
    feed.close()


def test_what_was_drawn_before_a_change_was_announced_is_drawn_anew() -> None:
    feed = feed_of(64, loaders=2)
    feed.open(0, 0, again=False)
    seen = [feed.fetch().tolist() for _ in range(2)]  # and more of the old shape on their way
    cut = replace(ALONE, micro_batch=4)
    feed.announce(0, 24, cut)
    seen.append(feed.fetch().tolist())
    feed.reshape(0, 24, cut)
    rest = [feed.fetch().tolist() for _ in range(10)]
    assert {len(part) for part in rest} == {4}
    assert feed.fetch() is END
    assert sorted(i for part in (*seen, *rest) for i in part) == list(range(64))
    feed.close()


def test_the_end_of_an_epoch_can_be_taken_back() -> None:
    """Everything was drawn ahead already when a worker is lost in the last step."""
    feed = feed_of(32, loaders=2)
    feed.open(0, 0, again=False)
    whole = [feed.fetch().tolist() for _ in range(4)]
    feed.rewind(0, 24, ALONE)
    assert feed.fetch().tolist() == whole[3]
    assert feed.fetch() is END
    feed.close()
