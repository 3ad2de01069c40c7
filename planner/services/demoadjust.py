"""A change of a run that is only played: expected as in a live session, then made up.

The recording goes on at its own pace and price, and whoever watches is told so: what is in force
changes, what was recorded does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from planner.core.adjust import Expectation, InForce, Wish, planned
from planner.core.adjustrules import Facts, Site, decide
from planner.core.plan import Decision
from planner.core.types import Offer, Option
from planner.demo.play import Play
from planner.services.api import RunView
from planner.services.runs.expect import expect, expected_text
from planner.store.codec import to_json
from planner.store.record import RunRecord

MADE_UP = "made up: the recording goes on at its own pace and price"
_LEAST_S = 1.0
"""Recorded seconds from a request until it is told as done, at the least."""


def expectation(
    play: Play, at_s: float, view: RunView, wish: Wish, options: Sequence[Option]
) -> tuple[Expectation, InForce]:
    """What would be expected of a change if the run were at work, and what would be in force.

    Args:
        play: What is played.
        at_s: The recorded second at which it is asked for.
        view: The run as it is played.
        wish: What is asked for.
        options: Those of the recorded estimate: what the recorded machine offered.

    Raises:
        AdjustRefusedError: It could not or might not be done.
    """
    before = RunRecord.replay(play.events(_begins_s(play, at_s)))
    now = before.adjust.in_force or planned(view.plan)
    verdict = decide(wish, now, _facts(view, options))
    found = expect(view, wish, now, verdict, options)
    return replace(found, notes=(*found.notes, MADE_UP)), verdict.target


def play_change(
    play: Play, at_s: float, wish: Wish, found: Expectation, target: InForce
) -> Expectation:
    """Have it done after the time that it would take; the expectation with the request's id.

    Args:
        play: What is played; events are added to what was asked of it.
        at_s: The recorded second at which it is asked for.
        wish: What is asked for.
        found: What is expected of it.
        target: What is in force once it is done.
    """
    name = f"you{len(play.asked) + 1}"
    command, expected = f"c-{name}", expected_text(found)
    begins_s = _begins_s(play, at_s)
    # Before the recording ends, so that something comes of it.
    done_s = begins_s + max(found.downtime_s or 0.0, _LEAST_S)
    done_s = max(min(done_s, play.recorded.duration_s - 1e-3), begins_s)
    decision = Decision(
        id=f"d-{name}",
        at=play.began_at + timedelta(seconds=at_s),
        action=f"adjust: {found.what}",
        why="asked for by you",
        mode="you",
        expected=expected,
    )
    request = {"id": command, "action": "adjust", "wish": to_json(wish), "what": found.what}
    begun = {"command": command, "state": "going_on", "how": found.how, "what": found.what}
    measured = to_json(replace(decision, measured=MADE_UP))
    record = RunRecord.replay(play.events(done_s))
    done = {
        "attempt": record.attempt,
        "id": decision.id,
        "reason": "asked",
        "how": found.how,
        "workers": target.workers,
        "step": record.step,
        "usd_per_h": record.usd_per_h,
        "text": MADE_UP,
        "in_force": to_json(replace(target, crew=tuple(range(target.workers)))),
    }
    play.asked += [
        (at_s, "command.received", {**request, "expected": expected}),
        (at_s, "decision.applied", {**to_json(decision), "adjust": begun}),
        (done_s, "run.adjusted", done),
        (done_s, "decision.measured", {**measured, "adjust": {"state": "done"}}),
    ]
    return replace(found, command=command)


def _begins_s(play: Play, at_s: float) -> float:
    """When what is asked for then begins: it waits for what was asked for before."""
    done = [done_s for done_s, kind, _ in play.asked if kind == "run.adjusted"]
    return max([at_s, *done])


def _facts(view: RunView, options: Sequence[Option]) -> Facts:
    """The recorded machine as the rules see it: everything can be changed in flight."""
    places = dict.fromkeys((o.resources.runner, o.resources.pool) for o in options)
    sites = {
        (runner, pool): Site(
            runner=runner,
            pool=pool,
            grows=True,
            shrinks=True,
            network="recorded",
            offers=tuple(
                Offer(resources=o.resources, price=o.price, wait_s=o.wait_s)
                for o in options
                if (o.resources.runner, o.resources.pool) == (runner, pool)
            ),
        )
        for runner, pool in places
    }
    job = view.plan.job
    return Facts(tier=job.tier, levers=None, policy=job.adjust, sites=sites, options=tuple(options))
