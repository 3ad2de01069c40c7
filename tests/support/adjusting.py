"""A run that is changed, on a clock that jumps: how it is made, asked and looked at."""

from __future__ import annotations

import json

import pytest

from planner.core.adjust import Wish, parse_wish
from planner.store.codec import to_json
from tests.support.runs import make_case

LAW = {"samples": 2000, "epochs": 2, "sample_s": 0.05, "base_s": 0.05, "sync_s": 0.02}


def make(tmp_path, **changes):
    """400 steps of about half a second on up to four workers, one at first."""
    settings = {"workers": 1, "slots": 4, "planned_run_s": 240.0, **LAW, **changes}
    return make_case(tmp_path, **settings)


def ask(case, *pairs, max_usd_per_h=100.0, relaunch=False, **more):
    wish = parse_wish(pairs, relaunch=relaunch, **more)
    fields = {name: getattr(wish, name) for name in Wish.__dataclass_fields__}
    wish = Wish(**{**fields, "max_usd_per_h": max_usd_per_h})
    case.send("adjust", wish=to_json(wish), what=" ".join(pairs), expected="-")


def adjusted(case):
    return [e.data for e in case.events if e.type == "run.adjusted"]


def assert_money_is_right(case):
    """Spent is the integral of the price in force, over all changes of it."""
    spent, price, since = 0.0, 0.0, None
    for event in case.events:
        if event.type not in ("resource.acquired", "resource.released"):
            continue
        if since is not None:
            spent += price * (event.ts - since).total_seconds() / 3600
        price, since = event.data.get("usd_per_h", 0.0), event.ts
    assert case.record.spent_microusd == pytest.approx(spent * 1e6, rel=1e-3, abs=5)


def say(case, **event):
    """Put an event among those that worker 0 says."""
    line = {"t": case.clock.now().timestamp(), **event}
    with case.run.attempt(1).events(0).open("a") as file:
        file.write(json.dumps(line) + "\n")


def decision(case):
    """The change that is being made."""
    return case.record.adjust.changes[0].id
