"""6 History: all runs, predicted against real, comparison and calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from statistics import median
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.widgets import Input

from planner.core.errors import PlannerError
from planner.core.types import RunState
from planner.core.units import format_duration, format_money
from planner.services.api import Comparison, RunSummary
from planner.tui.actions import bindings_of
from planner.tui.run_feed import over
from planner.tui.screens.listing import ListingScreen
from planner.tui.text import percent, row, short_option, state_mark, wrap
from planner.tui.widgets.comparison import comparison_lines
from planner.tui.widgets.filter_field import FilterField
from planner.tui.widgets.pane import Pane
from planner.tui.widgets.table import Cells, Column, LetterTable, Table, fit_columns

COLUMNS = (
    Column(key="state", label=" ", width=1),
    Column(key="id", label="run", width=8),
    Column(key="when", label="when", width=11, drop=1),
    Column(key="name", label="name", width=12, drop=2),
    Column(key="option", label="option, batch", width=0),
    Column(key="planned", label="planned", width=7, align="right"),
    Column(key="range", label="[90 %]", width=16, drop=3),
    Column(key="real", label="real", width=7, align="right"),
    Column(key="cost_planned", label="cost plan", width=8, align="right", drop=4),
    Column(key="cost", label="cost", width=8, align="right"),
    Column(key="ok", label=" held", width=9),
)
"""How wide they are depends on what stands in them."""

SORTS: tuple[tuple[str, Callable[[RunSummary], float]], ...] = (
    ("newest", lambda r: -r.created_at.timestamp()),
    ("cost", lambda r: -r.spent_usd),
    ("time", lambda r: -(r.total_s or 0.0)),
)


def day_text(at: datetime, now: datetime) -> str:
    """`09:30` today, `Tue 09:30` this week, else the date."""
    local, today = at.astimezone(), now.astimezone().date()
    days = (today - local.date()).days
    if days == 0:
        return f"today {local:%H:%M}"
    return f"{local:%a %H:%M}" if 0 < days < 7 else f"{local:%Y-%m-%d}"


def run_cells(run: RunSummary, now: datetime) -> Cells:
    """A run as a table row."""
    mark, style = state_mark(run.state)
    low, high = run.predicted_total_s.interval()
    return (
        Content.styled(mark, f"bold {style}"),
        run.id,
        day_text(run.created_at, now),
        run.name,
        short_option(run.option_text),
        format_duration(run.predicted_total_s.p50),
        f"[{format_duration(low)}-{format_duration(high)}]",
        "-" if run.total_s is None else format_duration(run.total_s),
        format_money(run.predicted_cost_usd.p50),
        format_money(run.spent_usd),
        Content.assemble(" ", _held(run)),
    )


def _held(run: RunSummary) -> Content:
    if run.state is not RunState.DONE:
        words = {RunState.STOPPED_BY_CAP: "cap", RunState.RUNNING: f"{100 * run.progress:.0f} %"}
        return Content.styled(words.get(run.state, run.state.replace("_", " ")), "$soft")
    if run.late:
        return Content.styled("! late", "bold $bad")
    if run.within_interval is None:
        return Content("-")
    return (
        Content.styled("✓ yes", "$good") if run.within_interval else Content.styled("! no", "$warn")
    )


def calibration_lines(runs: Sequence[RunSummary], width: int) -> Iterable[Content]:
    """How often the intervals held, and how far off the medians were."""
    done = [r for r in runs if r.state is RunState.DONE and r.total_s is not None]
    judged = [r for r in done if r.within_interval is not None]
    if not judged:
        yield from wrap("No finished run yet: calibration needs some.", width)
        return
    held = sum(bool(r.within_interval) for r in judged)
    label = f"last {len(judged)} finished runs: " if len(judged) > 1 else "one finished run: "
    yield row(
        (label, "$soft"),
        "the 90 % interval of time held ",
        (f"{held} of {len(judged)}", "bold"),
    )
    costs = [
        r.predicted_cost_usd.p05 <= r.spent_usd <= r.predicted_cost_usd.p95
        for r in done
        if r.spent_usd > 0
    ]
    if costs:
        yield row(
            " " * len(label),
            "the 90 % interval of cost held ",
            (f"{sum(costs)} of {len(costs)}", "bold"),
        )
    times = [abs(r.total_s / r.predicted_total_s.p50 - 1) for r in done if r.total_s]
    money = [
        abs(r.spent_usd / r.predicted_cost_usd.p50 - 1)
        for r in done
        if r.predicted_cost_usd.p50 > 0
    ]
    parts = [f"time {percent(median(times), 1)}"] if times else []
    parts += [f"cost {percent(median(money), 1)}"] if money else []
    yield row(("median absolute error: ", "$soft"), ", ".join(parts))
    if len(judged) < 20:
        yield from wrap("Too few runs to call the intervals calibrated.", width, style="$soft")


class HistoryScreen(ListingScreen):
    """The runs over a comparison, or over the calibration."""

    TAB = "history"
    HOME = "#history"
    FOOTER = (
        "history.open",
        "list.mark",
        "history.compare",
        "history.calibration",
        "list.filter",
        "list.sort",
        "app.copy",
    )
    PULSE_S = 2.0
    SORTED_BY = tuple(name for name, _ in SORTS)
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings_of("history"),
        *bindings_of("list", "mark", "sort", "reverse", "filter"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._runs: tuple[RunSummary, ...] | None = None
        self._error: PlannerError | None = None
        self._comparison: Comparison | PlannerError | None = None
        self._compared_ids: tuple[str, ...] = ()
        self._tall_comparison = False
        self._calibration = False
        self._filter = ""

    def panes(self) -> ComposeResult:
        """Table, filter, and what is compared."""
        yield LetterTable(COLUMNS, "runs", id="history")
        yield FilterField("show only runs with ...", home="#history")
        yield Pane("compare", id="compare")

    def arrive(self) -> None:
        """Ask for the runs."""
        self.call(self.session.services.runs, self._answered, self._failed, group="history")

    def offers(self) -> tuple[tuple[str, str], ...]:
        """Without a run there is little to do here."""
        if not self._runs:
            return (("app.job", "Job"), ("app.options", "Options"), ("app.quit", ""))
        return super().offers()

    def on_resize(self) -> None:
        """The columns follow the width."""
        self.call_after_refresh(self.repaint)

    def beat(self) -> None:
        """Ask again while one of them is alive."""
        if any(not over(run.state) for run in self._runs or ()):
            self.arrive()

    def _answered(self, runs: tuple[RunSummary, ...]) -> None:
        self._runs, self._error = runs, None
        self.session.known_runs = runs
        if not self.typing:
            self.repaint()

    def _failed(self, error: PlannerError) -> None:
        self._error = error
        self.repaint()

    # ---- drawing ---------------------------------------------------------------------------

    def paint(self) -> None:
        """Bring both panes up to date."""
        table = self.query_one(Table)
        if self._error is not None:
            table.fail(self._error)
        elif self._runs is None:
            table.say("loading", "Reading the runs.")
        elif not self._runs:
            table.say("empty", "No run yet.", "Launch an option: 3, then L.")
        else:
            self._paint_runs(table, self._runs)
        self._paint_lower()

    def _paint_runs(self, table: Table, runs: Sequence[RunSummary]) -> None:
        by_id = {run.id: run for run in self._matching(runs)}
        now = self.session.now()
        spent = sum(run.spent_usd for run in runs)
        number = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
        words = [f"{number}, {format_money(spent)} spent"]
        if self._filter:
            words.append(f"filter: {self._filter}")
        by = self.sorted_by
        table.head("   ".join(words), "" if by == "newest" else f"by {by}")
        if not by_id:
            table.say("empty", f'No run has "{self._filter}".', "esc shows all of them.")
            return
        rows = {key: run_cells(run, now) for key, run in by_id.items()}
        within = self.app.size.width - 3  # the table's edges and its scrollbar
        table.columns = fit_columns(COLUMNS, list(rows.values()), within)
        table.show(list(rows), lambda key: rows[key])

    def _matching(self, runs: Sequence[RunSummary]) -> list[RunSummary]:
        wanted = self._filter.lower()
        found = [r for r in runs if wanted in f"{r.id} {r.name} {r.option_text} {r.state}".lower()]
        return sorted(found, key=SORTS[self._sort][1], reverse=self._reversed)

    def _paint_lower(self) -> None:
        pane = self.query_one("#compare", Pane)
        if self._calibration:
            pane.head("calibration")
            runs = self._runs or ()
            pane.draw(lambda width, _: calibration_lines(runs, width))
        elif isinstance(self._comparison, PlannerError):
            pane.head("compare")
            pane.fail(self._comparison)
        elif self._comparison is not None:
            pane.head("compare", "c, esc: back" if self._tall_comparison else "c: in full height")
            comparison = self._comparison
            pane.draw(lambda width, _: comparison_lines(comparison, width))
        else:
            pane.head("compare")
            pane.say("empty", "Mark two runs with space, then press c.", "g shows calibration.")

    # ---- actions ---------------------------------------------------------------------------

    def do_open(self) -> None:
        """Show the run under the cursor."""
        key = self.query_one(Table).cursor_key
        if key is not None:
            self.planner.open_run(key)

    def do_compare(self) -> None:
        """Compare the marked runs; with fewer than two, the cursor's with its neighbour."""
        table = self.query_one(Table)
        wanted = self.marked_keys()
        if len(wanted) < 2 and table.cursor_key is not None:
            start = min(table.keys.index(table.cursor_key), max(len(table.keys) - 2, 0))
            wanted = list(table.keys[start : start + 2])
        if len(wanted) < 2:
            self.notify("Mark two runs with space, then press c.")
            return
        # The older one first, so that a change reads forwards in time.
        by_age = {run.id: run.created_at for run in self._runs or ()}
        wanted.sort(key=lambda run_id: by_age[run_id])
        shown = self._comparison is not None and not self._calibration
        if shown and tuple(wanted) == self._compared_ids:
            self._set_tall(not self._tall_comparison)
            return
        self._calibration, self._compared_ids = False, tuple(wanted)
        services = self.session.services
        self.call(lambda: services.compare(wanted), self._compared, self._compared, group="compare")

    def _set_tall(self, tall: bool) -> None:
        """Give the comparison the height of the table too, or back."""
        self._tall_comparison = tall
        self.set_class(tall, "-compared")
        self.call_after_refresh(self.repaint)
        self.call_after_refresh(self.go_home)

    def _compared(self, comparison: Comparison | PlannerError) -> None:
        self._comparison = comparison
        self.repaint()

    def do_calibration(self) -> None:
        """Calibration in place of the comparison, or back."""
        self._calibration = not self._calibration
        self.repaint()

    def do_filter(self) -> None:
        """Open the filter."""
        self.query_one(FilterField).open()

    @on(Input.Changed, "#filter")
    def _filtered(self, event: Input.Changed) -> None:
        self._filter = event.value.strip()
        self.repaint()

    def do_back(self) -> None:
        """Close the comparison in full height; the filter, and drop it."""
        if self._tall_comparison:
            self._set_tall(False)
            return
        self.query_one(FilterField).drop()

    def do_copy(self) -> None:
        """Copy the comparison, or else the list of runs, as JSON."""
        from planner.wire.to_wire import comparison_document, run_list_document

        if isinstance(self._comparison, Comparison) and not self._calibration:
            self.planner.copy_document(comparison_document(self._comparison))
        elif self._runs is not None:
            self.planner.copy_document(run_list_document(self._runs))
