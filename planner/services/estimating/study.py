"""What an estimate starts from: the data, the offers, kept evidence, and what is left to try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from planner.core.job import JobSpec
from planner.core.types import Knobs, ProbeResult, ResourceConfig, Warning_
from planner.services.api import EstimateRequest
from planner.services.estimating import probestore
from planner.services.estimating.candidates import (
    Offers,
    Trial,
    ask_places,
    batch_unknown,
    design,
    trials,
)
from planner.services.estimating.dataset import DataStats, scan_data
from planner.services.estimating.estimatewarnings import DEFAULT_BATCH, assumed_batch
from planner.services.estimating.fingerprint import job_fingerprint
from planner.services.estimating.slicing import Slice, make_slice
from planner.services.estimating.sources import source_mentions
from planner.services.jobenv import uses_placeholder
from planner.store.layout import StateDir

_LETS_PLANNER_JOIN = ("optimizer=",)
"""What `attach` must be given so that planner can join workers by itself."""
_SPEAKS_OF_WORKERS = (
    "DistributedDataParallel",
    "init_process_group",
    "FullyShardedDataParallel",
    "fully_shard",
    "WORLD_SIZE",
    "accelerate",
    "deepspeed",
    "lightning",
    "Trainer(",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One job looked at, before anything is started.

    Attributes:
        job: The job, with the request's goal and probe caps.
        own: Kept results about this very job that may be used.
        others: Kept results about other jobs.
        global_batch: Samples of a step; None until the reference probe has told.
        distributed: Whether the script can use more than one worker, as far as is known.
    """

    job: JobSpec
    seed: int
    stats: DataStats
    fingerprint: str
    offers: Offers
    own: tuple[ProbeResult, ...]
    others: tuple[ProbeResult, ...]
    global_batch: int | None
    distributed: bool
    warnings: tuple[Warning_, ...]

    @property
    def samples(self) -> int | None:
        """Training samples of one epoch: as the job says, the data shows, or a probe was told."""
        told = next((p.samples for p in reversed(self.own) if p.samples), None)
        return self.job.samples or self.stats.train_samples or told

    def slice_for(self, global_batch: int, folder: Path) -> Slice:
        """The data of a probe; see `make_slice`."""
        return make_slice(
            self.stats,
            folder,
            fraction=self.job.probe.slice_fraction,
            global_batch=global_batch or DEFAULT_BATCH,
            seed=self.seed,
        )

    def trials(self, global_batch: int) -> tuple[tuple[Trial, ...], tuple[Warning_, ...]]:
        """All configurations; see `candidates.trials`."""
        return trials(self.job, self.offers, global_batch, distributed=self.distributed)

    def reference(self) -> Trial:
        """The probe that tells the global batch."""
        return batch_unknown(self.job, self.offers)

    def wanted(self, found: Sequence[Trial]) -> tuple[tuple[Trial, ProbeResult | None], ...]:
        """What to probe, each with the kept result that makes it unnecessary."""
        good = [p for p in self.own if probestore.still_good(p, self.job.probe)]
        return tuple((trial, self.match(trial, good)) for trial in design(found))

    def match(self, trial: Trial, probes: Sequence[ProbeResult]) -> ProbeResult | None:
        """The newest of these results that is about the trial.

        One made for it carries its id, even if the script then took another batch. The reference
        of a script that told its own batch was made for no batch, and is found by what it did.
        """
        wanted = self.probe_id(trial)
        for probe in reversed(probes):
            loading = replace(probe.knobs, loader_workers=trial.knobs.loader_workers)
            if wanted in (probe.id, self._probe_id(probe.resources, loading)):
                return probe
        return None

    def probe_id(self, trial: Trial) -> str:
        """The id of a probe of the trial: the same for offers that differ in price alone."""
        return self._probe_id(trial.resources, trial.knobs)

    def _probe_id(self, resources: ResourceConfig, knobs: Knobs) -> str:
        return probestore.probe_id(self.fingerprint, resources, knobs)


def look(request: EstimateRequest, state: StateDir) -> Study:
    """Scan the data, ask the places and find kept evidence. Starts nothing.

    Raises:
        DataError: The data set is unfit.
        UsageError: The job cannot run anywhere.
        RunnerError: No place answers.
        StoreError: The state directory cannot be used.
    """
    job = _with_request(request)
    stats = scan_data(job.data, seed=request.seed)
    skipped = (state.path, state.path.resolve())
    fingerprint = job_fingerprint(job, stats, exclude=skipped)
    everything = probestore.kept(state)
    own = () if request.fresh else probestore.of_job(everything, fingerprint)
    batch, warnings = _global_batch(job, own)
    offers = ask_places(job)
    return Study(
        job=job,
        seed=request.seed,
        stats=stats,
        fingerprint=fingerprint,
        offers=offers,
        own=own,
        others=tuple(p for p in everything if p.fingerprint != fingerprint),
        global_batch=batch,
        distributed=_is_distributed(job, skipped),
        warnings=(*offers.warnings, *warnings),
    )


def _with_request(request: EstimateRequest) -> JobSpec:
    probe = request.job.probe
    if request.max_probe_cost_usd is not None:
        probe = replace(probe, max_cost_usd=request.max_probe_cost_usd)
    if request.max_probe_time_s is not None:
        probe = replace(probe, max_time_s=request.max_probe_time_s)
    return replace(request.job, goal=request.goal, probe=probe)


def _global_batch(
    job: JobSpec, own: Sequence[ProbeResult]
) -> tuple[int | None, tuple[Warning_, ...]]:
    if job.global_batch is not None:
        return job.global_batch, ()
    told = next((p.knobs.global_batch for p in reversed(own) if p.knobs.global_batch), None)
    if told is not None:
        return told, ()
    if uses_placeholder(job, "micro_batch", "global_batch"):
        # The script waits to be told: it cannot tell us.
        return DEFAULT_BATCH, (assumed_batch(),)
    return None, ()


def _is_distributed(job: JobSpec, skipped: tuple[Path, ...]) -> bool:
    if job.worker_counts or max(*job.tensor_parallel, *job.pipeline_parallel) > 1:
        return True  # the user knows
    if job.tier == 1 and source_mentions(job, _LETS_PLANNER_JOIN, exclude=skipped):
        return True
    return source_mentions(job, _SPEAKS_OF_WORKERS, exclude=skipped)
