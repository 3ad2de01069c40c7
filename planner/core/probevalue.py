"""What one more probe would be worth: the expected regret that it saves, against its price.

Joint draws of whole-run times stand for what is not known. The decision is the pick of
`planner.core.choose`, taken under their mean. The *regret* of an option in a draw is what it takes
more than the best option of that draw, in money or in time as the goal prefers; an option that
misses the goal in a draw, beyond the chance that the goal accepts, has to be done again, so that
all it takes is regret.

The value of a probe is its expected value of sample information, the knowledge gradient (Frazier,
Powell and Dayanik 2009, doi:10.1287/ijoc.1080.0314, for beliefs that are correlated): for each of
some results that it may have, the draws are conditioned on that result, the decision is taken
again, and the regret that the new pick saves is averaged. Conditioning is the linear update of an
ensemble on the logarithm, with the spread shrunk by a square root (Whitaker and Hamill 2002,
doi:10.1175/1520-0493(2002)130<1913:EDAWPO>2.0.CO;2): exact for normal draws. A result after which
the pick stays counts for nothing, so that probing is worth exactly 0 where the ranking is settled.

One step is looked ahead: two probes that pay only together are not found. What a probe would show
of memory is not valued, and an option that hardly fits now is never the pick.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from planner.core.choose import MAX_P_OOM, Terms, score
from planner.core.choose import Table as OptionTable
from planner.core.distribution import I05, I95, LEVELS, mean, prob_below

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from planner.core.distribution import Array

    Mask = NDArray[np.bool_]

PROBE_LOG_SD = 0.05
"""Standard deviation of the logarithm between two probes of one configuration."""
RESULTS = 25
"""Results of a probe that are tried, evenly within three standard deviations either way."""
_REACH = 3.0
_RIVALS = 16
"""Options looked at besides those that are the best one of some draw."""
_MOST_PROBED = 24
"""Configurations whose probe is valued: those that may move options most against the pick."""
_LEAST_NOISE = 0.01
_ROUNDING = 1e-9
_GRID = tuple(i / 40 for i in range(-200, 201))
_NORMAL = tuple(NormalDist().cdf(z) for z in _GRID)
_Z95 = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is known, and what could be tried.

    Attributes:
        table: All options, as they are scored.
        terms: What is asked for now.
        run_s: Joint draws of whole-run times, shape (draws, n).
        mean_run_s: Expected whole-run time as predicted, shape (n,).
        probed: Rows whose configuration can be tried, shape (c,).
        probe_s: What each such probe would take, shape (c,).
        probe_usd: What each would cost, shape (c,).
        probe_log_sd: Noise of a probe's result, as a logarithm.
    """

    table: OptionTable
    terms: Terms
    run_s: Array
    mean_run_s: Array
    probed: NDArray[np.intp]
    probe_s: Array
    probe_usd: Array
    probe_log_sd: float = PROBE_LOG_SD


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The probe that saves most for its price, and where the decision stands.

    Money counts where the goal prefers money and the pick costs some; else time does. `saves`,
    `price`, `regret` and `takes` are all in that unit, USD or s.

    Attributes:
        in_money: Whether the unit is USD.
        pick: Row of the decision now; the least bad one where none meets the goal.
        takes: What the pick is expected to take.
        regret: Expected regret of the pick, as far as probes can narrow it.
        best: Position in `Question.probed`; None when nothing can be tried in time.
        saves: Regret that the best probe is expected to save.
        price: What it costs; in money, where that is 0, its time at the pick's hourly price.
        p_change: Chance that the pick is another one after it.
    """

    in_money: bool
    pick: int
    takes: float
    regret: float
    best: int | None = None
    saves: float = 0.0
    price: float = 0.0
    p_change: float = 0.0


def value_of_probing(question: Question) -> Answer:
    """The probe with the most expected saving for its price; see the module's text.

    Of at least one option. A probe after which the pick would no longer keep its deadline for
    the time that probing took is not considered.
    """
    import numpy as np

    whole = score(question.table, question.terms)
    in_money = question.terms.prefer != "time" and bool(
        whole.mean_cost_usd[int(whole.order[0])] > 0
    )
    rows = _rivals(question, whole.order, in_money=in_money)
    view = _view(question, rows, in_money=in_money)
    now = _decide(view, view.log_run, np.zeros(len(rows)))
    regret = float(_regret(view, view.log_run, now.row).mean())
    found = Answer(
        in_money=in_money,
        pick=int(rows[now.row]),
        takes=float(now.value[now.row]),
        regret=regret,
    )
    rate = float(question.table.usd_per_h[found.pick]) / 3600
    price = question.probe_s
    if in_money:
        price = np.where(question.probe_usd > 0, question.probe_usd, question.probe_s * rate)
    price = np.maximum(price, 1e-12)
    best, best_ratio = found, -1.0
    for c in _worth_a_look(question, view, now, rows, price):
        saves, p_change = _one_probe(question, view, now, c)
        if saves / price[c] > best_ratio:
            best_ratio = saves / price[c]
            best = replace(found, best=c, saves=saves, price=float(price[c]), p_change=p_change)
    return best


# ---- what is looked at -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """The options that could become the pick, as columns; k of them.

    Attributes:
        log_run: Draws of the logarithm of the whole-run time, centred, shape (draws, k).
        variable: What grows with the run: expected cost or run time, shape (k,).
        constant: What does not: the wait, where time counts; shape (k,).
        limits: Deadline and budget, as far as there are any.
        by_risk: Whether the goal prefers little risk.
    """

    log_run: Array
    variable: Array
    constant: Array
    limits: tuple[_Limit, ...]
    by_risk: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limit:
    """A deadline or a budget, and what of options counts against it.

    Attributes:
        most: The limit, s or USD.
        confidence: Chance that it is asked to hold with.
        variable: Expected time or cost that grows with the run, shape (k,).
        constant: The wait, shape (k,).
        noise: Spread that no probe narrows, as a logarithm, shape (k,).
        offset: What the chance now, as predicted, is above what the draws say; shape (k,).
    """

    most: float
    confidence: float
    variable: Array
    constant: Array
    noise: Array | float = _LEAST_NOISE
    offset: Array | float = 0.0

    def chance(self, log_run: Array) -> Array:
        """Chance to keep it, in each draw and for each option, shape of `log_run`."""
        import numpy as np

        if self.most <= 0:
            return np.zeros(log_run.shape)
        amount = self.constant + self.variable * np.exp(log_run)
        slack = np.log(self.most / np.maximum(amount, 1e-12)) / self.noise
        kept: Array = np.clip(np.interp(slack, _GRID, _NORMAL) + self.offset, 0.0, 1.0)
        return kept

    def times_over(self, grown: Array) -> Array:
        """The expected amount over the limit, where runs take `grown` times what is expected."""
        result: Array = (self.constant + self.variable * grown) / max(self.most, 1e-9)
        return result


def _rivals(question: Question, order: Any, *, in_money: bool) -> NDArray[np.intp]:
    """Rows that are the best in some draw, and the first ones of the list; only those that fit."""
    import numpy as np

    table = question.table
    fits = np.flatnonzero(table.p_oom <= MAX_P_OOM)
    if not len(fits):
        return np.asarray(order[:1], dtype=np.intp)
    listed = [row for row in order.tolist() if table.p_oom[row] <= MAX_P_OOM][:_RIVALS]
    view = _view(question, fits, in_money=in_money)
    counts = np.bincount(_best_of(view, view.log_run)[0], minlength=len(fits))
    often = fits[np.argsort(-counts, kind="stable")[:_RIVALS]]
    winners = often[counts[np.searchsorted(fits, often)] > 0]
    return np.asarray(list(dict.fromkeys([*listed, *winners.tolist()])), dtype=np.intp)


def _view(question: Question, rows: NDArray[np.intp], *, in_money: bool) -> _View:
    import numpy as np

    table, terms = question.table, question.terms
    log_run = np.log(np.maximum(question.run_s[:, rows], 1e-9))
    log_run -= np.log(np.exp(log_run).mean(axis=0))  # of mean 1 each, as times
    total, cost = mean(table.total_s)[rows], mean(table.cost_usd)[rows]
    run = np.minimum(question.mean_run_s[rows], total)
    zero = np.zeros(len(rows))
    limits = []
    if terms.deadline_s is not None:
        time = _Limit(
            most=terms.deadline_s,
            confidence=terms.confidence,
            variable=run,
            constant=total - run,
        )
        limits.append(_matched(time, table.total_s[rows], log_run))
    if terms.budget_usd is not None:
        money = _Limit(
            most=terms.budget_usd,
            confidence=terms.budget_confidence,
            variable=cost,
            constant=zero,
        )
        limits.append(_matched(money, table.cost_usd[rows], log_run))
    return _View(
        log_run=log_run,
        variable=cost if in_money else run,
        constant=zero if in_money else total - run,
        limits=tuple(limits),
        by_risk=terms.prefer == "risk",
    )


def _matched(limit: _Limit, quantiles: Array, log_run: Array) -> _Limit:
    """The limit with the noise that the predicted quantiles hold beside the draws' spread."""
    import numpy as np

    q = np.maximum(quantiles, 1e-9)
    spread = np.log(q[:, I95] / q[:, I05]) / (2 * _Z95)
    amount = np.maximum(limit.constant + limit.variable * np.exp(log_run), 1e-12)
    left = spread**2 - np.log(amount).var(axis=0)
    noisy = replace(limit, noise=np.sqrt(np.maximum(left, _LEAST_NOISE**2)))
    told = prob_below(quantiles, limit.most)
    return replace(noisy, offset=told - noisy.chance(log_run).mean(axis=0))


