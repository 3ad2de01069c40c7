"""Estimates: probe or reuse, predict, score; kept, found again, and scored under other goals."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from planner.core.clock import Clock
from planner.core.errors import NotFoundError, StoreError
from planner.core.events import EventSink, ignore
from planner.core.job import Goal, JobSpec
from planner.core.options import rescored
from planner.core.replicas import layout_text
from planner.core.types import EstimateResult, ModelCard, ProbeResult, ResourceConfig
from planner.services.api import Cancel, EstimateRequest, ProbePlan
from planner.services.estimating.candidates import Trial, ask_places, design
from planner.services.estimating.concluding import conclude
from planner.services.estimating.dataset import scan_data
from planner.services.estimating.estimatewarnings import (
    DEFAULT_BATCH,
    batch_over_data,
    batch_warning,
    busy_warning,
    drift_warning,
    interrupted_warning,
    option_warnings,
    probe_warnings,
    reuse_warning,
    work_warnings,
)
from planner.services.estimating.evidence import Evidence, gather, prober_of
from planner.services.estimating.fingerprint import job_fingerprint
from planner.services.estimating.probing import FIRST_PROBE_S
from planner.services.estimating.refining import Refined, advise, refine
from planner.services.estimating.study import Study, look
from planner.services.estimating.turn import turn_to_probe
from planner.services.runs.shelf import FinishedRuns, finished_runs
from planner.store.codec import to_json
from planner.store.files import load, save
from planner.store.layout import StateDir, check_id

_LOOK_BACK = 50
"""So many of the newest estimates are looked through for one of a given job."""
_NO_MODEL = ModelCard(id="none", n_train=0)


class Estimator:
    """The estimates of one state directory; see `planner.services.api.Services`.

    Args:
        state_dir: Where probes, slices and estimates are kept.
        clock: Time.
    """

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        self._state = StateDir(state_dir)
        self._clock = clock

    # ---- before

    def resources(self, job: JobSpec) -> tuple[ResourceConfig, ...]:
        """What the job's places offer now. Raises as `candidates.ask_places` does."""
        return tuple(offer.resources for _, offer in ask_places(job).found)

    def plan_probes(self, request: EstimateRequest) -> ProbePlan:
        """What the estimate would try out first and what probes may cost. Starts nothing.

        Where the first probes are all kept, that is the next one, if it is worth it.

        Raises:
            DataError: The data set is unfit.
            UsageError: The job cannot run anywhere.
        """
        study = look(request, self._state)
        found, _ = study.trials(study.global_batch or DEFAULT_BATCH)
        if study.global_batch is None:
            wanted: Sequence[tuple[Trial, ProbeResult | None]] = [(t, None) for t in design(found)]
        else:
            wanted = study.wanted(found)
        to_run = [trial for trial, kept in wanted if kept is None]
        if not request.probe:
            to_run = []
        elif not to_run:
            to_run = self._next_trial(study, request)
        seen = [p.wall_s for p in study.own if p.state == "ok"]
        each_s = sum(seen) / len(seen) if seen else FIRST_PROBE_S
        settings = study.job.probe
        # Further probes may follow, of any configuration.
        rates = [trial.offer.price.usd_per_h for trial in found] if to_run else []
        dearest_usd = max(rates, default=0.0) * settings.max_time_s / 3600
        return ProbePlan(
            to_run=tuple(_trial_text(trial) for trial in to_run),
            reused=tuple(kept for _, kept in wanted if kept is not None),
            expected_s=min(each_s * len(to_run), settings.max_time_s),
            max_cost_usd=min(settings.max_cost_usd, dearest_usd),
        )

    def _next_trial(self, study: Study, request: EstimateRequest) -> list[Trial]:
        """The next probe on top of kept ones, when it is worth it."""
        if study.samples is None:
            return []  # the estimate will ask for them
        prober = prober_of(study, self._state, self._clock, ignore, None)
        evidence = gather(study, prober, probe=False)
        conclusion = conclude(study, request, evidence, self._finished(), self._clock.now())
        choice = advise(study, request, evidence, conclusion)
        if choice is None or choice.reason != "worth" or choice.option_id is None:
            return []
        return [conclusion.trials[choice.option_id]]

    def _finished(self) -> FinishedRuns:
        return finished_runs(self._state.path)

    # ---- estimating

    def estimate(
        self, request: EstimateRequest, on_event: EventSink, cancel: Cancel | None = None
    ) -> EstimateResult:
        """Probe (or reuse), predict, score; the result is kept under its id.

        When no probe ends well the result has no options; its recommendation says why, and it
        carries the warning `probe.all_failed`.

        Raises:
            DataError: The data set is unfit.
            UsageError: The job cannot run anywhere, or nothing tells how many samples it has.
            RunnerError: No place answers.
            CleanupError: A probe's processes could not be ended.
            StoreError: The state directory cannot be used.
        """
        self._state.require_writable()
        study = look(request, self._state)
        on_event("estimate.started", _started(study))
        with ExitStack() as stack:
            turn = _Turn(stack, self._state, self._clock, on_event, cancel)
            if request.probe and _must_probe(study):
                turn.take()
                study = look(request, self._state)  # the one before may have measured the same
            prober = prober_of(study, self._state, self._clock, on_event, cancel)
            evidence = gather(study, prober, probe=request.probe)
            finished = self._finished()
            refined = refine(
                study,
                request,
                evidence,
                prober,
                conclude=lambda: conclude(study, request, evidence, finished, self._clock.now()),
                take_turn=turn.take,
                on_event=on_event,
            )
        result = self._result(study, request, evidence, refined)
        if result.options:
            on_event("model.fitted", {"model": to_json(result.model)})
        save(self._state.estimates / f"{result.id}.json", result)
        on_event(
            "estimate.completed",
            {
                "estimate_id": result.id,
                "options": len(result.options),
                "recommendation": to_json(result.recommendation),
            },
        )
        return result

    # ---- concluding

    def _result(
        self, study: Study, request: EstimateRequest, evidence: Evidence, refined: Refined
    ) -> EstimateResult:
        conclusion = refined.conclusion
        now, work = conclusion.at, conclusion.work
        card = conclusion.predictor.card() if conclusion.predictor else _NO_MODEL
        text = f"{study.fingerprint} {now.isoformat()} {request}"
        digest = base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()
        warnings = (
            *study.warnings,
            *evidence.warnings,
            *reuse_warning(evidence.reused, now),
            *probe_warnings(evidence.new),
            *batch_warning(evidence.probes, evidence.global_batch),
            *busy_warning(evidence.probes, conclusion.predictions),
            *work_warnings(study.job, work),
            *batch_over_data(evidence.global_batch, work),
            *option_warnings(conclusion.options),
            *interrupted_warning(conclusion.predictions),
            *drift_warning(card, conclusion.predictions),
            *conclusion.warnings,
        )
        return EstimateResult(
            id=f"e-{digest[:7]}",
            created_at=now,
            seed=request.seed,
            job=replace(request.job, goal=request.goal),
            work=work,
            goal=request.goal,
            recommendation=conclusion.recommendation,
            options=conclusion.options,
            probes=evidence.probes,
            probe_cost_usd=sum(p.cost_usd for p in evidence.new),
            model=card,
            warnings=warnings,
            next_probe=refined.next_probe,
            probe_decisions=refined.decisions,
        )

    # ---- afterwards

    def latest_estimate(self, job: JobSpec | None = None) -> EstimateResult | None:
        """The newest kept estimate; with a job, the newest whose job is the same but for its goal.

        The same means the same job file values and the same fingerprint of code and data.

        Raises:
            DataError: The job's data set is unfit.
            StoreError: The estimates cannot be read.
        """
        paths = sorted(
            self._state.estimates.glob("e-*.json"), key=lambda p: p.stat().st_mtime, reverse=True
        )
        fingerprint = None if job is None else self._fingerprint(job)
        for path in paths[:_LOOK_BACK]:
            try:
                found = load(EstimateResult, path)
            except StoreError:
                continue  # of another version, or damaged: as good as not there
            if job is None:
                return found
            same = replace(found.job, goal=job.goal) == job
            if same and found.work.fingerprint == fingerprint:
                return found
        return None

    def _fingerprint(self, job: JobSpec) -> str:
        skipped = (self._state.path, self._state.path.resolve())
        return job_fingerprint(job, scan_data(job.data), exclude=skipped)

    def load_estimate(self, estimate_id: str) -> EstimateResult:
        """A kept estimate.

        Raises:
            NotFoundError: None of that id is kept.
            StoreError: It cannot be read.
        """
        path = self._state.estimates / f"{check_id(estimate_id)}.json"
        if not path.is_file():
            raise NotFoundError(
                f"no estimate {estimate_id} is kept", hint="planner estimate makes a new one"
            )
        return load(EstimateResult, path)

    def rescore(self, estimate: EstimateResult, goal: Goal) -> EstimateResult:
        """The same options under another goal, without new probes; nothing is kept."""
        return rescored(estimate, goal, self._clock.now())


