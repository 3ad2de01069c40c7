"""What one more probe would be worth: the expected regret that it saves, against its price.

Joint draws of whole-run times stand for what is not known; `planner.core.regret` says what is
decided under them, and what is lost by that. The value of a probe is its expected value of sample
information, the knowledge gradient for correlated beliefs (Frazier, Powell and Dayanik 2009,
doi:10.1287/ijoc.1080.0314): for each of some results that it may have, the draws are conditioned
on that result, the decision is taken again, and the regret that the new pick saves is averaged.
Results are Student-t, as the spread that they are drawn with is itself an estimate. Conditioning
is the linear update of an ensemble on the logarithm, with the spread shrunk by a square root
(Whitaker and Hamill 2002, doi:10.1175/1520-0493(2002)130<1913:EDAWPO>2.0.CO;2): exact for normal
draws. A result after which the pick stays counts for nothing, so that probing is worth exactly 0
where the ranking is settled.

One step is looked ahead: two probes that pay only together are not found. What a probe would show
of memory is not valued, and an option that hardly fits now is never the pick.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from planner.core.choose import MAX_P_OOM, Terms, score
from planner.core.choose import Table as OptionTable
from planner.core.distribution import LEVELS
from planner.core.regret import Decision, View, best_of, decisions, regret, view_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from planner.core.distribution import Array

PROBE_LOG_SD = 0.05
"""Standard deviation of the logarithm between two probes of one configuration."""
WIDER = 2.0
"""So many times as far from their mean are draws taken, as logarithms: an ensemble is surer than
it should be. Without it, the regret that was said was a third of the real one on measured jobs."""
RESULTS = 31
"""Results of a probe that are tried, evenly within `_REACH` standard deviations either way."""
_REACH = 5.0
_FREEDOM = 4.0
"""Results are Student-t: the spread itself is known as well as from so many probes."""
_RIVALS = 16
"""Options looked at besides those that are the best one of some draw."""
_MOST_PROBED = 24
"""Configurations whose probe is valued: those that may move options most against the pick."""


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
        best: Position in `Question.probed`.
        saves: Regret that the best probe is expected to save.
        price: What it costs; in money, where that is 0, its time at the pick's hourly price. What
            its time takes from the chance to keep the deadline is part of it.
        p_change: Chance that the pick is another one after it.
    """

    in_money: bool
    pick: int
    takes: float
    regret: float
    best: int = 0
    saves: float = 0.0
    price: float = 0.0
    p_change: float = 0.0


def value_of_probing(question: Question) -> Answer:
    """The probe with the most expected saving for its price; see the module's text.

    Of at least one option, at least one of which can be tried.
    """
    import numpy as np

    log_run = np.log(np.maximum(question.run_s, 1e-9))
    middle = log_run.mean(axis=0)
    question = replace(question, run_s=np.exp(middle + WIDER * (log_run - middle)))
    whole = score(question.table, question.terms)
    in_money = question.terms.prefer != "time" and bool(
        whole.mean_cost_usd[int(whole.order[0])] > 0
    )
    rows = _rivals(question, whole.order, in_money=in_money)
    view = _view(question, rows, in_money=in_money)
    (now,) = decisions(view, view.log_run, np.zeros((1, len(rows))))
    found = Answer(
        in_money=in_money,
        pick=int(rows[now.row]),
        takes=float(now.value[now.row]),
        regret=float(regret(view, view.log_run, [now.row]).mean()),
    )
    price = _prices(question, found)
    best, best_ratio = found, -1.0
    for c in _worth_a_look(question, view, now, price):
        saves, p_change = _one_probe(question, view, now, c)
        if saves / price[c] > best_ratio:
            best_ratio = saves / price[c]
            best = replace(found, best=c, saves=saves, price=float(price[c]), p_change=p_change)
    return best