# ---- deciding ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Decision:
    """The pick's place in the view, whether it meets the goal, and every option's value."""

    row: int
    meets: bool
    value: Array


def _decide(view: _View, log_run: Array, shift: Array) -> _Decision:
    """The pick under the mean of the draws, moved by `shift` (k,): least value that is feasible.

    Where nothing is, the one that is beyond the limits the fewest times over.
    """
    import numpy as np

    grown = np.exp(log_run).mean(axis=0) * np.exp(shift)
    value = view.constant + view.variable * grown
    short, missed, over = (np.zeros(len(value)) for _ in range(3))
    for limit in view.limits:
        kept = limit.chance(log_run + shift).mean(axis=0)
        short = np.maximum(short, limit.confidence - kept)
        over = np.maximum(over, limit.times_over(grown))
        missed += 1 - kept
    over = np.where(short > _ROUNDING, over, 0.0)
    first = missed if view.by_risk else value
    row = int(np.lexsort((value, first, over, short > _ROUNDING))[0])
    return _Decision(row, bool(short[row] <= _ROUNDING), value)


def _best_of(view: _View, log_run: Array) -> tuple[NDArray[np.intp], Array, Array]:
    """The best option of each draw (draws,); value and miss of all, each (draws, k)."""
    import numpy as np

    grown = np.exp(log_run)
    value = view.constant + view.variable * grown
    miss, over = np.zeros(log_run.shape), np.zeros(log_run.shape)
    for limit in view.limits:
        beyond = (limit.confidence - limit.chance(log_run)) / limit.confidence
        miss = np.maximum(miss, np.clip(beyond, 0.0, 1.0))
        over = np.maximum(over, limit.times_over(grown))
    over = np.where(miss >= 1, over / max(float(over.max()), 1e-12), 0.0)
    # Less of a miss comes before any difference in value, and so does by how far where all miss.
    key = 1e6 * miss + 1e3 * over + value / max(float(value.max()), 1e-12)
    return np.argmin(key, axis=1), value, miss


