"""Where the steady state of a probe begins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import log, sqrt
from statistics import fmean, median

MIN_STEPS = 8
"""With fewer steps after the warm-up nothing more is dropped."""
MIN_CHANGE = 0.03
"""Levels that differ by less are the same."""
_CRITICAL = 1.36
"""95 % point of the largest |Brownian bridge|, against which the CUSUM is held."""
_ROUNDS = 3


def steady_from(step_time_s: Sequence[float], warmup_steps: int) -> int:
    """How many leading steps belong to the warm-up.

    At least `warmup_steps` (but never more than half of what there is). Behind those a CUSUM test
    on the logarithms looks for a change of level (E. S. Page, "Continuous inspection schemes",
    Biometrika 1954). A slower head of up to half of the steps goes too: caches that fill, compilers
    and clocks that settle take more steps than anyone would guess beforehand. A faster head goes
    up to a third: batches that were loaded ahead while the first step compiled. Later changes are
    no warm-up: both levels belong to the job, or to the machine that it shares.

    Args:
        step_time_s: Times of all steps from the first on, s.
        warmup_steps: What is dropped in any case.
    """
    dropped = min(warmup_steps, len(step_time_s) // 2)
    for _ in range(_ROUNDS):
        rest = [log(max(t, 1e-9)) for t in step_time_s[dropped:]]
        change = _level_change(rest)
        if change is None:
            break
        slower = median(rest[:change]) > median(rest[change:])
        if change > len(rest) // (2 if slower else 3):
            break
        dropped += change
    return dropped


def _level_change(values: Sequence[float]) -> int | None:
    """Index of the first value of a new level, or None when all belong to one."""
    n = len(values)
    if n < MIN_STEPS:
        return None
    # Noise from neighbours' differences: a jump of the level enters once, not n times.
    moves = [abs(b - a) for a, b in pairwise(values)]
    noise = max(1.4826 * median(moves) / sqrt(2), 1e-4)
    mid = median(values)
    clipped = [min(max(v, mid - 10 * noise), mid + 10 * noise) for v in values]
    mean = fmean(clipped)
    total, worst, where = 0.0, 0.0, 0
    for index, value in enumerate(clipped[:-1], start=1):
        total += value - mean
        if abs(total) > worst:
            worst, where = abs(total), index
    if worst / (noise * sqrt(n)) < _CRITICAL:
        return None
    apart = abs(median(values[:where]) - median(values[where:]))
    return where if apart >= MIN_CHANGE else None
