"""3 Options: what could be bought, the front, why this pick, and what if the goal were another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal

from planner.core.types import EstimateResult, Option
from planner.core.units import format_chance, format_money
from planner.tui import estimating
from planner.tui.actions import bindings_of
from planner.tui.screens.listing import ListingScreen
from planner.tui.text import (
    batch_text,
    count,
    money_interval,
    percent,
    resources_text,
    short_duration,
    time_of_day,
)
from planner.tui.widgets import option_text
from planner.tui.widgets.front_chart import FrontChart
from planner.tui.widgets.pane import Pane
from planner.tui.widgets.table import LetterTable, Table
from planner.tui.widgets.what_if import WhatIf

View = Literal["strip", "front", "why", "what-if"]
SORTS: tuple[tuple[str, Callable[[Option], float]], ...] = (
    ("rank", lambda o: o.rank),
    ("time", lambda o: o.total_s.p50),
    ("cost", lambda o: o.cost_usd.p50),
    ("chance", lambda o: -(o.p_deadline if o.p_deadline is not None else 1.0)),
)


class OptionsScreen(ListingScreen):
    """The table over pictures and reasons."""

    TAB = "options"
    HOME = "#options"
    FOOTER = (
        "options.launch",
        "options.why",
        "options.what_if",
        "options.chart",
        "list.mark",
        "options.compare",
        "options.infeasible",
        "list.sort",
        "app.copy",
    )
    SORTED_BY = tuple(name for name, _ in SORTS)
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings_of("options"),
        *bindings_of("list", "mark", "sort", "reverse"),
    ]

    _view: View = "strip"
    _infeasible = False

    def panes(self) -> ComposeResult:
        """Table on top; below it what the chosen view asks for."""
        yield LetterTable(option_text.columns(self.session.goal), "options", id="options")
        with Horizontal(id="middle"):
            yield FrontChart(id="chart")
            yield Pane("why", id="why")
        with Horizontal(id="bottom"):
            yield WhatIf(id="what-if")
            yield Pane("option", id="detail")

    def arrive(self) -> None:
        """Look for a kept estimate when this session has none."""
        estimating.look_for_kept(self.planner)

    def offers(self) -> tuple[tuple[str, str], ...]:
        """Without an estimate there is little to do here."""
        if self.session.shown is None:
            return (("app.job", "Job"), ("app.palette", ""), ("app.quit", ""))
        return super().offers()

    # ---- drawing ---------------------------------------------------------------------------

    def paint(self) -> None:
        """Bring all panes up to date."""
        estimate = self.session.shown
        self._show_panes(estimate)
        table = self.query_one(Table)
        if estimate is None:
            self._say_why_empty(table)
            return
        goal = replace(estimate.goal, deadline_s=self.session.deadline_left_s(estimate.goal))
        table.columns = option_text.columns(goal, estimate.options)
        if not estimate.options:
            table.say("empty", estimate.recommendation.text, "Look at the probes: 2.")
            return
        by_id = {option.id: option for option in estimate.options}
        table.head(self._title(estimate), self._note(estimate))
        table.show(self._order(estimate), lambda key: option_text.cells(by_id[key], estimate))
        if self.session.option_id is not None:
            table.move_to(self.session.option_id)
            self.session.option_id = None
        self._paint_lower(estimate)

    def _say_why_empty(self, table: Table) -> None:
        session = self.session
        table.head("options")
        if session.estimate_error is not None:
            table.fail(session.estimate_error)
        elif session.board.state == "running":
            table.say("loading", "The probes are running; options come when they are done.")
        else:
            table.say(
                "empty",
                "There is no estimate of this job yet.",
                "Press 1 for the job: enter probes it, e estimates from kept results.",
            )

    def _title(self, estimate: EstimateResult) -> str:
        goal = estimate.goal
        words = [self.session.job_name]
        if goal.deadline_s is not None:
            at = f" → {time_of_day(goal.deadline_at)}" if goal.deadline_at else ""
            words.append(f"deadline {short_duration(goal.deadline_s)}{at}")
        if goal.budget_usd is not None:
            words.append(f"budget {format_money(goal.budget_usd)}")
        words.append(f"level {percent(goal.confidence)}")
        if self.session.what_if is not None:
            words.insert(0, "WHAT IF")
        if self.wide:
            work = estimate.work
            words.insert(1, f"{count(work.samples * work.epochs)} samples")
            words.append(f"{len(estimate.probes)} probes, {format_money(estimate.probe_cost_usd)}")
        return "   ".join(words)

    def _note(self, estimate: EstimateResult) -> str:
        hidden = sum(not o.feasible for o in estimate.options)
        sort = self.sorted_by
        words = [] if sort == "rank" else [f"by {sort}{', reversed' if self._reversed else ''}"]
        if hidden and not self._infeasible and len(self._order(estimate)) < len(estimate.options):
            words.append(f"{hidden} infeasible hidden, i shows why")
        if estimate.warnings:
            number = len(estimate.warnings)
            words.insert(0, f"! {number} warning{'s' if number > 1 else ''}, w shows")
        words.append("◆ pick  * front" + ("  x infeasible" if self._infeasible else ""))
        return "   ".join(words)

    def _order(self, estimate: EstimateResult) -> list[str]:
        shown = [o for o in estimate.options if o.feasible or self._infeasible]
        # With nothing feasible, hiding it all would hide the answer.
        shown = shown or list(estimate.options)
        shown.sort(key=SORTS[self._sort][1], reverse=self._reversed)
        return [option.id for option in shown]

    def _show_panes(self, estimate: EstimateResult | None) -> None:
        """Which panes are to be seen, by room and by what was asked for."""
        there = estimate is not None and bool(estimate.options)
        roomy = self.wide and self.tall
        view = self._view
        self.query_one("#middle").display = there and (roomy or view != "what-if")
        self.query_one("#chart").display = view in ("strip", "front") or (roomy and view != "why")
        self.query_one("#why").display = roomy or view in ("strip", "why")
        self.query_one("#bottom").display = there and view in (
            ("strip", "front", "what-if") if roomy else ("what-if",)
        )
        self.query_one("#detail").display = roomy or self.wide
        self.set_class(view == "front", "-front")
        self.set_class(view == "why", "-why")

    def _paint_lower(self, estimate: EstimateResult) -> None:
        option = self._cursor(estimate)
        chart = self.query_one(FrontChart)
        shown = [o for o in estimate.options if o.feasible or self._infeasible]
        # Where there is room the front comes first and `v` brings the strip; else the reverse.
        full = (self._view == "front") != (self.wide and self.tall)
        goal = replace(estimate.goal, deadline_s=self.session.deadline_left_s(estimate.goal))
        chart.picture(shown or estimate.options, goal, estimate.recommendation.option_id, full=full)
        why = self.query_one("#why", Pane)
        picked = option is not None and option.id == estimate.recommendation.option_id
        number = "-" if option is None else str(option.rank)
        why.head(f"why {number}" if picked or option is None else f"why not {number}")
        why.draw(lambda width, _: option_text.why_lines(estimate, option, width))
        detail = self.query_one("#detail", Pane)
        if option is not None:
            detail.head(f"option {number}")
            detail.show(option_text.detail_lines(option))
        self._paint_what_if(estimate)

    def _paint_what_if(self, estimate: EstimateResult) -> None:
        pane = self.query_one(WhatIf)
        if self.session.what_if is None:
            pane.set_goal(self.session.goal, estimate)
        pane.answer(self._answer(estimate), changed=self.session.what_if is not None)

    def _answer(self, estimate: EstimateResult) -> str:
        pick = estimate.option(estimate.recommendation.option_id or "")
        if pick is None:
            return "no option meets this"
        was = self.session.estimate
        same = was is not None and was.recommendation.option_id == pick.id
        change = " (unchanged)" if same else " (another pick)"
        chance = "" if pick.p_deadline is None else f", P(time) {format_chance(pick.p_deadline)}"
        what = f"{resources_text(pick.resources, pick.knobs)}, batch {batch_text(pick.knobs)}"
        return f"{what}: {money_interval(pick.cost_usd).strip()}{chance}{change}"

    def _cursor(self, estimate: EstimateResult) -> Option | None:
        return estimate.option(self.query_one(Table).cursor_key or "")

    @on(Table.Moved)
    def _moved(self) -> None:
        estimate = self.session.shown
        if estimate is not None:
            self._paint_lower(estimate)

    def on_resize(self) -> None:
        """Panes come and go with the room."""
        self.call_after_refresh(self.repaint)

    # ---- what-if ---------------------------------------------------------------------------

    @on(WhatIf.Tried)
    def _tried(self, event: WhatIf.Tried) -> None:
        estimating.try_goal(self.planner, event.goal)

    @on(WhatIf.Applied)
    def _applied(self) -> None:
        tried = self.session.what_if
        if tried is not None:
            self.planner.set_goal(tried.goal)
            self.notify("This is the goal now; Job shows it too.")
        self._leave_what_if()

    @on(WhatIf.Reset)
    def _reset(self) -> None:
        estimating.leave_goal(self.planner)
        self._leave_what_if()

    def _leave_what_if(self) -> None:
        if self._view == "what-if":
            self._view = "strip"
        self.repaint()
        self.query_one(Table).focus()

    # ---- actions ---------------------------------------------------------------------------

    def do_launch(self) -> None:
        """Ask before launching the option under the cursor."""
        estimate = self.session.shown
        option = self._cursor(estimate) if estimate is not None else None
        if estimate is None or option is None:
            self.notify("There is no option to launch yet.", severity="warning")
            return
        from planner.tui.launching import ask_to_launch

        ask_to_launch(self.planner, estimate, option)

    def _toggle(self, view: View) -> None:
        self._view = "strip" if self._view == view else view
        self.repaint()
        # The size of a pane that has just appeared is known after the next layout.
        self.call_after_refresh(self.repaint)

    def do_why(self) -> None:
        """The reasons in full height, or back."""
        self._toggle("why")

    def do_chart(self) -> None:
        """The front in full height, or back."""
        self._toggle("front")

    def do_what_if(self) -> None:
        """The sliders, with the first of them in focus."""
        if self.session.shown is None:
            return
        self._toggle("what-if")
        if self._view == "what-if":
            self.query_one("#w-deadline").focus()
        else:
            estimating.leave_goal(self.planner)
            self._leave_what_if()

    def do_infeasible(self) -> None:
        """Show or hide what is not feasible."""
        self._infeasible = not self._infeasible
        self.repaint()

    def do_compare(self) -> None:
        """Marked options side by side; with fewer than two, the pick against the cursor's."""
        estimate = self.session.shown
        if estimate is None:
            return
        table = self.query_one(Table)
        wanted = self.marked_keys()
        if len(wanted) < 2:
            pick, here = estimate.recommendation.option_id, table.cursor_key
            wanted = [key for key in dict.fromkeys((pick, here)) if key]
        if len(wanted) < 2:
            self.notify("Mark two options with space, then press c.")
            return
        from planner.tui.screens.compare import CompareScreen

        ranks = {option.id: option.rank for option in estimate.options}
        names = {f"{estimate.id}/{key}": f"option {ranks[key]}" for key in wanted}
        self.app.push_screen(CompareScreen(names))
