"""Sentences from numbers: why this option, why not that one, what would help."""

from __future__ import annotations

from collections.abc import Sequence

from planner.core.choose import MAX_P_OOM, Terms
from planner.core.distribution import Distribution
from planner.core.job import Prefer
from planner.core.prediction import Bottleneck
from planner.core.recommendation import Flip, Recommendation
from planner.core.replicas import layout_text
from planner.core.types import EstimateResult, Option, Reason
from planner.core.units import format_bytes, format_chance, format_duration, format_money

_BEST: dict[Prefer, str] = {
    "cost": "Cheapest",
    "time": "Fastest",
    "risk": "Least risky",
}

_BOTTLENECK: dict[Bottleneck, str] = {
    "gpu": "Computing takes most of each step: a faster device would help.",
    "loader": "Waiting for data takes much of each step: more loader workers or faster storage"
    " would help.",
    "network": "Workers wait for each other's gradients: fewer workers, or a larger micro-batch"
    " with fewer, larger steps, would help.",
    "memory": "Memory limits the micro-batch: a smaller micro-batch with more accumulation, or a"
    " device with more memory, would help.",
    "unknown": "What limits the speed was not measured.",
}


_VERDICT: dict[str, str] = {
    "worth": "worth it",
    "not_worth": "not worth it",
    "settled": "not needed, the pick is settled",
    "cap": "worth it, but beyond what probes may take",
    "stopped": "worth it, but probing was stopped",
}


def label(option: Option) -> str:
    """An option in a few words: `local:cpu 2 workers x 16 x2`: micro-batch 16, twice over.

    Of workers that hold replicas together it says how: `4 workers (tensor 2 x pipeline 2) x 16`.
    """
    r, k = option.resources, option.knobs
    what = f"{r.instance_type} {r.market}" if r.instance_type else f"{r.runner}:{r.pool}"
    device = f" {r.gpu}" if r.gpu else ""
    workers = "1 worker" if r.workers == 1 else f"{r.workers} workers"
    accumulated = f" x{k.accumulation}" if k.accumulation > 1 else ""
    spread = f" ({layout})" if (layout := layout_text(k)) else ""
    return f"{what}{device} {workers}{spread} x {k.micro_batch}{accumulated}"


def asked(terms: Terms) -> str:
    """The chance constraints in words; empty when there are none."""
    parts = []
    if terms.deadline_s is not None:
        parts.append(f"P(time) >= {terms.confidence:.2f}")
    if terms.budget_usd is not None:
        parts.append(f"P(cost) >= {terms.budget_confidence:.2f}")
    return " and ".join(parts)


def recommendation_text(terms: Terms, pick: Option | None, least_bad: Option | None) -> str:
    """One sentence: the pick's merit, or what comes nearest when nothing meets the goal."""
    wanted = asked(terms)
    if pick is not None:
        return f"{_BEST[terms.prefer]} option{' with ' if wanted else ''}{wanted}."
    if least_bad is None:
        return "There is no option: nothing is known that this job could run on."
    reasons = "; ".join(reason.text for reason in least_bad.reasons)
    return (
        f"No option {f'has {wanted}' if wanted else 'fits into memory'}."
        f" The least bad is {least_bad.id} ({label(least_bad)}): {reasons}."
    )


def oom_reason(p_oom: float) -> Reason:
    """Why an option that may run out of memory is refused."""
    return Reason(
        code="memory.oom",
        text=f"P(out of memory) is {format_chance(p_oom)}, at most {MAX_P_OOM:.2f} is accepted",
    )


def deadline_reason(p_deadline: float, total_s: Distribution, terms: Terms) -> Reason:
    """Why an option that may miss the deadline is refused, and what deadline it would keep."""
    limit = format_duration(max(terms.deadline_s or 0.0, 0.0))
    return Reason(
        code="deadline.missed",
        text=f"P(time <= {limit}) is {format_chance(p_deadline)}, asked for {terms.confidence:.2f};"
        f" takes {format_duration(total_s.p50)} at the median,"
        f" {format_duration(total_s.quantile(terms.confidence))} would do",
    )


def budget_reason(p_budget: float, cost_usd: Distribution, terms: Terms) -> Reason:
    """Why an option that may break the budget is refused, and what budget it would keep."""
    return Reason(
        code="budget.exceeded",
        text=f"P(cost <= {format_money(terms.budget_usd or 0.0)}) is {format_chance(p_budget)},"
        f" asked for {terms.budget_confidence:.2f};"
        f" costs {format_money(cost_usd.p50)} at the median,"
        f" {format_money(cost_usd.quantile(terms.budget_confidence))} would do",
    )


def bottleneck_text(option: Option) -> str:
    """What limits an option's speed, and what would help."""
    return _BOTTLENECK[option.bottleneck]


