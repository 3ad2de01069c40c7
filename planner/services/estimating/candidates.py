"""Which configurations an estimate scores, and which few of them it tries out.

Candidates are every offer of the job's places with every micro-batch that keeps the global batch:
`global = replicas x micro x accumulation`, with a replica of the model on each worker, or on as
many as `[parallel]` lets share one. Probes are a small design over them, after what Ernest
(Venkataraman et al., NSDI 2016) and our own comparison of predictors found worth measuring: the
reference, the largest shape, the effect of the micro-batch on one worker, and two workers as the
first that synchronise. Every other way to spread a replica is tried once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from planner.core.errors import (
    ConfigError,
    EnvironmentFault,
    PlannerError,
    RunnerError,
    UsageError,
)
from planner.core.job import JobSpec, Place
from planner.core.replicas import misfit
from planner.core.types import Knobs, Offer, ResourceConfig, Warning_
from planner.services.jobenv import uses_placeholder
from runners.base import Runner
from runners.registry import get_runner, runner_names

MAX_ACCUMULATION = 8
"""Smaller micro-batches than an eighth of a worker's share are not proposed unasked."""
MIN_MICRO_BATCH = 2
"""Batch normalisation needs two samples."""
MAX_PROBES = 4
"""Probes of one kind of machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A configuration that could be probed or bought: where, how, and through whom."""

    place: Place
    offer: Offer
    knobs: Knobs

    @property
    def resources(self) -> ResourceConfig:
        """The machines."""
        return self.offer.resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """What the job's places offer now, and what went wrong while asking."""

    found: tuple[tuple[Place, Offer], ...]
    warnings: tuple[Warning_, ...] = ()


def ask_places(job: JobSpec) -> Offers:
    """The offers of all places of the job.

    A place whose runner is not installed or does not answer is left out with a warning, as long
    as another one is left.

    Raises:
        ConfigError: A place's settings do not fit its runner.
        UsageError: The job names no place, or no place has a runner.
        RunnerError: Every place failed.
    """
    if not job.places:
        raise UsageError(
            f"{job.source or job.name} says nowhere where to run",
            hint='Add [[where]] with runner = "local" to the job file.',
        )
    found: list[tuple[Place, Offer]] = []
    failures: list[PlannerError] = []
    warnings: list[Warning_] = []
    for place in job.places:
        try:
            offers = find_runner(place).offers(place)
        except ConfigError:
            raise
        except (UsageError, EnvironmentFault) as error:
            failures.append(error)
            text = f"{place.runner} is left out: {error.text}"
            warnings.append(Warning_(code="runner.unavailable", text=text, hint=error.hint))
            continue
        found += [(place, offer) for offer in offers]
        if not offers:
            text = f"{place.runner} ({place.pool}) has nothing to offer now"
            warnings.append(Warning_(code="runner.no_offers", text=text, hint="planner doctor"))
    if not found:
        if failures:
            raise failures[0]
        raise RunnerError(
            "none of the job's places has anything to offer now",
            hint="Look at planner doctor, or add another [[where]] to the job file.",
        )
    if any(offer.price.source == "free" for _, offer in found):
        text = "A place has no price: its options count as free."
        hint = "Set usd_per_slot_h or usd_per_gpu_h in [[where]] to see money."
        warnings.append(Warning_(code="price.free", text=text, hint=hint))
    return Offers(found=tuple(found), warnings=tuple(warnings))


def find_runner(place: Place) -> Runner:
    """The runner of a place.

    Raises:
        UsageError: There is none of that name.
    """
    if place.runner not in runner_names():
        raise UsageError(
            f"there is no runner {place.runner!r} in this installation",
            hint=f"Installed: {', '.join(runner_names())}.",
            code="runner.unavailable",
        )
    return get_runner(place.runner)


def batch_unknown(job: JobSpec, offers: Offers) -> Trial:
    """The reference probe of a job that does not say its global batch: the script will tell.

    Batches of 0 are not passed on, so that the script uses its own.

    Raises:
        UsageError: Nothing on offer holds whole replicas.
    """
    allowed = [
        pair
        for pair in offers.found
        if not job.worker_counts or pair[1].resources.workers in job.worker_counts
    ]
    found = [
        Trial(place=place, offer=offer, knobs=spread)
        for place, offer in allowed or offers.found
        for spread in _spreads(job, offer.resources)
    ]
    if not found:
        raise _nothing_left(job, offers, job.worker_counts, 0)
    return min(found, key=lambda t: (t.resources.workers, t.offer.price.usd_per_h))


