"""What the rules of a change go by, gathered from the plan and the runners."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from planner.core.adjustrules import Facts, Site
from planner.core.plan import Plan
from planner.core.types import Option
from runners.base import Runner


def facts_of(
    plan: Plan,
    levers: Iterable[str] | None,
    runner_of: Callable[[str], Runner],
    runners: Iterable[str],
    options: tuple[Option, ...] = (),
) -> Facts:
    """The facts for a change of this run.

    Args:
        plan: What was agreed to.
        levers: What the job says it can change in flight; None before it has said so.
        runner_of: A runner by its name.
        runners: Names of the runners that the change touches; others are not asked.
        options: Those of the kept estimate, where it is kept.

    Raises:
        RunnerError: A runner does not answer.
        UsageError: There is no such runner, or a place's settings do not fit it.
    """
    wanted, job = set(runners), plan.job
    sites: dict[tuple[str, str], Site] = {}
    for place in job.places:
        if place.runner not in wanted:
            sites[place.runner, place.pool] = Site(runner=place.runner, pool=place.pool)
            continue
        runner = runner_of(place.runner)
        can, offers = runner.capabilities(), runner.offers(place)
        for pool in dict.fromkeys(o.resources.pool for o in offers) or (place.pool,):
            sites[place.runner, pool] = Site(
                runner=place.runner,
                pool=pool,
                grows=can.grows,
                shrinks=can.shrinks,
                network=can.network,
                offers=tuple(o for o in offers if o.resources.pool == pool),
            )
    return Facts(
        tier=job.tier,
        levers=None if levers is None else frozenset(levers),
        policy=job.adjust,
        command=job.command,
        sites=sites,
        options=options,
    )
