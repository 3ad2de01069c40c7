"""Gather what an estimate rests on: kept probes where they are good, new ones where not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from planner.core.clock import Clock
from planner.core.events import EventSink
from planner.core.types import ProbeResult, Warning_
from planner.services.api import Cancel
from planner.services.estimating import probestore
from planner.services.estimating.candidates import Trial
from planner.services.estimating.estimatewarnings import DEFAULT_BATCH, assumed_batch
from planner.services.estimating.probing import Prober
from planner.services.estimating.study import Study
from planner.store.layout import StateDir


@dataclass(slots=True, kw_only=True)
class Evidence:
    """The evidence of one estimate, new and reused, and the configurations it is for."""

    global_batch: int
    new: list[ProbeResult] = field(default_factory=list)
    reused: list[ProbeResult] = field(default_factory=list)
    trials: tuple[Trial, ...] = ()
    warnings: list[Warning_] = field(default_factory=list)

    @property
    def probes(self) -> tuple[ProbeResult, ...]:
        """All results, the reused ones first."""
        return (*self.reused, *self.new)

    def add(self, results: Sequence[ProbeResult], state: StateDir) -> None:
        """Take new results in, and keep what is worth it.

        Raises:
            StoreError: They cannot be written.
        """
        for result in results:
            probestore.keep(state, result)
        self.new += results

    def add_kept(self, study: Study, state: StateDir) -> bool:
        """Take in what others kept about the job since the study; whether there was anything.

        Raises:
            StoreError: The kept results cannot be listed.
        """
        used = {p.id for p in self.probes}
        own = probestore.of_job(probestore.kept(state), study.fingerprint)
        newer = [p for p in own if p.id not in used]
        self.reused += newer
        return bool(newer)


def prober_of(
    study: Study, state: StateDir, clock: Clock, on_event: EventSink, cancel: Cancel | None
) -> Prober:
    """Who runs the probes of one estimate, within its caps."""
    return Prober(
        job=study.job,
        fingerprint=study.fingerprint,
        slice_for=lambda batch: study.slice_for(batch, state.slices),
        samples=study.samples,
        state=state,
        clock=clock,
        on_event=on_event,
        cancel=cancel,
    )


def gather(study: Study, prober: Prober, *, probe: bool = True) -> Evidence:
    """Probe what the study wants and nothing kept answers; without `probe`, take what is kept.

    Raises:
        UsageError: No configuration fits, or the command cannot be made.
        CleanupError: A probe's processes could not be ended.
        StoreError: The state directory cannot be used.
    """
    evidence = Evidence(global_batch=study.global_batch or DEFAULT_BATCH)
    if study.global_batch is None:
        told = _ask_script(study, prober, evidence) if probe else None
        evidence.global_batch = told or DEFAULT_BATCH
        evidence.warnings += () if told else (assumed_batch(),)
    evidence.trials, warnings = study.trials(evidence.global_batch)
    evidence.warnings += warnings
    wanted = study.wanted(evidence.trials)
    evidence.reused += [kept for _, kept in wanted if kept is not None]
    for kept in evidence.reused:
        prober.reuse(kept)
    if probe:
        made = tuple(evidence.new)
        missing = [t for t, kept in wanted if kept is None and study.match(t, made) is None]
        evidence.add(prober.run(missing), prober.state)
    used = {p.id for p in evidence.probes}
    evidence.reused += [p for p in study.own if p.id not in used]
    return evidence


def _ask_script(study: Study, prober: Prober, evidence: Evidence) -> int | None:
    """Run the reference probe with the script's own batch; what that is, if it told."""
    trial = study.reference()
    (result,) = prober.run([trial])
    told = result.knobs.global_batch or None
    if told is None:
        replicas = trial.knobs.replicas(trial.resources.workers)
        micro = max(1, DEFAULT_BATCH // replicas)
        whole = micro * replicas
        knobs = replace(result.knobs, micro_batch=micro, global_batch=whole)
        result = replace(result, knobs=knobs)
    evidence.add([result], prober.state)
    return told
