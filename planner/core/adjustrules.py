"""The rules of a change: whether it may be made, in flight or by a relaunch, and to what. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from planner.core.adjust import (
    How,
    InForce,
    Target,
    Wish,
    change_text,
    lr_factor,
    pass_samples,
    place_name,
    with_batches,
)
from planner.core.errors import UsageError
from planner.core.job import AdjustPolicy
from planner.core.replicas import misfit
from planner.core.types import Offer, Option, ResourceConfig

_LOADERS, _LOADERS_PER_CPU = 16, 4
"""Loader processes of a worker: so many always, and so many for each processor it has."""
MOST_P_OOM = 0.5
"""A larger micro-batch that more likely than this runs out of memory is refused. Below it a try is
worth its price: a job that runs out of memory goes on from its checkpoint, as it was."""
_TEMPLATE_LEVERS = {
    "workers": "{workers}",
    "micro_batch": "{micro_batch}",
    "loader_workers": "{loader_workers}",
}
"""What a script without the SDK can only be told through its command."""


class AdjustRefusedError(UsageError):
    """A change that is not made; everything is as before. `code` says which rule it breaks."""

    default_code = "adjust.refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A place to run as far as changes are concerned.

    Attributes:
        grows: Whether workers can be started beside those that run.
        shrinks: Whether some can be ended and the others left alone.
        network: Name of the network its launches reach each other in; None where they cannot.
        offers: What could be started there.
    """

    runner: str
    pool: str
    grows: bool = False
    shrinks: bool = False
    network: str | None = None
    offers: tuple[Offer, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the rules go by.

    Attributes:
        tier: 1 when the script uses the SDK.
        levers: What the job says it can change in flight; None before it has said so.
        command: The job's command template.
        sites: The job's places, by runner and pool.
        options: Those of the kept estimate, for what is known of memory; empty where none is kept.
    """

    tier: int
    levers: frozenset[str] | None
    policy: AdjustPolicy
    command: tuple[str, ...] = ()
    sites: Mapping[tuple[str, str], Site] = field(default_factory=dict)
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a change is made.

    Attributes:
        target: What is in force afterwards.
        what: The change in words.
        why: Why it takes a relaunch.
        moves: Whether all workers are to be at another place.
        asks: Levers that are to be asked about.
    """

    target: InForce
    how: How
    what: str
    why: str = ""
    moves: bool = False
    asks: tuple[str, ...] = ()


def decide(wish: Wish, now: InForce, facts: Facts) -> Verdict:
    """What becomes of a wish.

    Raises:
        AdjustRefusedError: It cannot or may not be done; text and hint say why.
    """
    stays = _stays(wish.move, now)
    if stays:
        wish = replace(wish, move=None, workers=wish.move.workers if wish.move else None)
    asks = _policy(wish, facts.policy)
    _tier(wish, facts)
    target = _target(wish, now, facts)
    _memory(now, target, facts.options)
    what = change_text(now, target)
    if not what:
        what = _where_it_is(now, facts) if stays else "it is so already"
        return Verdict(target=target, how="nothing", what=f"nothing to do: {what}")
    if stays:
        what += f" (the place stays {place_name(now.resources)})"
    why = _why_relaunch(wish, now, target, facts)
    return Verdict(
        target=target,
        how="relaunch" if why else "in_flight",
        what=what,
        why=why,
        moves=_moves(now, target),
        asks=asks,
    )


def _moves(now: InForce, target: InForce) -> bool:
    old, new = now.resources, target.resources
    return (old.runner, old.pool, old.device) != (new.runner, new.pool, new.device)


def _stays(move: Target | None, now: InForce) -> bool:
    """Whether it is a move to where the run is: then only the number of workers is wanted.

    A place that is named by its runner alone is the one in force, where that is of this runner.
    """
    here = now.resources
    return move is not None and move.runner == here.runner and move.pool in (None, here.pool)


def _where_it_is(now: InForce, facts: Facts) -> str:
    """Where a run is that was to be moved there, and where else it could be."""
    here = place_name(now.resources)
    told = f"it is at {here} with {now.workers} worker{'s' * (now.workers != 1)} already"
    places = [f"{runner}:{pool}" for runner, pool in facts.sites]
    others = ", ".join(place for place in places if place != here)
    return f"{told}; its other places: {others}" if others else told


def offer_like(facts: Facts, workers: int, like: ResourceConfig) -> Offer:
    """What the place of `like` offers for so many workers of its kind.

    Raises:
        AdjustRefusedError: It does not.
    """
    return _offer(facts.sites.get((like.runner, like.pool)), workers, like)


# ---- may it be done ----------------------------------------------------------------------------


def _refuse(code: str, text: str, hint: str) -> NoReturn:
    raise AdjustRefusedError(text, hint=hint, code=f"adjust.{code}")


def _policy(wish: Wish, policy: AdjustPolicy) -> tuple[str, ...]:
    """The levers to ask about. One that stands in no list of the job file is asked about."""
    for lever in wish.levers:
        if lever == "global_batch" and not wish.allow_maths:
            _refuse(
                "maths",
                "another global batch changes the mathematics of the training",
                "--allow-maths allows it; --lr-rule says how the learning rate follows",
            )
        if lever in policy.never and lever != "global_batch":
            _refuse(
                "never",
                f"the job file says that {lever} is never changed",
                f"take {lever} out of never under [adjust] in the job file before the next run",
            )
    return tuple(lever for lever in wish.levers if lever not in policy.allow)


def _tier(wish: Wish, facts: Facts) -> None:
    """A script without the SDK: relaunch only, from the beginning, and through its command."""
    if facts.tier > 0:
        return
    for lever in wish.levers:
        if lever == "move":
            continue
        place = _TEMPLATE_LEVERS.get(lever)
        if place is None or (lever != "workers" and not any(place in a for a in facts.command)):
            _refuse(
                "tier",
                f"{lever} cannot be changed: the script does not use planner.sdk",
                "docs/training-script.md shows the three lines"
                + (f"; or the command may name {place}" if place else ""),
            )
    if not wish.relaunch:
        _refuse(
            "tier",
            "the script does not use planner.sdk: it keeps no checkpoint, and a change starts it"
            " again from the beginning",
            "--relaunch does so all the same",
        )


def _memory(now: InForce, target: InForce, options: Sequence[Option]) -> None:
    """Refuse a larger micro-batch that the kept estimate expects to run out of memory."""
    micro = pass_samples(target.knobs, target.workers)
    before = pass_samples(now.knobs, now.workers)
    if micro <= before or target.memory == "low":
        return
    device = target.resources.device
    tried = [o for o in options if o.resources.device == device and o.knobs.micro_batch <= micro]
    if not tried:
        return
    near = max(tried, key=lambda o: (o.knobs.micro_batch, o.p_oom))
    if near.p_oom > MOST_P_OOM:
        _refuse(
            "memory",
            f"micro-batch {micro} would run out of memory: P(out of memory) is {near.p_oom:.2f}"
            f" at {near.knobs.micro_batch} already",
            f"take less, or memory=low; {before} is in force",
        )


# ---- to what ---------------------------------------------------------------------------------


def _target(wish: Wish, now: InForce, facts: Facts) -> InForce:
    knobs, workers = now.knobs, now.workers
    resources, price = now.resources, now.price
    if wish.workers is not None and wish.workers != workers:
        found = offer_like(facts, wish.workers, resources)
        resources, price = found.resources, found.price
    if wish.move is not None:
        found = _moved(wish.move, now, facts)
        resources, price = found.resources, found.price
    batch = wish.global_batch or knobs.global_batch
    if problem := misfit(knobs, resources):
        _refuse("workers", *problem)
    replicas = knobs.replicas(resources.workers)
    if wish.global_batch is not None and batch < replicas:
        _refuse(
            "batch",
            f"a global batch of {batch} gives {replicas} replicas less than a sample each",
            f"it takes {replicas} or more",
        )
    if 0 < batch < replicas:
        _refuse(
            "workers",
            f"{resources.workers} workers cannot share a global batch of {batch}",
            f"{batch * knobs.replica_workers} or fewer",
        )
    micro = _micro(wish, now, resources.workers, batch)
    knobs = with_batches(knobs, resources.workers, micro, batch)
    if wish.loader_workers is not None:
        _loaders(wish.loader_workers, knobs.loader_workers, resources)
        knobs = replace(knobs, loader_workers=wish.loader_workers)
    if wish.checkpoint_interval_s is not None:
        knobs = replace(knobs, checkpoint_interval_s=wish.checkpoint_interval_s)
    auto = now.checkpoint_auto if wish.checkpoint_auto is None else wish.checkpoint_auto
    target = replace(
        now,
        resources=resources,
        price=price,
        knobs=knobs,
        memory=wish.memory or now.memory,
        checkpoint_auto=auto,
        max_usd_per_h=max(now.max_usd_per_h, wish.max_usd_per_h or 0.0),
    )
    return _with_schedule(wish, now, target)


def _loaders(wanted: int, now: int, resources: ResourceConfig) -> None:
    """Refuse so many loader processes that a machine would do nothing else than start them."""
    most = max(_LOADERS, _LOADERS_PER_CPU * resources.vcpus_per_node // resources.workers_per_node)
    if wanted > max(most, now):
        _refuse(
            "loader_workers",
            f"{wanted} loader processes for each worker are too many for"
            f" {resources.vcpus_per_node} processors a machine",
            f"{most} or fewer",
        )


def _with_schedule(wish: Wish, now: InForce, target: InForce) -> InForce:
    """What another global batch does to learning rate and schedule."""
    before, after = now.knobs.global_batch, target.knobs.global_batch
    if before == after:
        return target
    ticks = now.schedule_batch or before
    return replace(
        target,
        lr_scale=now.lr_scale * lr_factor(wish.lr_rule, before, after),
        schedule_batch=None if ticks == after or ticks <= 0 else ticks,
    )


def _micro(wish: Wish, now: InForce, workers: int, global_batch: int) -> int:
    """The micro-batch: as asked for; halved and doubled by `memory`; else as it is."""
    micro = now.knobs.micro_batch
    if wish.micro_batch is not None:
        share = math.ceil(global_batch / now.knobs.replicas(workers))
        if 0 < share < wish.micro_batch:
            _refuse(
                "micro_batch",
                f"micro-batch {wish.micro_batch} is more than a worker's share of the global"
                f" batch, {share}",
                f"{share} or less",
            )
        return wish.micro_batch
    if wish.memory is None or wish.memory == now.memory:
        return micro
    return (
        math.ceil(pass_samples(now.knobs, now.workers) / 2) if wish.memory == "low" else 2 * micro
    )


def _offer(site: Site | None, workers: int, like: ResourceConfig) -> Offer:
    """What the place offers for so many workers of the same kind."""
    offers = site.offers if site else ()
    same = [
        offer
        for offer in offers
        if (offer.resources.device, offer.resources.market, offer.resources.instance_type)
        == (like.device, like.market, like.instance_type)
    ]
    for offer in same:
        if offer.resources.workers == workers:
            return offer
    most = max((offer.resources.workers for offer in same), default=0)
    _refuse(
        "workers",
        f"{like.runner}:{like.pool} does not offer {workers} workers",
        f"it offers up to {most}" if most else "it offers none now",
    )


def _moved(move: Target, now: InForce, facts: Facts) -> Offer:
    """What the place to move to offers. It must be one of the job's own."""
    found = [
        site
        for (runner, pool), site in facts.sites.items()
        if runner == move.runner and move.pool in (None, pool)
    ]
    if not found:
        known = ", ".join(f"{runner}:{pool}" for runner, pool in facts.sites) or "none"
        wanted = move.runner if move.pool is None else f"{move.runner}:{move.pool}"
        _refuse("place", f"the job has no place {wanted}", f"its places: {known}")
    workers = move.workers or now.workers
    for site in found:
        for offer in site.offers:
            if offer.resources.workers == workers:
                return offer
    most = max((o.resources.workers for site in found for o in site.offers), default=0)
    _refuse(
        "workers",
        f"{move.runner} does not offer {workers} workers",
        f"it offers up to {most}" if most else "it offers none now",
    )


# ---- how -----------------------------------------------------------------------------------------


def _why_relaunch(wish: Wish, now: InForce, target: InForce, facts: Facts) -> str:
    """Why it cannot be done in flight; empty when it can."""
    if wish.relaunch:
        return "asked for"
    if facts.tier == 0:
        return "the script does not use planner.sdk"
    old, new = now.resources, target.resources
    moved = _moves(now, target)
    needed = set(wish.levers) - {"checkpoint_interval", "move"}
    if moved or old.workers != new.workers:
        needed.add("workers")
    if facts.levers is not None and not needed <= facts.levers:
        missing = ", ".join(sorted(needed - facts.levers))
        if missing == "workers":
            return "its workers join each other by themselves"
        return f"the script cannot change {missing} in flight"
    here = facts.sites.get((old.runner, old.pool))
    there = facts.sites.get((new.runner, new.pool))
    if moved and (here is None or there is None or here.network is None):
        return "the places do not reach each other"
    if moved and here is not None and there is not None and here.network != there.network:
        return "the places do not reach each other"
    if (moved or new.workers > old.workers) and (there is None or not there.grows):
        return f"{new.runner} cannot start workers beside those that run"
    if (moved or new.workers < old.workers) and (here is None or not here.shrinks):
        return f"{old.runner} cannot end some workers and leave the others alone"
    return ""