def _not_offered(job: JobSpec, offers: Offers) -> list[Warning_]:
    """Wanted worker counts that no place has.

    Raises:
        UsageError: None of them is offered.
    """
    offered = sorted({offer.resources.workers for _, offer in offers.found})
    missing = [count for count in job.worker_counts if count not in offered]
    if not missing:
        return []
    wanted, there = (", ".join(map(str, counts)) for counts in (missing, offered))
    hint = "Change workers in [job], or what the places have in [[where]] (slots, gpus)."
    if len(missing) == len(job.worker_counts):
        raise UsageError(f"no place offers workers = {wanted}: there are {there}", hint=hint)
    text = f"workers = {wanted} is left out: the places offer {there}."
    return [Warning_(code="job.workers_not_offered", text=text, hint=hint)]


def trials(
    job: JobSpec, offers: Offers, global_batch: int, *, distributed: bool
) -> tuple[tuple[Trial, ...], tuple[Warning_, ...]]:
    """All configurations that keep the global batch, smallest shape first.

    Args:
        job: Its `worker_counts` and `micro_batches` restrict what is proposed.
        offers: What the places have.
        global_batch: Samples of one optimiser step.
        distributed: Whether the script can use more than one worker, as far as is known.

    Raises:
        UsageError: Nothing is left.
    """
    warnings: list[Warning_] = []
    wanted = job.worker_counts
    if not wanted and not distributed:
        wanted = (1,)
        if any(offer.resources.workers > 1 for _, offer in offers.found):
            text = (
                "Only one worker is planned for: the script does not give planner its model and "
                "optimizer to join workers by, nothing in it speaks of distributed training, and "
                "several copies of it would each train a model of their own."
            )
            hint = "Give attach() model= and optimizer=, or set workers in [job]."
            warnings.append(Warning_(code="job.not_distributed", text=text, hint=hint))
    warnings += _not_offered(job, offers)
    found = [
        Trial(place=place, offer=offer, knobs=knobs)
        for place, offer in offers.found
        if not wanted or offer.resources.workers in wanted
        for spread in _spreads(job, offer.resources)
        for knobs in _knobs(job, spread, offer.resources.workers, global_batch)
    ]
    if not found:
        raise _nothing_left(job, offers, wanted, global_batch)
    found.sort(key=lambda t: (t.resources.workers, *spread_of(t), -t.knobs.micro_batch))
    warnings += _unused_batches(job, found, global_batch)
    return tuple(found), tuple(warnings)


def _nothing_left(
    job: JobSpec, offers: Offers, wanted: Sequence[int], global_batch: int
) -> UsageError:
    """Why no configuration can be: workers hold no whole replicas, or batches do not divide."""
    shapes = [offer.resources for _, offer in offers.found]
    shapes = [shape for shape in shapes if not wanted or shape.workers in wanted]
    there = ", ".join(map(str, sorted({shape.workers for shape in shapes})))
    replica = min(p * t for p in job.pipeline_parallel for t in job.tensor_parallel)
    if not any(list(_spreads(job, shape)) for shape in shapes):
        return UsageError(
            f"no worker count is a whole number of replicas: a replica needs {replica} workers, "
            f"and the places offer {there}",
            hint="Change [parallel], or what the places have in [[where]] (slots, gpus).",
        )
    return UsageError(
        f"no configuration keeps the global batch of {global_batch}: no worker count ({there}) "
        "and micro-batch on offer multiply to it",
        hint="Change global_batch, micro_batches or workers in [job]"
        + (", or [parallel]." if job.model else "."),
    )


def _unused_batches(job: JobSpec, found: Sequence[Trial], global_batch: int) -> list[Warning_]:
    """Micro-batches of the job file that no configuration has."""
    used = {trial.knobs.micro_batch for trial in found}
    unused = ", ".join(str(m) for m in job.micro_batches if m not in used)
    if not unused:
        return []
    text = f"micro_batches = {unused} is left out: "
    if job.tier == 0:
        text += (
            "without planner.sdk a script makes one pass a step, so that its micro-batch is the "
            f"global batch of {global_batch} over the workers."
        )
        hint = "Use the SDK, or let the global batch change ([adjust] allow in the job file)."
    else:
        text += (
            f"with no number of workers and passes does it make the global batch, {global_batch}."
        )
        hint = "Change micro_batches or global_batch in [job]."
    return [Warning_(code="job.micro_batches_unused", text=text, hint=hint)]


def _spreads(job: JobSpec, resources: ResourceConfig) -> Iterator[Knobs]:
    """The ways to spread replicas over these workers, as knobs whose batches are not known."""
    for pipeline in job.pipeline_parallel:
        for tensor in job.tensor_parallel:
            knobs = _with(job, 0, 1, 0)
            knobs = replace(knobs, tensor_parallel=tensor, pipeline_parallel=pipeline)
            if misfit(knobs, resources) is None:
                yield knobs


def spread_of(trial: Trial) -> tuple[int, int]:
    """Stages that a replica is cut into, and workers that share each."""
    return trial.knobs.pipeline_parallel, trial.knobs.tensor_parallel