def _prices(question: Question, found: Answer) -> Array:
    """What each probe costs, shape (c,): money or time, and the chance that its time takes.

    The deadline comes nearer while probing: by so much as its chance falls, the pick has to be
    done again.
    """
    import numpy as np

    price = question.probe_s
    if found.in_money:
        rate = float(question.table.usd_per_h[found.pick]) / 3600
        price = np.where(question.probe_usd > 0, question.probe_usd, question.probe_s * rate)
    deadline_s = question.terms.deadline_s
    if deadline_s is not None:
        total_s = question.table.total_s[found.pick]
        left = np.concatenate([[deadline_s], deadline_s - question.probe_s])
        kept = np.interp(left, total_s, LEVELS)
        price = price + found.takes * (kept[0] - kept[1:]) / question.terms.confidence
    result: Array = np.maximum(price, 1e-12)
    return result


# ---- what is looked at -------------------------------------------------------------------------


def _rivals(question: Question, order: Any, *, in_money: bool) -> NDArray[np.intp]:
    """Rows that are the best in some draw, and the first ones of the list; only those that fit."""
    import numpy as np

    table = question.table
    fits = np.flatnonzero(table.p_oom <= MAX_P_OOM)
    if not len(fits):
        return np.asarray(order[:1], dtype=np.intp)
    listed = [row for row in order.tolist() if table.p_oom[row] <= MAX_P_OOM][:_RIVALS]
    view = _view(question, fits, in_money=in_money)
    counts = np.bincount(best_of(view, view.log_run)[0], minlength=len(fits))
    often = fits[np.argsort(-counts, kind="stable")[:_RIVALS]]
    winners = often[counts[np.searchsorted(fits, often)] > 0]
    return np.asarray(list(dict.fromkeys([*listed, *winners.tolist()])), dtype=np.intp)


def _view(question: Question, rows: NDArray[np.intp], *, in_money: bool) -> View:
    table = replace(
        question.table,
        **{f.name: getattr(question.table, f.name)[rows] for f in fields(question.table)},
    )
    run_s, mean_run_s = question.run_s[:, rows], question.mean_run_s[rows]
    return view_of(table, question.terms, run_s, mean_run_s, in_money=in_money)


# ---- probing -----------------------------------------------------------------------------------


def _worth_a_look(question: Question, view: View, now: Decision, price: Array) -> list[int]:
    """Positions of probes, first those that may move most for their price."""
    import numpy as np

    _, to_options, result_sd = _covariance(question, view, np.arange(len(price)))
    moved = np.abs(to_options - to_options[:, now.row : now.row + 1]) / result_sd[:, None]
    most = (moved * now.value).max(axis=1) / price
    order = np.argsort(-most, kind="stable")
    return [int(c) for c in order[:_MOST_PROBED]]


def _covariance(
    question: Question, view: View, probes: NDArray[np.intp]
) -> tuple[Array, Array, Array]:
    """Of probes: centred draws (draws, c), covariances with the options (c, k), sd of results."""
    import numpy as np

    there = np.log(np.maximum(question.run_s[:, question.probed[probes]], 1e-9))
    there -= there.mean(axis=0)
    here = view.log_run - view.log_run.mean(axis=0)
    to_options = there.T @ here / len(here)
    result_sd = np.sqrt(there.var(axis=0) + question.probe_log_sd**2)
    return there, to_options, result_sd


def _one_probe(question: Question, view: View, now: Decision, c: int) -> tuple[float, float]:
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
    weight = (1 + z**2 / _FREEDOM) ** (-(_FREEDOM + 1) / 2)
    weight /= weight.sum()
    saves, p_change = 0.0, 0.0
    picks = decisions(view, narrowed, z[:, None] * slope)
    for at, w, then in zip(z, weight, picks, strict=True):
        if then.row == now.row:
            p_change += float(w) * (then.meets != now.meets)
            continue
        moved = narrowed + slope * at
        stays, goes = regret(view, moved, [now.row, then.row]).mean(axis=0)
        saves += float(w) * float(stays - goes)
        p_change += float(w)
    seen = 1 - float(question.table.p_oom[question.probed[c]])
    return max(saves, 0.0) * seen, p_change * seen
