"""5 Decisions: what the guard did, what it saw, what else it could have done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.content import Content

from planner.core.plan import Decision
from planner.core.units import format_bytes, format_duration, format_money
from planner.services.api import RunView
from planner.tui.actions import bindings_of
from planner.tui.screens.following import FollowingScreen
from planner.tui.text import count, fit, pair, percent, rate, row, time_of_day, wrap
from planner.tui.widgets import run_text
from planner.tui.widgets.pane import Pane
from planner.tui.widgets.table import LetterTable, Table

ASKED_FOR = ("manual", "you", "recorded")
"""Modes of what a person asked for: the guard did not choose it, and promised nothing."""
_ASKED = "It was asked for: the guard had nothing to choose."
_RULE = "There was no choice: this is a rule."


class DecisionsScreen(FollowingScreen):
    """All decisions of the session's run, oldest first."""

    TAB = "decisions"
    HOME = "#decisions"
    FOOTER = (
        "decisions.older",
        "decisions.newer",
        "decisions.override",
        "app.runs",
        "app.copy",
        "app.quit",
    )
    PULSE_S = 1.0
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("decisions")

    _settled = False

    def panes(self) -> ComposeResult:
        """Table; what it saw beside what it could do; what came of it."""
        yield LetterTable(run_text.DECISION_COLUMNS, "decisions", id="decisions")
        with Container(id="facts"):
            yield Pane("what it saw", id="saw")
            yield Pane("what it could do", id="could")
        yield Pane("what came of it", id="came")

    def offers(self) -> tuple[tuple[str, str], ...]:
        """Steps only when there is something to step through, a change where a run is at work."""
        change = (("decisions.override", ""),) if self.at_work is not None else ()
        if self._feed.view is None or not self._feed.view.decisions:
            return (*change, ("app.runs", "Run"), ("app.palette", ""), ("app.quit", ""))
        words = {"app.runs": "Run"}
        names = [name for name in self.FOOTER if change or name != "decisions.override"]
        return tuple((name, words.get(name, "")) for name in names)

    # ---- drawing ---------------------------------------------------------------------------

    def paint(self) -> None:
        """Bring all panes up to date."""
        view, table = self._feed.view, self.query_one(Table)
        if view is not None:
            self.tell_outcome(view)
        if view is None or not view.decisions:
            self._say_why_empty(table, view)
            return
        decisions = {decision.id: decision for decision in view.decisions}
        table.head(
            f"decisions of {view.summary.id}   {len(decisions)}   {view.plan.controller}",
            "← older   newer →",
        )
        table.show(list(decisions), lambda key: run_text.decision_cells(decisions[key]))
        if not self._settled:
            self._settled = True
            table.move_to(table.keys[-1])
        self._paint_facts(decisions.get(table.cursor_key or ""))

    def _say_why_empty(self, table: Table, view: RunView | None) -> None:
        table.head("decisions")
        if self._feed.error is not None:
            table.fail(self._feed.error)
        elif not self._feed.asked:
            table.say("loading", "Reading the run.")
        elif view is None:
            table.say("empty", "There is no run yet.", "Launch an option: 3, then L.")
        else:
            table.head(f"decisions of {view.summary.id}")
            table.say(
                "empty",
                "The guard has not had to do anything in this run.",
                "It watches the cap, the deadline and signs of life, and writes here what it did.",
            )
        for name in ("saw", "could", "came"):
            self.query_one(f"#{name}", Pane).say("empty", "No decision is chosen.")

    def on_table_moved(self) -> None:
        """The lower panes follow the cursor."""
        view = self._feed.view
        if view is not None:
            key = self.query_one(Table).cursor_key
            self._paint_facts(next((d for d in view.decisions if d.id == key), None))

    def _paint_facts(self, decision: Decision | None) -> None:
        if decision is None:
            return
        saw, could = self.query_one("#saw", Pane), self.query_one("#could", Pane)
        came = self.query_one("#came", Pane)
        saw.head(f"what it saw   {time_of_day(decision.at, seconds=True)}")
        facts = list(seen_lines(decision))
        if facts:
            saw.show(facts)
        else:
            saw.say("empty", "No measurements were noted with it.")
        others = list(alternative_lines(decision))
        if others:
            could.show(others)
        else:
            could.say("empty", _ASKED if decision.mode in ASKED_FOR else _RULE)
        came.draw(lambda width, _: outcome_lines(decision, width))

    # ---- actions ---------------------------------------------------------------------------

    def do_older(self) -> None:
        """One back."""
        self.query_one(Table).action_cursor(-1)

    def do_newer(self) -> None:
        """One on."""
        self.query_one(Table).action_cursor(1)


def seen_lines(decision: Decision) -> Iterable[Content]:
    """What was measured when the decision was made, each value in the form of its unit."""
    for name, value in decision.observation.items():
        label, text = observed(name, value)
        yield pair(label, (text, "bold"), width=max(16, len(label) + 2))


def observed(name: str, value: float | str | None) -> tuple[str, str]:
    """A name without its unit, and the value with it."""
    if value is None:
        return name.replace("_", " "), "-"
    if isinstance(value, str):
        return name.replace("_", " "), value
    if name == "usd_per_h":
        return "price", rate(value)
    if name == "p_deadline":
        return "P(on time)", f"{value:.2f}"
    if name == "p_budget":
        return "P(under cap)", f"{value:.2f}"
    forms = (
        ("_microusd", lambda v: format_money(v / 1e6)),
        ("_usd_per_h", rate),
        ("_usd", format_money),
        ("_bytes", format_bytes),
        ("_fraction", percent),
        ("_per_s", lambda v: f"{count(round(v))}/s"),
        ("_s", format_duration),
    )
    for ending, form in forms:
        if name.endswith(ending):
            return name.removesuffix(ending).replace("_", " "), form(value)
    return name.replace("_", " "), count(value)


def alternative_lines(decision: Decision) -> Iterable[Content]:
    """What else could have been done, with its chance and a word on it."""
    width = min(max((len(action) for action, _, _ in decision.alternatives), default=0), 16)
    for action, weight, note in decision.alternatives:
        number = "    " if weight is None else f"{weight:.2f}"
        yield row((fit(action, width), "bold"), (f"  {number}", "$soft"), f"  {note}")


def outcome_lines(decision: Decision, width: int) -> Iterable[Content]:
    """Why, what was expected, and what was measured after it."""
    yield row((decision.action, "bold"), (f"   {decision.mode}", "$soft"))
    for index, line in enumerate(wrap(decision.why, width - 11)):
        yield pair("because" if index == 0 else "", line)
    if decision.mode in ASKED_FOR and decision.expected == decision.measured == "-":
        return
    yield pair(
        "expected", decision.expected if decision.expected != "-" else "nothing was promised"
    )
    measured = decision.measured if decision.measured != "-" else "not measured yet"
    for index, line in enumerate(wrap(measured, width - 11)):
        yield pair("measured" if index == 0 else "", line)