def _accumulates(job: JobSpec) -> bool:
    """Whether steps may have several micro-batches: by the SDK, or by a script that is told both.

    A pipeline is kept busy by micro-batches, so scripts for language models cut their batch.
    """
    by_itself = job.model is not None and all(
        uses_placeholder(job, name) for name in ("micro_batch", "global_batch")
    )
    return job.tier > 0 or by_itself


def _knobs(job: JobSpec, spread: Knobs, workers: int, global_batch: int) -> list[Knobs]:
    """The batches that so many workers can take, with replicas spread like that."""
    replicas = spread.replicas(workers)

    def batches(micro_batch: int, accumulation: int, whole: int) -> Knobs:
        return replace(
            spread, micro_batch=micro_batch, accumulation=accumulation, global_batch=whole
        )

    if job.tier == 0 and "global_batch" in job.adjust.allow and job.micro_batches:
        # The script takes any batch it is told, and the user allowed the mathematics to change.
        return [batches(micro, 1, micro * replicas) for micro in job.micro_batches]
    share, rest = divmod(global_batch, replicas)
    if rest or share == 0:
        return []
    if not _accumulates(job):
        return [batches(share, 1, global_batch)]
    if job.micro_batches:
        micros = [m for m in sorted(set(job.micro_batches), reverse=True) if share % m == 0]
    else:
        micros = [
            share // parts
            for parts in _powers_of_two(MAX_ACCUMULATION)
            if share % parts == 0 and (parts == 1 or share // parts >= MIN_MICRO_BATCH)
        ]
    return [batches(micro, share // micro, global_batch) for micro in micros]


def _with(job: JobSpec, micro_batch: int, accumulation: int, global_batch: int) -> Knobs:
    return Knobs(
        micro_batch=micro_batch,
        accumulation=accumulation,
        global_batch=global_batch,
        loader_workers=job.loader_workers or 0,
        precision=job.precision,
        checkpoint_interval_s=job.checkpoint_interval_s,
    )


def _powers_of_two(limit: int) -> list[int]:
    return [2**i for i in range(limit.bit_length()) if 2**i <= limit]


def machine(resources: ResourceConfig) -> tuple[str | None, ...]:
    """What step times can be compared within: the device, or for CPUs the pool it belongs to."""
    if resources.gpu:
        return (resources.runner, resources.gpu)
    return (resources.runner, resources.pool, resources.instance_type)


def design(found: Sequence[Trial], limit: int = MAX_PROBES) -> tuple[Trial, ...]:
    """The trials to probe, in the order of what they tell; the reference of each machine first.

    For each kind of machine, with replicas spread the least: fewest workers with the largest
    micro-batch (the reference: compute), most workers with theirs (synchronisation, and shared
    cores or disks), fewest workers with the smallest micro-batch (what a step costs that does not
    grow with the batch, and memory's slope), two workers where the most are more (how it grows).
    As many other ways to spread replicas follow, on the fewest workers with the largest
    micro-batch: those that differ in one respect before others.
    The cheapest offer of a shape stands for all.
    """
    groups: dict[tuple[str | None, ...], list[Trial]] = {}
    for trial in sorted(found, key=lambda t: t.offer.price.usd_per_h):
        groups.setdefault(machine(trial.resources), []).append(trial)
    chosen: list[Trial] = []
    for group in groups.values():
        spreads: dict[tuple[int, int], list[Trial]] = {}
        for trial in group:
            spreads.setdefault(spread_of(trial), []).append(trial)
        first, *others = sorted(spreads, key=lambda s: (min(s) > 1, s[0] * s[1]))
        chosen += _of_one_spread(spreads[first])[:limit]
        for spread in others[:limit]:
            fewest = min(t.resources.workers for t in spreads[spread])
            chosen.append(_largest(spreads[spread], fewest))
    return tuple(chosen)


def _of_one_spread(group: Sequence[Trial]) -> list[Trial]:
    """What to try where only workers and micro-batches differ."""
    counts = sorted({t.resources.workers for t in group})
    few, most = counts[0], counts[-1]
    second = next((n for n in counts if n >= 2 and few < n < most), None)
    wanted = [_largest(group, few), _largest(group, most), _smallest(group, few)]
    if second is not None:
        wanted.append(_largest(group, second))
    distinct: list[Trial] = []
    for trial in wanted:
        shape = (trial.resources.workers, trial.knobs)
        if shape not in [(t.resources.workers, t.knobs) for t in distinct]:
            distinct.append(trial)
    return distinct


def _largest(group: Sequence[Trial], workers: int) -> Trial:
    same = [t for t in group if t.resources.workers == workers]
    return max(same, key=lambda t: t.knobs.micro_batch)


def _smallest(group: Sequence[Trial], workers: int) -> Trial:
    same = [t for t in group if t.resources.workers == workers]
    return min(same, key=lambda t: t.knobs.micro_batch)
