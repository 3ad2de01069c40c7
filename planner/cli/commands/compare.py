"""`planner compare`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from planner.cli import command, diagnostics, invocation, render
from planner.cli.tables import percent, signed_percent, table
from planner.core.errors import ExitCode, UsageError
from planner.core.units import format_bytes, format_chance, format_duration, format_money
from planner.services.api import Comparison, ComparisonRow


def compare(
    context: typer.Context,
    *,
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C...]",
            help="Runs (r-..., @last), estimates (e-...) or options (e-.../o...).",
            autocompletion=command.complete_run,
        ),
    ],
    cost_gate: Annotated[
        str | None,
        typer.Option(
            "--fail-if-cost-increase",
            metavar="10%",
            help="Exit with 3 when the last costs more than so much above the first.",
        ),
    ] = None,
    time_gate: Annotated[
        str | None,
        typer.Option(
            "--fail-if-time-increase",
            metavar="5%",
            help="Exit with 3 when the last takes more than so much above the first.",
        ),
    ] = None,
    json: command.Json = False,
) -> None:
    """Put runs, estimates or options side by side. Whether they do the same work is said first."""
    gates = {"cost": _gate(cost_gate), "time": _gate(time_gate)}
    if len(references) < 2:
        raise UsageError("one thing cannot be compared", hint="planner compare A B")
    comparison = invocation.of(context).services().compare(references)
    if json:
        from planner.wire.to_wire import comparison_document

        render.document(comparison_document(comparison))
    else:
        render.text(comparison_text(comparison))
    broken = [_broken(comparison, what, gate) for what, gate in gates.items() if gate is not None]
    for text in filter(None, broken):
        diagnostics.tell_text(text)
    if any(broken):
        raise typer.Exit(int(ExitCode.INFEASIBLE))


def comparison_text(comparison: Comparison) -> str:
    """A comparison as a table; what differs in the work comes first."""
    lines = [f"! {_short(text)}" for text in comparison.differences]
    if comparison.same_work:
        lines.append("same work")
    rows = [
        (row.name, *(_value(value, row.unit) for value in row.values), signed_percent(row.change))
        for row in comparison.rows
    ]
    head = ("", *comparison.subjects, "change")
    right = range(1, len(head))
    return "\n".join([*lines, *table(head, rows, right=tuple(right))])


def _value(value: float | str | None, unit: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return _short(value)
    shown = _SHOW.get(unit)
    return f"{value:.4g}" if shown is None else shown(value)


def _short(text: str) -> str:
    """The text with digests cut to what tells them apart; JSON has them whole."""
    return _DIGEST.sub(r"\1", text)


_DIGEST = re.compile(r"(\bsha256:[0-9a-f]{12})[0-9a-f]+")
_SHOW: Mapping[str, Callable[[float], str]] = {
    "s": format_duration,
    "usd": format_money,
    "usd_per_h": lambda value: f"{format_money(value)}/h",
    "bytes": format_bytes,
    "fraction": percent,
    "probability": format_chance,
}


def _gate(text: str | None) -> float | None:
    """A share of `10%`.

    Raises:
        UsageError: It is no percentage.
    """
    if text is None:
        return None
    try:
        share = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        share = float("nan")
    if not (text.strip().endswith("%") and 0 <= share < float("inf")):
        raise UsageError(f'"{text}" is not a percentage', hint="write for example 10%")
    return share


def _broken(comparison: Comparison, what: str, gate: float) -> str | None:
    """Why a gate is broken; a change that cannot be told breaks it too."""
    row = _row(comparison, what)
    if row is None or row.change is None:
        return f"the change in {what} cannot be told"
    if row.change > gate:
        return f"{what} rose by {100 * row.change:.1f} %, more than {100 * gate:g} %"
    return None


def _row(comparison: Comparison, what: str) -> ComparisonRow | None:
    unit = {"cost": "usd", "time": "s"}[what]
    fitting = [r for r in comparison.rows if r.unit == unit and r.name.startswith(what)]
    return fitting[0] if fitting else None


APPS = {
    "compare": command.single(
        compare,
        "planner compare r-5zz0 r-7f3k",
        "planner compare e-01jd3m/o3k e-01jd3m/o7f --json",
        "planner compare @-2 @last --fail-if-cost-increase 10%",
    )
}