class _Turn:
    """The turn to probe, taken at most once and kept until the estimate is made."""

    def __init__(
        self,
        stack: ExitStack,
        state: StateDir,
        clock: Clock,
        on_event: EventSink,
        cancel: Cancel | None,
    ) -> None:
        self._stack = stack
        self._wait = partial(turn_to_probe, state, clock, on_event, cancel)
        self._taken = False

    def take(self) -> bool:
        """Wait for it; whether it was not taken yet, so that others may have probed."""
        first, self._taken = not self._taken, True
        if first:
            self._stack.enter_context(self._wait())
        return first


def _started(study: Study) -> dict[str, object]:
    """What an estimate says of its job as it starts."""
    return {
        "job": study.job.name,
        "fingerprint": study.fingerprint,
        "data": study.stats.kind,
        "samples": study.samples,
    }


def _must_probe(study: Study) -> bool:
    """Whether anything is to be tried that no kept result answers."""
    if study.global_batch is None:
        return True
    found, _ = study.trials(study.global_batch)
    return any(kept is None for _, kept in study.wanted(found))


def _trial_text(trial: Trial) -> str:
    r, k = trial.resources, trial.knobs
    workers = "1 worker" if r.workers == 1 else f"{r.workers} workers"
    device = f" {r.gpu}" if r.gpu else ""
    accumulated = f" x{k.accumulation}" if k.accumulation > 1 else ""
    spread = f" ({layout})" if (layout := layout_text(k)) else ""
    return f"{r.runner}:{r.pool}{device} {workers}{spread} x {k.micro_batch}{accumulated}"
