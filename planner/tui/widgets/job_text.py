"""The job, its checks and its past, in lines of text."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from textual.content import Content

from planner.core.job import JobSpec, LanguageModel, Place
from planner.core.types import EstimateResult
from planner.core.units import format_duration, format_money
from planner.services.api import Check, ProbePlan, RunSummary
from planner.tui.text import (
    Part,
    count,
    fit,
    pair,
    passed,
    percent,
    rate,
    row,
    short_duration,
    short_option,
    state_mark,
    time_interval,
    wrap,
)


def job_lines(job: JobSpec, width: int) -> Iterable[Content]:
    """The job as labelled lines."""
    value_width = width - 11
    command = wrap(_command_text(job.command), value_width)
    for index, line in enumerate(command[:3]):
        yield pair("command" if index == 0 else "", line)
    images = (f"  {count(job.samples)} samples", "$soft") if job.samples else ""
    yield pair("data", _data(job, value_width - len(images[0] if images else "")), images)
    probe = job.probe
    sliced = f"{percent(probe.slice_fraction)} of the data" if job.data else "all of it"
    yield pair("slice", f"{sliced}, {probe.steps} steps")
    yield pair("work", *_work(job, value_width))
    if job.model is not None:
        yield pair("model", *_model(job, job.model))
    yield pair(
        "checkpoint",
        job.checkpoint_dir or "run's folder",
        f", every {short_duration(job.checkpoint_interval_s)}",
    )
    contract = "SDK in the script" if job.tier else "no SDK, timed outside"
    yield pair("contract", contract, (f"  tier {job.tier}", "$soft"))
    for index, place in enumerate(job.places):
        yield pair("where" if index == 0 else "", _place(place))
        if prices := _prices(place):
            yield pair("price" if len(job.places) == 1 else "", prices)
    if not job.places:
        yield pair("where", ("nowhere: add [[where]] to the job file", "$bad"))


def _command_text(command: Sequence[str]) -> str:
    """The command as one would type it; `{placeholders}` are left as they are in the job file."""
    return " ".join(a if a.startswith("{") and a.endswith("}") else shlex.quote(a) for a in command)


def _data(job: JobSpec, width: int) -> Part:
    """The data's path, from the job's folder where it is in there; else its end, when too long."""
    if job.data is None:
        return ("none that planner can slice", "$soft")
    path = Path(job.data)
    text = str(path.relative_to(job.workdir)) if path.is_relative_to(job.workdir) else job.data
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"


def _work(job: JobSpec, width: int) -> list[Part]:
    epochs = f"{job.epochs} epoch" + ("s" if job.epochs != 1 else "")
    batch = f", global batch {job.global_batch}" if job.global_batch else ""
    total = f"  {count(job.samples * job.epochs)} samples" if job.samples else ""
    fits = len(epochs + batch + total) <= width
    return [epochs + batch, (total if fits else "", "$soft")]


def _model(job: JobSpec, model: LanguageModel) -> list[Part]:
    """A language model's size, and how its replicas may be spread."""
    ways = (("tensor", job.tensor_parallel), ("pipeline", job.pipeline_parallel))
    spread = ", ".join(f"{name} {_either(counts)}" for name, counts in ways if counts != (1,))
    size = f"{model.layers} layers of {model.hidden}, {count(model.sequence)} tokens"
    return [size, (f"  {spread}" if spread else "", "$soft")]


def _either(counts: Sequence[int]) -> str:
    return "|".join(map(str, counts))


def control_lines(job: JobSpec, width: int) -> Iterable[Content]:
    """What holds the run to its goal: the caps, the controller, and what it may turn."""
    probe = job.probe
    cap = f"{format_money(probe.max_cost_usd)}, {short_duration(probe.max_time_s)}"
    yield pair("probe cap", cap)
    yield pair("controller", "guarded")
    yield from _knobs(job, width - 11)
    yield pair("retries", f"{job.retries}", ("  after progress", "$soft"))


def _knobs(job: JobSpec, width: int) -> Iterable[Content]:
    adjust = job.adjust
    kinds = (("may turn", adjust.allow, ""), ("must ask", adjust.ask, "$warn"))
    for label, names, style in (*kinds, ("never", adjust.never, "$soft")):
        text = ", ".join(name.replace("_", " ") for name in names)
        found = wrap(text, width, style=style) if text else []
        for index, line in enumerate(found):
            yield pair(label if index == 0 else "", line)


def _place(place: Place) -> str:
    where = place.runner if place.pool == place.runner else f"{place.runner} {place.pool}"
    slots = place.settings.get("slots")
    return f"{where}, {slots} slots" if slots else where


def _prices(place: Place) -> str:
    """`$0.05/slot-h, $0.50/GPU-h`; empty when the job file names no price."""
    named = (("usd_per_slot_h", "slot"), ("usd_per_gpu_h", "GPU"))
    known = [(place.settings.get(key), word) for key, word in named]
    return ", ".join(
        f"{rate(float(price))[:-2]}/{word}-h"
        for price, word in known
        if isinstance(price, int | float)
    )


