"""What was shown is what is bought: the price of an option, asked again before it is paid."""

from __future__ import annotations

from planner.core.errors import PriceMovedError, RunnerError, UsageError
from planner.core.job import JobSpec, Place
from planner.core.types import Option, PriceQuote, ResourceConfig
from planner.core.units import format_money
from runners.base import Runner

_SHAPE = (
    "runner",
    "pool",
    "market",
    "nodes",
    "workers_per_node",
    "gpus_per_node",
    "gpu",
    "instance_type",
    "region",
    "zone",
)
_ROUNDING_USD_PER_H = 1e-6
CLEAN_STOP_S = 15.0
"""So long must the rest of a cap last for a run to be started or made dearer under it."""


def place_of(job: JobSpec, resources: ResourceConfig) -> Place:
    """The `[[where]]` entry that a configuration came from.

    Raises:
        UsageError: The job names no such place.
    """
    same_runner = [p for p in job.places if p.runner == resources.runner]
    for place in same_runner:
        if place.pool == resources.pool:
            return place
    if same_runner:
        return same_runner[0]
    raise UsageError(
        f"job {job.name} has no place with runner {resources.runner}",
        hint="estimate again: the job file changed since",
    )


def quote(runner: Runner, place: Place, resources: ResourceConfig) -> PriceQuote:
    """What these resources cost now.

    Raises:
        RunnerError: They are not offered any more, or the runner does not answer.
    """
    for offer in runner.offers(place):
        if all(getattr(offer.resources, key) == getattr(resources, key) for key in _SHAPE):
            return offer.price
    raise RunnerError(
        f"{resources.workers} x {resources.device} at {resources.runner} ({resources.pool}) "
        "is not offered any more",
        hint="planner estimate shows what there is now",
        code="environment.no_offer",
    )


def check_price(option: Option, price: PriceQuote, max_usd_per_h: float) -> None:
    """Raise `PriceMovedError` when the price is above what was agreed to."""
    if price.usd_per_h > max_usd_per_h + _ROUNDING_USD_PER_H:
        raise PriceMovedError(
            f"option {option.id} now costs {format_money(price.usd_per_h)}/h, more than the "
            f"{format_money(max_usd_per_h)}/h that was agreed to",
            hint="estimate again, or allow more with --max-price",
        )