def why(options: Sequence[Option], recommendation: Recommendation) -> tuple[str, ...]:
    """The paragraph under a table of options: merit, comparison, risk, flips, bottleneck."""
    by_id = {option.id: option for option in options}
    pick = by_id.get(recommendation.option_id or "")
    if pick is None:
        return (recommendation.text,)
    lines = [recommendation.text]
    rivals = [o for o in options if o.feasible and o.on_front and o.id != pick.id]
    lines += [against(pick, rival) for rival in rivals[:3]]
    if pick.p_deadline is not None:
        lines.append(f"Chance to miss the deadline: {_percent(1 - pick.p_deadline)}.")
    if pick.expected_interruptions > 0:
        lines.append(
            f"{pick.expected_interruptions:,.2f} interruptions expected; their loss is in the"
            " interval."
        )
    lines += [flip_text(flip, by_id[flip.to]) for flip in recommendation.flips if flip.to in by_id]
    lines.append(bottleneck_text(pick))
    return tuple(lines)


def against(pick: Option, rival: Option) -> str:
    """The pick compared with another option: `Against o2: saves $2.90, ends 3h54m later.`."""
    money = rival.cost_usd.mean - pick.cost_usd.mean
    time_s = pick.total_s.mean - rival.total_s.mean
    parts = []
    if format_money(abs(money)) != format_money(0):
        parts.append(f"{'saves' if money > 0 else 'costs'} {format_money(abs(money))}")
    if abs(time_s) >= 1:
        parts.append(f"ends {format_duration(abs(time_s))} {'later' if time_s > 0 else 'earlier'}")
    return f"Against {rival.id} ({label(rival)}): {', '.join(parts) or 'no real difference'}."


def why_not(option: Option, pick: Option | None) -> str:
    """Why an option is not the pick."""
    if option.reasons:
        return "; ".join(reason.text for reason in option.reasons)
    if pick is None or option.id == pick.id:
        return ""
    if option.dominated_by is not None:
        return f"dominated by {option.dominated_by}: neither faster nor cheaper"
    time_s = option.total_s.mean - pick.total_s.mean
    money = option.cost_usd.mean - pick.cost_usd.mean
    slower = f"{format_duration(abs(time_s))} {'slower' if time_s > 0 else 'faster'}"
    dearer = f"{format_money(abs(money))} {'dearer' if money > 0 else 'cheaper'}"
    return f"{slower} and {dearer} than {pick.id}"


def flip_text(flip: Flip, to: Option) -> str:
    """A flip as a sentence."""
    than = "more" if flip.op == ">" else "less"
    condition = {
        "hour_value_usd": f"an hour is worth {than} than {format_money(flip.value)} to you",
        "deadline_s": f"the deadline is {than} than {format_duration(flip.value)} away",
        "budget_usd": f"the budget is {than} than {format_money(flip.value)}",
        "usd_per_h": f"its price is {than} than {format_money(flip.value)}/h",
        "confidence": f"{than} than {_percent(flip.value)} confidence is asked for",
    }.get(flip.variable, f"{flip.variable} {flip.op} {flip.value:g} {flip.unit}")
    return f"The pick becomes {flip.to} ({label(to)}) when {condition}."


def next_probe_text(estimate: EstimateResult) -> str:
    """What one more probe would buy, in a line; empty where nothing can be said."""
    probe = estimate.next_probe
    if probe is None:
        return ""
    if probe.reason == "all_tried":
        return "Next probe: none: every configuration was tried."
    price = format_duration(probe.time_s)
    if probe.cost_usd > 0:
        price = f"{format_money(probe.cost_usd)}, {price}"
    option = estimate.option(probe.option_id or "")
    if option is None or probe.p_change is None:
        return f"Next probe: {price}; without one nothing is known."
    saved = format_money(probe.saves_usd or 0.0)
    if probe.saves_s is not None:
        saved = format_duration(probe.saves_s) if probe.saves_s >= 1 else "no time"
    elif not probe.saves_usd:
        saved = "nothing"
    return (
        f"Next probe: {label(option)}: {price}; would save {saved} on average"
        f" (the pick changes with {_percent(probe.p_change)}): {_VERDICT[probe.reason]}."
    )


def memory_text(option: Option) -> str:
    """Peak memory of a worker against what it has."""
    peak = format_bytes(option.memory_bytes.p50)
    return f"{peak} peak, P(out of memory) {format_chance(option.p_oom)}"


def _percent(fraction: float) -> str:
    """A fraction as a percentage that never rounds a chance away to none or to certainty."""
    percent = 100 * fraction
    if 0 < percent < 1:
        return "under 1 %"
    if 99 < percent < 100:
        return "over 99 %"
    return f"{percent:.0f} %"
