"""What a change of a running job is expected to do: rate, cost, downtime. Pure.

The new rate comes from the kept estimate where it has both shapes: its ratio between them, times
what the run measures now. Else it is a guess from simple laws, and is told as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from planner.core.adjust import (
    Adjustment,
    Band,
    Expectation,
    InForce,
    Wish,
    lr_factor,
    pass_samples,
)
from planner.core.adjustrules import Verdict
from planner.core.types import Option
from planner.core.units import format_duration, format_money
from planner.services.api import RunView

HAND_OVER_S = 0.05
"""What workers that join, leave or take over add to the longest step, before one was measured in
this run. With a small network on two CPU cores it was 0.02 to 0.05 s; elsewhere it is a guess."""
HAND_OVER_S_PER_BYTE = 2e-9
"""And for each byte of model and optimiser state: measured there too, between processes of one
machine. What a network between machines makes of it is a guess."""
KNOB_STEPS = 2.0
"""The longest step when only knobs are turned, in usual ones: 1.4 to 2.1 were measured there."""
KNOB_S = 0.2
"""The same where the time of a step is not known: a guess."""
JOIN_S = 15.0
"""From the request until workers that join are ready (import, build, warm up): a guess."""
AGREE_S = 1.0
"""From the request until the job has heard of it, where nobody joins: a guess."""
AHEAD_STEPS, AHEAD_S = 2, 10.0
"""Steps that each loader process has drawn ahead, which a change waits for; the longest wait."""
RELAUNCH_S = 20.0
"""Checkpoint, leave, start again and load: a guess."""
_DOUBLING = 0.9
"""What is left of the ideal gain each time the number of workers doubles, by guess."""
_LOW_MEMORY = (0.6, 0.77, 1.0)
_OTHER_BATCH = (0.8, 1.0, 1.2)


def expect(
    view: RunView, wish: Wish, now: InForce, verdict: Verdict, options: Sequence[Option]
) -> Expectation:
    """What is to be expected of a change.

    Args:
        view: The run as it is.
        wish: What is asked for.
        now: What will be in force when it is begun.
        verdict: How it is made.
        options: Those of the kept estimate; empty where none is kept.
    """
    target, before = verdict.target, view.samples_per_s
    band, basis = _rate(before, now, target, options, view.loader_wait_fraction)
    left_before_s = view.eta_s.p50 if view.eta_s else None
    left_s = None
    if left_before_s is not None and before and band is not None and band.mid > 0:
        left_s = left_before_s * before / band.mid
    usd_before, usd_after = _price_now(view, now), target.price.usd_per_h
    in_flight_move = verdict.how == "in_flight" and verdict.moves
    peak = usd_before + usd_after if in_flight_move else max(usd_before, usd_after)
    stall_s, downtime_s = _times_s(verdict, now, view)
    spent_usd = view.summary.spent_usd
    return Expectation(
        what=verdict.what,
        how=verdict.how,
        why=verdict.why,
        samples_per_s_before=before,
        samples_per_s=band,
        basis=basis,
        usd_per_h_before=usd_before,
        usd_per_h=usd_after,
        peak_usd_per_h=peak,
        left_before_s=left_before_s,
        left_s=left_s,
        cost_at_end_before_usd=_cost(spent_usd, left_before_s, usd_before),
        cost_at_end_usd=_cost(spent_usd, left_s, usd_after),
        downtime_s=downtime_s,
        stall_s=stall_s,
        asks=verdict.asks,
        dearer=peak > now.max_usd_per_h + 1e-6,
        notes=_notes(view, wish, now, target),
    )


def expected_text(found: Expectation) -> str:
    """An expectation in one line, for the journal."""
    parts: list[str] = []
    if found.samples_per_s is not None:
        was = found.samples_per_s_before
        before = f"{was:.0f} -> " if was is not None else ""
        parts.append(f"{before}{found.samples_per_s.mid:.0f} samples/s ({found.basis})")
    if found.stall_s is not None:
        parts.append(f"stall {found.stall_s:.1f} s")
    if found.usd_per_h != found.usd_per_h_before:
        was_usd = format_money(found.usd_per_h_before)
        parts.append(f"{was_usd} -> {format_money(found.usd_per_h)}/h")
    return ", ".join(parts) or "-"


def _price_now(view: RunView, now: InForce) -> float:
    return view.usd_per_h or now.price.usd_per_h


def _cost(spent_usd: float, left_s: float | None, usd_per_h: float) -> float | None:
    return None if left_s is None else spent_usd + left_s * usd_per_h / 3600


# ---- the new rate ------------------------------------------------------------------------------


def _rate(
    before: float | None,
    now: InForce,
    target: InForce,
    options: Sequence[Option],
    wait: float | None,
) -> tuple[Band | None, Literal["estimate", "guess"] | None]:
    old, new = _option(options, now), _option(options, target)
    if old is not None and new is not None and now.memory == target.memory == "normal":
        planned, rate = old.throughput_samples_per_s.p50, new.throughput_samples_per_s
        scale = before / planned if before and planned > 0 else 1.0
        return Band(lo=rate.p05 * scale, mid=rate.p50 * scale, hi=rate.p95 * scale), "estimate"
    if before is None or now.resources.device != target.resources.device:
        return None, None
    lo = mid = hi = before
    for low, middle, high in _factors(now, target, wait):
        lo, mid, hi = lo * low, mid * middle, hi * high
    return Band(lo=lo, mid=mid, hi=hi), "guess"


def _option(options: Sequence[Option], state: InForce) -> Option | None:
    """The option that is this shape, layout and these batches, whatever it costs."""
    shape, knobs = state.resources, state.knobs
    for option in options:
        there, turned = option.resources, option.knobs
        if (
            (there.runner, there.pool, there.device, there.workers)
            == (shape.runner, shape.pool, shape.device, shape.workers)
            and (turned.tensor_parallel, turned.pipeline_parallel)
            == (knobs.tensor_parallel, knobs.pipeline_parallel)
            and pass_samples(turned, there.workers) == pass_samples(knobs, shape.workers)
            and turned.global_batch == knobs.global_batch
            and turned.loader_workers == knobs.loader_workers
        ):
            return option
    return None


def _factors(now: InForce, target: InForce, wait: float | None) -> list[tuple[float, float, float]]:
    """What each part of the change does to the rate: lowest, likely, highest."""
    found: list[tuple[float, float, float]] = []
    ratio = target.workers / now.workers
    if ratio != 1.0:
        likely = ratio * _DOUBLING ** math.log2(ratio)
        found.append((min(1.0, ratio), likely, max(1.0, ratio)))
    elif target.memory == now.memory and _batches(target) != _batches(now):
        found.append(_OTHER_BATCH)
    if target.memory != now.memory:
        low, likely, high = _LOW_MEMORY
        back = (1 / high, 1 / likely, 1 / low)
        found.append(_LOW_MEMORY if target.memory == "low" else back)
    if target.knobs.loader_workers != now.knobs.loader_workers:
        gain = 1 / (1 - min(wait or 0.0, 0.9))
        more = target.knobs.loader_workers > now.knobs.loader_workers
        found.append((0.9, math.sqrt(gain), gain) if more else (0.5, 0.9, 1.0))
    return found


def _batches(state: InForce) -> tuple[int, int]:
    return state.knobs.micro_batch, state.knobs.global_batch


# ---- the time it takes ---------------------------------------------------------------------------


def _times_s(verdict: Verdict, now: InForce, view: RunView) -> tuple[float | None, float | None]:
    """Stall and downtime: as the last change of that kind in this run took, else by experience."""
    if verdict.how == "nothing":
        return None, None
    past = [c for c in view.adjustments if c.state == "done" and c.reason == "asked"]
    done = [c for c in past if c.how == verdict.how]
    if verdict.how == "relaunch":
        took_s = _last([c.stall_s for c in done], RELAUNCH_S)
        return took_s, took_s
    crew = verdict.moves or verdict.target.workers != now.workers
    stalls = [c.stall_s for c in done if _changes_crew(c) == crew]
    grows = verdict.moves or verdict.target.workers > now.workers
    downs = [c.downtime_s for c in done if ((c.downtime_s or 0.0) > AHEAD_S) == grows]
    step_s = _step_s(now, view)
    usual_s = (step_s or 0.0) + _hand_over_s(view)
    if not crew:
        usual_s = KNOB_S if step_s is None else KNOB_STEPS * step_s
    stall_s = _last(stalls, usual_s)
    ahead_s = min(AHEAD_S, AHEAD_STEPS * now.knobs.loader_workers * (step_s or 0.0))
    soon_s = AGREE_S + ahead_s + stall_s
    return stall_s, _last(downs, JOIN_S if grows else soon_s)


def _last(values: Sequence[float | None], default: float) -> float:
    known = [value for value in values if value]
    return known[-1] if known else default


def _changes_crew(change: Adjustment) -> bool:
    wish = change.wish
    return wish is not None and (wish.workers is not None or wish.move is not None)


def _hand_over_s(view: RunView) -> float:
    """By the size of the last checkpoint, which holds what is handed over."""
    return HAND_OVER_S + HAND_OVER_S_PER_BYTE * (view.last_checkpoint_bytes or 0)


def _step_s(now: InForce, view: RunView) -> float | None:
    rate, batch = view.samples_per_s, now.knobs.global_batch
    return batch / rate if rate and batch > 0 else None


def _notes(view: RunView, wish: Wish, now: InForce, target: InForce) -> tuple[str, ...]:
    notes: list[str] = []
    before, after = now.knobs, target.knobs
    if before.global_batch != after.global_batch:
        factor = lr_factor(wish.lr_rule, before.global_batch, after.global_batch)
        notes.append(
            f"the mathematics change: learning rate x {factor:.3g} (--lr-rule {wish.lr_rule}),"
            " the schedule goes on by samples"
        )
    elif before.micro_batch != after.micro_batch or now.workers != target.workers:
        notes.append("the same mathematics but for the order of sums; BatchNorm sees other batches")
    if view.plan.job.tier == 0:
        notes.append("its script keeps no checkpoint: it starts again from the beginning")
    waiting = [change.what for change in view.adjustments if change.pending]
    if waiting:
        notes.append(f"it waits for what was asked for before: {'; '.join(waiting)}")
    if target.checkpoint_auto and not now.checkpoint_auto:
        notes.append("the interval follows what a checkpoint costs (Young, Daly)")
    elif before.checkpoint_interval_s != after.checkpoint_interval_s:
        risk = format_duration(after.checkpoint_interval_s)
        notes.append(f"an interruption costs up to {risk} of work")
    return tuple(notes)