def _regret(view: _View, log_run: Array, row: int) -> Array:
    """Regret of one option in each draw, shape (draws,)."""
    import numpy as np

    best, value, miss = _best_of(view, log_run)
    draws = np.arange(len(best))
    again = np.clip(miss[:, row] - miss[draws, best], 0.0, 1.0)
    if view.by_risk:
        dearer = np.zeros(len(best))
    else:
        dearer = np.maximum(value[:, row] - value[draws, best], 0.0)
    result: Array = again * value[:, row] + (1 - again) * dearer
    return result


# ---- probing -----------------------------------------------------------------------------------


def _worth_a_look(
    question: Question, view: _View, now: _Decision, rows: NDArray[np.intp], price: Array
) -> list[int]:
    """Positions of probes that end in time, most first of what they may move for their price."""
    import numpy as np

    in_time = np.ones(len(price), dtype=bool)
    if question.terms.deadline_s is not None and now.meets:
        total = question.table.total_s[rows[now.row]]
        kept = np.interp(question.terms.deadline_s - question.probe_s, total, LEVELS)
        in_time = kept >= min(question.terms.confidence, LEVELS[-1])
    _, to_options, result_sd = _covariance(question, view, np.arange(len(price)))
    moved = np.abs(to_options - to_options[:, now.row : now.row + 1]) / result_sd[:, None]
    most = (moved * now.value).max(axis=1) / price
    order = np.argsort(-most, kind="stable")
    return [int(c) for c in order if in_time[c]][:_MOST_PROBED]


def _covariance(
    question: Question, view: _View, probes: NDArray[np.intp]
) -> tuple[Array, Array, Array]:
    """Of probes: centred draws (draws, c), covariances with the options (c, k), sd of results."""
    import numpy as np

    there = np.log(np.maximum(question.run_s[:, question.probed[probes]], 1e-9))
    there -= there.mean(axis=0)
    here = view.log_run - view.log_run.mean(axis=0)
    to_options = there.T @ here / len(here)
    result_sd = np.sqrt(there.var(axis=0) + question.probe_log_sd**2)
    return there, to_options, result_sd


def _one_probe(question: Question, view: _View, now: _Decision, c: int) -> tuple[float, float]:
    """Regret that a probe is expected to save, and the chance that it changes the pick."""
    import numpy as np

    there, to_options, result_sd = (
        a[..., 0] if i == 0 else a[0]
        for i, a in enumerate(_covariance(question, view, np.asarray([c])))
    )
    slope = to_options / result_sd
    keeps = 1 / (1 + question.probe_log_sd / float(result_sd))
    narrowed = view.log_run - np.outer(there, keeps * to_options / result_sd**2)
    z = np.linspace(-_REACH, _REACH, RESULTS)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()
    saves, p_change = 0.0, 0.0
    for at, w in zip(z, weight, strict=True):
        then = _decide(view, narrowed, slope * at)
        if then.row == now.row:
            p_change += float(w) * (then.meets != now.meets)
            continue
        moved = narrowed + slope * at
        gain = _regret(view, moved, now.row) - _regret(view, moved, then.row)
        saves += float(w) * float(gain.mean())
        p_change += float(w)
    seen = 1 - float(question.table.p_oom[question.probed[c]])
    return max(saves, 0.0) * seen, p_change * seen
