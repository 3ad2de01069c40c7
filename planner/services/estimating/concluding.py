"""What follows from the evidence: predictions, options and the pick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from planner.core.errors import EvidenceError, UsageError
from planner.core.job import JobSpec
from planner.core.options import RULES, Candidate, build_options, option_id
from planner.core.prediction import Prediction
from planner.core.recommendation import Recommendation
from planner.core.types import Option, ProbeResult, Warning_, WorkLoad
from planner.services.api import EstimateRequest
from planner.services.estimating.candidates import Trial
from planner.services.estimating.doubtwarnings import doubt_warnings
from planner.services.estimating.evidence import Evidence
from planner.services.estimating.study import Study
from planner.services.jobenv import uses_placeholder
from planner.services.runs.shelf import FinishedRuns
from predictors.base import JobPredictor
from predictors.registry import job_predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What follows from the evidence; what is left of a deadline is counted from `at`.

    Attributes:
        predictor: Fitted; None when nothing was measured.
        trials: How each option can be had, by its id.
        step_s: Median time of a step of each option, s, by its id.
    """

    at: datetime
    work: WorkLoad
    options: tuple[Option, ...]
    recommendation: Recommendation
    predictor: JobPredictor | None = None
    predictions: tuple[Prediction, ...] = ()
    trials: Mapping[str, Trial] = field(default_factory=dict)
    step_s: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[Warning_, ...] = ()


def conclude(
    study: Study,
    request: EstimateRequest,
    evidence: Evidence,
    finished: FinishedRuns,
    now: datetime,
) -> Conclusion:
    """Predict every configuration from the evidence, and score the options against the goal.

    Raises:
        UsageError: Nothing tells how many samples the job has.
    """
    probes = evidence.probes
    work = _work(study, probes)
    try:
        predictor = job_predictor(
            history=study.others,
            finished=finished.times,
            bills=finished.bills,
            saves=study.job.tier > 0,
            model=study.job.model,
            seed=request.seed,
        ).fit(probes)
    except EvidenceError as error:
        return _no_options(error, request, work, now)
    loading = _loader_workers(study.job, probes)
    configs = [(t.resources, replace(t.knobs, loader_workers=loading)) for t in evidence.trials]
    predictions = predictor.predict(configs, work, [t.offer for t in evidence.trials])
    candidates = [
        Candidate(resources=resources, knobs=knobs, offer=t.offer, prediction=prediction)
        for t, (resources, knobs), prediction in zip(
            evidence.trials, configs, predictions, strict=True
        )
    ]
    options, recommendation = build_options(candidates, work, request.goal, now)
    keys = [option_id(*config) for config in configs]
    dearest_first = sorted(
        zip(keys, evidence.trials, strict=True), key=lambda pair: -pair[1].offer.price.usd_per_h
    )
    return Conclusion(
        at=now,
        work=work,
        options=options,
        recommendation=recommendation,
        predictor=predictor,
        predictions=tuple(predictions),
        warnings=doubt_warnings(predictor.doubts(configs), configs),
        trials=dict(dearest_first),
        step_s={k: p.step_time_s.p50 for k, p in zip(keys, predictions, strict=True)},
    )


def _no_options(
    error: EvidenceError, request: EstimateRequest, work: WorkLoad, now: datetime
) -> Conclusion:
    text = f"No option can be offered: {error.text}."
    return Conclusion(
        at=now,
        work=work,
        options=(),
        recommendation=Recommendation(option_id=None, rule=RULES[request.goal.prefer], text=text),
        warnings=(Warning_(code="probe.all_failed", text=text, hint=error.hint),),
    )


def _work(study: Study, probes: Sequence[ProbeResult]) -> WorkLoad:
    samples = study.samples or next((p.samples for p in probes if p.samples), None)
    if samples is None and any(p.state == "ok" for p in probes):
        raise UsageError(
            f"nothing tells how many samples one epoch of {study.job.name} has",
            hint="Set samples in [job]; the probes that were made are kept.",
        )
    parts = [p.slice_samples / p.samples for p in probes if p.slice_samples and p.samples]
    return WorkLoad(
        samples=samples or 0,
        epochs=_epochs(study.job, probes),
        tail_samples=study.stats.tail_samples,
        slice_fraction=min(1.0, parts[-1]) if parts else study.job.probe.slice_fraction,
        fingerprint=study.fingerprint,
    )


def _epochs(job: JobSpec, probes: Sequence[ProbeResult]) -> int:
    """What the script will do: it is told by `{epochs}`, or has its own number and tells it."""
    if uses_placeholder(job, "epochs"):
        return job.epochs
    return next((p.epochs for p in reversed(probes) if p.epochs), job.epochs)


def _loader_workers(job: JobSpec, probes: Sequence[ProbeResult]) -> int:
    """What the job says, or the script's own as the probes were told."""
    if job.loader_workers is not None:
        return job.loader_workers
    return next((p.knobs.loader_workers for p in reversed(probes) if p.state == "ok"), 0)
