"""How soon a change is made: nothing else is done while it waits for its step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from planner.sdk.levers import Knobs
from planner.sdk.loading import LoaderSettings
from planner.sdk.screening import Screening

KNOBS = Knobs(global_batch=8, micro_batch=8, loader_workers=100, memory="normal", lr_scale=1.0)


def screening(*, horizon: int, usual_step_s: float | None) -> Screening:
    changes: Any = SimpleNamespace(
        in_force=SimpleNamespace(
            target=lambda adjust: KNOBS._replace(**adjust),
            loader_settings=lambda knobs: LoaderSettings(knobs.loader_workers),
        ),
        reports=None,
    )
    names = ("parts", "crew", "workers", "keeper", "courier", "requests")
    gear: Any = SimpleNamespace(
        **dict.fromkeys(names),
        stopwatch=SimpleNamespace(usual_step_s=usual_step_s),
        accumulation=SimpleNamespace(gathering=None),
    )
    feed: Any = SimpleNamespace(horizon=horizon, settings=LoaderSettings(100))
    return Screening(gear, feed, changes)


@pytest.mark.parametrize(
    ("horizon", "usual_step_s", "steps"),
    [
        (200, 0.01, 200),  # all that is drawn ahead is used
        (200, 1.0, 10),  # the later ones are drawn anew
        (200, 60.0, 0),
        (6, None, 6),  # before the first step
    ],
)
def test_a_change_waits_for_what_is_drawn_but_not_for_long(
    horizon: int, usual_step_s: float | None, steps: int
) -> None:
    made = screening(horizon=horizon, usual_step_s=usual_step_s)
    assert made.lead_steps(None) == made.lead_steps({"micro_batch": 4}) == steps


@pytest.mark.parametrize(("usual_step_s", "steps"), [(0.01, 4), (5.0, 2), (60.0, 0)])
def test_new_loaders_get_some_steps_to_come_up_in(usual_step_s: float, steps: int) -> None:
    made = screening(horizon=200, usual_step_s=usual_step_s)
    assert made.lead_steps({"loader_workers": 0}) == steps
