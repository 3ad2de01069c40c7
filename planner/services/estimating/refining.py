"""Which probe next: after the first few, as long as one is expected to save more than it costs.

Every decision is told by a `probe.decided` event, with the `NextProbe` as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import fmean

from planner.core.choose import terms_of
from planner.core.events import EventSink
from planner.core.job import ProbeSettings
from planner.core.nextprobe import NextProbe, ProbeReason, verdict
from planner.core.options import table_of
from planner.core.probevalue import Question, value_of_probing
from planner.core.types import Option, ProbeResult
from planner.services.api import EstimateRequest
from planner.services.estimating.candidates import Trial, design
from planner.services.estimating.concluding import Conclusion
from planner.services.estimating.evidence import Evidence
from planner.services.estimating.probing import FIRST_PROBE_S, Prober
from planner.services.estimating.study import Study
from planner.store.codec import to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """Where probing ended: the conclusion from all evidence, and every decision on the way."""

    conclusion: Conclusion
    next_probe: NextProbe | None
    decisions: tuple[NextProbe, ...] = ()


def refine(
    study: Study,
    request: EstimateRequest,
    evidence: Evidence,
    prober: Prober,
    *,
    conclude: Callable[[], Conclusion],
    take_turn: Callable[[], bool],
    on_event: EventSink,
) -> Refined:
    """Probe on while it pays; without `request.probe`, only say what a probe would buy.

    Args:
        study: The job.
        request: What is asked for.
        evidence: What is known; new results are added.
        prober: Its allowance goes on from the first probes.
        conclude: What follows from the evidence as it stands.
        take_turn: Waits for the turn to probe, once; whether others may have probed meanwhile.
        on_event: Told of every decision.

    Raises:
        CleanupError: A probe's processes could not be ended.
        StoreError: The state directory cannot be used.
    """
    decisions: list[NextProbe] = []
    while True:
        conclusion = conclude()
        choice = advise(study, request, evidence, conclusion)
        trial = conclusion.trials.get(choice.option_id or "") if choice else None
        if choice is None or choice.reason != "worth" or trial is None or not request.probe:
            break
        if take_turn() and evidence.add_kept(study, prober.state):
            continue
        if reason := _prevented(prober, trial, choice):
            choice = replace(choice, reason=reason)
            break
        on_event("probe.decided", to_json(choice))
        decisions.append(choice)
        evidence.add(prober.run([trial]), prober.state)
    if choice is not None:
        on_event("probe.decided", to_json(choice))
    return Refined(conclusion=conclusion, next_probe=choice, decisions=tuple(decisions))


def advise(
    study: Study, request: EstimateRequest, evidence: Evidence, conclusion: Conclusion
) -> NextProbe | None:
    """The probe that would save most for its price; None where probes failed and nothing is known.

    Configurations that were tried, however that ended, are not tried again.
    """
    if conclusion.predictor is None:
        return None if evidence.probes else _first(evidence)
    untried = _untried(study, evidence, conclusion)
    if not untried:
        return NextProbe(option_id=None, reason="all_tried")
    import numpy as np

    options = conclusion.options
    rows = [i for i, o in enumerate(options) if o.id in untried]
    probe_s = _probe_s(evidence.probes, study.job.probe, [options[i] for i in rows], conclusion)
    rates = np.asarray([options[i].price.usd_per_h for i in rows])
    answer = value_of_probing(
        Question(
            table=table_of(options),
            terms=terms_of(request.goal, conclusion.at),
            run_s=conclusion.predictor.draws(
                [(o.resources, o.knobs) for o in options], conclusion.work
            ),
            mean_run_s=np.asarray([o.run_s.mean for o in options]),
            probed=np.asarray(rows, dtype=np.intp),
            probe_s=np.asarray(probe_s),
            probe_usd=np.asarray(probe_s) * rates / 3600,
        )
    )
    chosen = options[rows[answer.best]]
    time_s = probe_s[answer.best]
    return NextProbe(
        option_id=chosen.id,
        reason=verdict(answer),
        time_s=time_s,
        cost_usd=time_s * chosen.price.usd_per_h / 3600,
        saves_usd=answer.saves if answer.in_money else None,
        saves_s=None if answer.in_money else answer.saves,
        p_change=answer.p_change,
    )


def _first(evidence: Evidence) -> NextProbe:
    """What the first probe of a job is said to take; nothing can be said without it."""
    trial = design(evidence.trials)[0]
    cost_usd = FIRST_PROBE_S * trial.offer.price.usd_per_h / 3600
    return NextProbe(option_id=None, reason="unmeasured", time_s=FIRST_PROBE_S, cost_usd=cost_usd)


def _untried(study: Study, evidence: Evidence, conclusion: Conclusion) -> set[str]:
    """Ids of the options whose configuration was not tried, the cheapest offer of each."""
    cheapest: dict[str, tuple[float, str]] = {}
    for key, trial in conclusion.trials.items():
        if study.match(trial, evidence.probes) is None:
            offered = (trial.offer.price.usd_per_h, key)
            shape = study.probe_id(trial)
            cheapest[shape] = min(cheapest.get(shape, offered), offered)
    return {key for _, key in cheapest.values()}


def _probe_s(
    probes: Sequence[ProbeResult],
    settings: ProbeSettings,
    options: Sequence[Option],
    conclusion: Conclusion,
) -> list[float]:
    """What a probe of each option takes: its steps, and what probes took besides theirs."""
    told = [(p, [t for t in p.step_time_s if 0 < t < inf]) for p in probes if p.state == "ok"]
    beside = [
        max(p.wall_s - (p.steps + p.warmup_steps) * fmean(times), 0.0) for p, times in told if times
    ]
    steps = settings.steps + settings.warmup_steps
    fixed_s = fmean(beside) if beside else FIRST_PROBE_S
    return [fixed_s + steps * conclusion.step_s[o.id] for o in options]


def _prevented(prober: Prober, trial: Trial, choice: NextProbe) -> ProbeReason | None:
    if prober.stopped:
        return "stopped"
    return None if prober.affords(trial, choice.time_s) else "cap"
