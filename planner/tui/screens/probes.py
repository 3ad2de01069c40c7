"""2 Probes: short real trials while they run, and what they have shown so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.content import Content

from planner.core import explain
from planner.core.units import format_bytes, format_money
from planner.tui import estimating
from planner.tui.actions import bindings_of
from planner.tui.probe_board import ProbeBoard, ProbeRow
from planner.tui.screens.base import PlannerScreen
from planner.tui.text import (
    Part,
    batch_text,
    count,
    passed,
    percent,
    place_text,
    resources_text,
    row,
    short_resources,
    wrap,
)
from planner.tui.widgets.bars import progress
from planner.tui.widgets.option_text import warning_lines
from planner.tui.widgets.pane import Pane
from planner.tui.widgets.table import Cells, Column, LetterTable, Table

COLUMNS = (
    Column(key="#", label="#", width=2, align="right"),
    Column(key="workers", label="workers", width=11),
    Column(key="where", label="where", width=14, wide=True),
    Column(key="batch", label="batch", width=7, align="right"),
    Column(key="state", label="state", width=10),
    Column(key="steps", label="steps", width=7, align="right"),
    Column(key="step", label="step", width=7, align="right"),
    Column(key="rate", label="samples/s", width=9, align="right", wide=True),
    Column(key="memory", label="memory", width=8, align="right"),
    Column(key="loader", label="loader", width=6, align="right"),
    Column(key="took", label="took", width=6, align="right", wide=True),
    Column(key="cost", label="cost", width=9, align="right"),
)

_STATES: dict[str, tuple[str, str]] = {
    "queued": ("· queued", "$soft"),
    "running": ("› running", "bold $key"),
    "ok": ("✓ done", "$good"),
    "oom": ("! memory", "bold $bad"),
    "failed": ("! failed", "bold $bad"),
    "preempted": ("! lost", "bold $warn"),
    "skipped": ("- skipped", "$warn"),
}


def probe_cells(probe: ProbeRow) -> Cells:
    """A probe as a table row."""
    word, style = _STATES[probe.state]
    if probe.reused and probe.state == "ok":
        word = "✓ kept"
    steps = f"{probe.step}" if probe.state != "running" else f"{probe.step}/{probe.steps_total}"
    resources, knobs = probe.resources, probe.knobs
    return (
        str(probe.index),
        short_resources(resources, knobs) if resources and knobs else "-",
        place_text(resources) if resources else "-",
        batch_text(knobs) if knobs else "-",
        Content.styled(word, style),
        "-" if probe.state == "queued" else steps,
        "-" if probe.step_s is None else step_text(probe.step_s),
        "-" if probe.samples_per_s is None else count(round(probe.samples_per_s)),
        "-" if probe.memory_bytes is None else format_bytes(probe.memory_bytes),
        percent(probe.loader_fraction),
        "-" if probe.elapsed_s is None else passed(probe.elapsed_s),
        "-" if probe.cost_usd is None else format_money(probe.cost_usd),
    )


def step_text(step_s: float) -> str:
    """The time of a step: `75 ms`, `1.2 s`."""
    return f"{1000 * step_s:.0f} ms" if step_s < 0.9995 else f"{step_s:.2f} s"


class ProbesScreen(PlannerScreen):
    """Table, the running probe, and what the results say."""

    TAB = "probes"
    HOME = "#probes"
    FOOTER = ("probes.options", "probes.skip", "probes.stop", "probes.log", "app.quit")
    PULSE_S = 0.5
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("probes")

    _log_open = False

    def panes(self) -> ComposeResult:
        """The table over two panes, which stand side by side when there is room."""
        yield LetterTable(COLUMNS, "probes", id="probes")
        with Container(id="lower"):
            yield Pane("now", id="current")
            yield Pane("what the probes say", id="fit")

    def offers(self) -> tuple[tuple[str, str], ...]:
        """Skip and stop only while there is something to skip or stop."""
        if self.session.board.state == "running":
            return tuple((name, "") for name in self.FOOTER if name != "probes.options")
        log = "Back" if self._log_open else ""
        return (("probes.options", ""), ("probes.log", log), ("app.palette", ""), ("app.quit", ""))

    def beat(self) -> None:
        """Follow the running probe."""
        if self.session.board.state == "running":
            self.repaint()

    def on_table_moved(self) -> None:
        """The lower panes follow the cursor."""
        self.paint()

    # ---- drawing ---------------------------------------------------------------------------

    def paint(self) -> None:
        """Bring all three panes up to date."""
        board = self.session.board
        table = self.query_one(Table)
        if not board.rows:
            self._say_why_empty(board, table)
        else:
            table.show(list(board.rows), lambda key: probe_cells(board.rows[key]))
        table.head(*self._title(board))
        self._paint_current(board)
        self._paint_fit(board)

    def _title(self, board: ProbeBoard) -> tuple[str, str]:
        if not board.rows:
            return "probes", ""
        parts = [f"{board.ended} of {len(board.rows)} done"]
        cap = self.session.job.probe.max_cost_usd if self.session.job else None
        money = format_money(board.cost_usd)
        parts.append(money + (f" of at most {format_money(cap)}" if cap else ""))
        if board.state == "running":
            passed_s = self.session.clock.monotonic_s() - board.started_s
            parts.append(f"{passed(passed_s)} so far")
        return "probes   " + "   ".join(parts), ""

    def _say_why_empty(self, board: ProbeBoard, table: Table) -> None:
        if board.state == "failed" and board.error is not None:
            table.fail(board.error)
        elif board.state == "running":
            table.say("loading", "Looking at the job, its data and its places.")
        elif board.state in ("done", "stopped"):
            table.say("empty", "No probe was needed.", "enter goes on to the options.")
        elif self.session.estimate is not None:
            table.say(
                "empty",
                "No probes in this session; there is a kept estimate.",
                "enter shows its options. 1 goes back to the job, where enter probes anew.",
            )
        else:
            table.say(
                "empty",
                "Nothing was tried out yet.",
                "Press 1 for the job; enter there runs a few short real probes.",
            )

    def _under_cursor(self, board: ProbeBoard) -> ProbeRow | None:
        key = self.query_one(Table).cursor_key
        return board.rows.get(key) if key else None

    def _paint_current(self, board: ProbeBoard) -> None:
        pane = self.query_one("#current", Pane)
        chosen = self._under_cursor(board)
        if self._log_open and chosen is not None:
            pane.head(f"output of probe {chosen.index}")
            if chosen.log:
                log = chosen.log
                pane.draw(lambda _, height: log[-max(height, 1) :])
            else:
                pane.say("empty", "This probe has no kept output: only failed ones have.")
            return
        current = board.current
        if current is not None:
            pane.head(f"probe {current.index} now")
            pane.draw(lambda width, _: running_lines(current, width))
        elif chosen is not None:
            pane.head(f"probe {chosen.index}")
            pane.draw(lambda width, _: ended_lines(chosen, width))
        else:
            pane.head("now")
            pane.say("empty", "No probe is running.")

    def _paint_fit(self, board: ProbeBoard) -> None:
        pane = self.query_one("#fit", Pane)
        if board.error is not None:
            pane.head("probing failed")
            pane.fail(board.error)
            return
        done = [p for p in board.rows.values() if p.state == "ok" and p.step_s]
        if not done:
            pane.head("what the probes say")
            pane.say("empty", "Nothing yet: the first finished probe shows here what it means.")
            return
        pane.head("what the probes say")
        estimate = self.session.estimate if board.state in ("done", "stopped") else None
        if estimate is None:
            pane.show(finding_lines(done))
            return
        feasible = sum(option.feasible for option in estimate.options)
        first = row(
            ("enter", "bold $key"),
            f"  {len(estimate.options)} options, ",
            (f"{feasible} of them feasible", "bold"),
        )
        next_probe = explain.next_probe_text(estimate)
        pane.draw(
            lambda width, _: [
                first,
                *finding_lines(done),
                *(wrap(next_probe, width, indent="  ") if next_probe else ()),
                *warning_lines(estimate, width),
            ]
        )

    # ---- actions ---------------------------------------------------------------------------

    def do_options(self) -> None:
        """Go on to the options, once there are any."""
        if self.session.board.state == "running":
            self.notify("The probes are still running. x stops them and uses what there is.")
        else:
            self.planner.go("options")

    def do_skip(self) -> None:
        """Skip the running probe."""
        if self.session.board.state == "running":
            estimating.skip_probe(self.planner)

    def do_stop(self) -> None:
        """Stop probing."""
        if self.session.board.state == "running":
            self.planner.stop_estimate()
            self.notify("Stopping the probes; what was measured is used.")

    def do_log(self) -> None:
        """Show or hide the output of the probe under the cursor."""
        self._log_open = not self._log_open
        self.repaint()


def running_lines(probe: ProbeRow, width: int) -> Iterable[Content]:
    """How far the running probe is."""
    bar_width = max(width - 9, 10)
    yield Content.assemble(progress(probe.fraction, bar_width), f" {percent(probe.fraction):>6}")
    phase = {
        "starting": "starting: loading the program and the slice",
        "warm-up": "warming up: these steps are dropped",
        "measuring": "measuring steady steps",
        "ending": "ending: writing a checkpoint, releasing",
    }.get(probe.phase or "", probe.phase or "starting")
    yield row((phase, "bold"))
    parts: list[Part] = []
    if probe.step_s is not None:
        parts += [("step ", "$soft"), step_text(probe.step_s), "   "]
    if probe.samples_per_s is not None:
        parts += [("samples/s ", "$soft"), count(round(probe.samples_per_s)), "   "]
    if probe.loader_fraction is not None:
        parts += [("loader ", "$soft"), percent(probe.loader_fraction), "   "]
    if probe.elapsed_s is not None:
        parts += [("for ", "$soft"), passed(probe.elapsed_s)]
    yield row(*parts)


def ended_lines(probe: ProbeRow, width: int) -> Iterable[Content]:
    """What became of a probe."""
    word, style = _STATES[probe.state]
    what = resources_text(probe.resources, probe.knobs) if probe.resources else "-"
    batch = batch_text(probe.knobs) if probe.knobs else "-"
    yield row((word, style), f"   {what}, batch {batch}")
    if probe.error:
        yield from wrap(probe.error, width, style="$bad")
        if probe.log:
            yield row(("l", "bold $key"), ("  shows its output", "$soft"))
    if probe.step_s is not None:
        rate = count(round(probe.samples_per_s or 0))
        yield row(
            ("step ", "$soft"),
            step_text(probe.step_s),
            ("   samples/s ", "$soft"),
            rate,
            ("   loader ", "$soft"),
            percent(probe.loader_fraction),
        )
    if probe.state == "queued":
        yield row(("waits for the probes before it: they run one at a time", "$soft"))


def finding_lines(done: Sequence[ProbeRow]) -> Iterable[Content]:
    """What the finished probes mean for the whole job, in words."""
    fastest = max(done, key=lambda p: p.samples_per_s or 0.0)
    slowest = min(done, key=lambda p: p.samples_per_s or 0.0)
    yield _finding("fastest", fastest, f"{count(round(fastest.samples_per_s or 0))} samples/s")
    if slowest is not fastest and slowest.samples_per_s:
        ratio = (fastest.samples_per_s or 0.0) / slowest.samples_per_s
        yield _finding("slowest", slowest, f"{ratio:.1f} times slower")
    waits = [p.loader_fraction for p in done if p.loader_fraction is not None]
    if waits:
        worst = max(waits)
        text = "the loader holds it up" if worst > 0.25 else "the loader keeps up"
        yield row(("loader   ", "$soft"), f"waits {percent(median(waits))} of a step: {text}")
    sizes = [p.memory_bytes for p in done if p.memory_bytes]
    if sizes:
        text = format_bytes(min(sizes))
        if max(sizes) != min(sizes):
            text += f" to {format_bytes(max(sizes))}"
        yield row(("memory   ", "$soft"), f"{text} at the peak of a worker")


def _finding(label: str, probe: ProbeRow, text: str) -> Content:
    what = resources_text(probe.resources, probe.knobs) if probe.resources else "-"
    batch = batch_text(probe.knobs) if probe.knobs else "-"
    return row((label.ljust(9), "$soft"), f"{what}, batch {batch}: ", (text, "bold"))