def recent_lines(
    runs: Sequence[RunSummary], estimate: EstimateResult | None, now: datetime
) -> Iterable[Content]:
    """The kept estimate of this job, and the newest runs."""
    if estimate is not None:
        pick = estimate.option(estimate.recommendation.option_id or "")
        age = passed(max((now - estimate.created_at).total_seconds(), 0.0))
        found = f"{time_interval(pick.total_s).strip()}" if pick else "nothing feasible"
        yield row(("estimate   ", "$soft"), found, (f"   {age} old; 3 shows it", "$soft"))
        yield Content()
    name_width = min(max((len(run.name) for run in runs), default=0), 12)
    for run in runs:
        mark, style = state_mark(run.state)
        took = "" if run.total_s is None else format_duration(run.total_s)
        yield row(
            (f"{mark} ", f"bold {style}"),
            f"{fit(run.id, 7)} {fit(run.name, name_width)}",
            f"{took:>8} {format_money(run.spent_usd):>8}  ",
            (short_option(run.option_text), "$soft"),
        )
    if not runs:
        yield row(("no run yet", "$soft"))


_CHECK_ORDER = ("fail", "warn", "ok", "skip")
_CHECK_STYLES = {"fail": "bold $bad", "warn": "bold $warn", "ok": "$good", "skip": "$soft"}


def check_lines(checks: Sequence[Check], width: int, height: int) -> list[Content]:
    """What `planner doctor` finds, trouble and its fix first; the others as far as there is room.

    In one column where that fits, else in two, else the first of them and how many more.
    """
    ranked = sorted(checks, key=lambda check: _CHECK_ORDER.index(check.state))
    wrapped = [_check_lines(check, width) for check in ranked]
    column = [line for lines in wrapped for line in lines]
    if len(column) <= height:
        return column
    bad = sum(check.state in ("fail", "warn") for check in ranked)
    trouble = [line for lines in wrapped[:bad] for line in lines]
    rest = [_check_line(check) for check in ranked[bad:]]
    half, cell = -(-len(rest) // 2), (width - 2) // 2
    if len(trouble) + half <= height and all(line.cell_length <= cell for line in rest):
        pairs = (rest[index::half] for index in range(half))
        return trouble + [Content("  ").join(c.pad_right(cell - len(c)) for c in p) for p in pairs]
    return _as_many_as_fit(ranked, [*wrapped[:bad], *([line] for line in rest)], height)


def _as_many_as_fit(
    ranked: Sequence[Check], texts: Sequence[list[Content]], height: int
) -> list[Content]:
    """Whole checks as far as there is room, then how many are not shown, and what of them is bad.

    The first one is shown as far as it goes, so that no pane is left without any.
    """
    room = max(height - 1, 0)
    found, shown = texts[0][:room], min(room, 1)
    for lines in texts[1:]:
        if len(found) + len(lines) > room:
            break
        found, shown = [*found, *lines], shown + 1
    hidden = ranked[shown:]
    counts = {state: sum(check.state == state for check in hidden) for state in ("fail", "warn")}
    bad = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    more = f"… {len(hidden)} more{f' ({bad})' if bad else ''}: planner doctor lists all"
    return [*found, Content.styled(more, "bold $bad" if counts["fail"] else "$soft")]


def _check_line(check: Check) -> Content:
    return row((f"{check.state:<5}", _CHECK_STYLES[check.state]), check.text)


def _check_lines(check: Check, width: int) -> list[Content]:
    """A check that is not ok with its fix, in as many lines as that takes; else in two at most."""
    mark = (f"{check.state:<5}", _CHECK_STYLES[check.state])
    bad = check.state in ("fail", "warn")
    text = f"{check.text}  {check.fix}" if bad and check.fix else check.text
    first, *others = wrap(text, width - 5)
    if len(others) > 1 and not bad:
        others = [Content(f"{others[0].plain} …").truncate(width - 5, ellipsis=True)]
    return [row(mark, first), *(row(" " * 5, line) for line in others)]


def ready_line(plan: ProbePlan) -> Content:
    """What enter does: how many probes, how long, at most what cost."""
    number, kept = len(plan.to_run), len(plan.reused)
    reuse = (f"   {kept} kept result{'s' if kept != 1 else ''} reused", "$soft") if kept else ""
    if number == 0:
        return row(("enter", "bold $key"), "  estimates at once, free: nothing to probe", reuse)
    return row(
        ("enter", "bold $key"),
        f"  runs {number} probe{'s' if number != 1 else ''}: about ",
        (format_duration(plan.expected_s), "bold"),
        ", at most ",
        (format_money(plan.max_cost_usd), "bold"),
        reuse,
    )
