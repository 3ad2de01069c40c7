"""4 Runs: one run as it goes: progress, money and time, the guard's decisions, the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.content import Content
from textual.widgets import Input

from planner.core.types import RunState
from planner.services.api import RunSummary, RunView
from planner.tui.actions import bindings_of
from planner.tui.run_feed import over, resumable
from planner.tui.screens.following import FollowingScreen
from planner.tui.text import short_option
from planner.tui.widgets import run_text
from planner.tui.widgets.change_text import change_lines
from planner.tui.widgets.filter_field import FilterField
from planner.tui.widgets.log_view import LogView
from planner.tui.widgets.pane import Pane
from planner.tui.widgets.table import Table

if TYPE_CHECKING:
    from planner.tui.agreements import Extension


class RunsScreen(FollowingScreen):
    """Follows the session's run, twice a second; its charts once a second."""

    TAB = "runs"
    HOME = "#log"
    FOOTER = (
        "runs.pause",
        "runs.override",
        "runs.checkpoint",
        "runs.stop",
        "runs.extend",
        "runs.detach",
        "runs.log",
        "runs.decisions",
        "app.copy",
    )
    PULSE_S = 0.5
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("runs")

    def __init__(self) -> None:
        super().__init__()
        self._charts: list[Content] = []
        self._charts_for: tuple[int, str | None] = (0, None)
        self._beats = 0
        self._log_open = False

    def panes(self) -> ComposeResult:
        """Run and money side by side, decisions, log."""
        with Container(id="top"):
            yield Pane("run", id="run")
            yield Pane("money and time", id="money")
        yield Table(run_text.DECISION_COLUMNS, "guard", id="guard")
        yield LogView(id="log")
        yield FilterField("show only lines with ...", home="#log")

    # ---- following -------------------------------------------------------------------------

    def beat(self) -> None:
        """Ask again, while there is something that can change."""
        self._beats += 1
        view = self._feed.view
        if view is None or not over(view.summary.state) or self._beats % 10 == 0:
            self.ask()

    def offers(self) -> tuple[tuple[str, str], ...]:
        """What can be done with a run in this state."""
        view = self._feed.view
        if view is None:
            return (("app.options", "Options"), ("app.history", "History"), ("app.quit", ""))
        if over(view.summary.state):
            words = [("runs.log", ""), ("runs.decisions", ""), ("app.history", "History")]
            if resumable(view.summary):
                words[:0] = [("runs.pause", "Resume"), ("runs.extend", "")]
            return (*words, ("app.copy", ""), ("app.quit", ""))
        words = [(name, "") for name in self.FOOTER]
        if resumable(view.summary):
            words[:3] = [("runs.pause", "Resume")]  # nobody is there to change or write anything
        return tuple(words)

    # ---- drawing ---------------------------------------------------------------------------

    def paint(self) -> None:
        """Bring all panes up to date."""
        self._feed.follow(self.session.run_id or self._feed.run_id)
        view = self._feed.view
        self.set_class(self._log_open, "-log")
        if view is None:
            self._say_why_empty()
            return
        self._paint_run(view)
        money = self.query_one("#money", Pane)
        money.draw(lambda width, height: run_text.money_lines(view, width, height))
        self._paint_guard(view)
        self.tell_outcome(view)
        log = self.query_one(LogView)
        if self._feed.lines:
            log.show(self._feed.lines)
        elif not log.speaks:
            log.say("empty", "The job has not written anything yet.")

    def _say_why_empty(self) -> None:
        run, money = self.query_one("#run", Pane), self.query_one("#money", Pane)
        guard, log = self.query_one(Table), self.query_one(LogView)
        if self._feed.error is not None:
            run.fail(self._feed.error)
            for pane in (money, guard, log):
                pane.say("empty", "Not known while the run cannot be read.")
        elif not self._feed.asked:
            for pane in (run, money, guard, log):
                pane.say("loading", "Reading the run.")
        else:
            run.say("empty", "No run yet.", "Launch an option: 3, then L.")
            money.say("empty", "What a run has spent, and will have at its end.")
            guard.say("empty", "What the guard of cap and deadline did.")
            log.say("empty", "What the job and planner write.")

    def _paint_run(self, view: RunView) -> None:
        pane = self.query_one("#run", Pane)
        option = view.summary.option_text
        pane.head(
            run_text.state_parts(view),
            f"at first {short_option(option)}" if view.adjustments else option,
        )
        pane.draw(lambda width, height: self._run_lines(view, width, height))

    def _run_lines(self, view: RunView, width: int, height: int) -> Iterable[Content]:
        """Progress and changes on top, the checkpoint below, as many charts between as fit."""
        key = (width, view.summary.id)
        if self._beats % 2 == 0 or key != self._charts_for:
            self._charts, self._charts_for = run_text.chart_lines(view, width), key
        head = [*run_text.progress_lines(view, width), *change_lines(view, width, height)]
        tail = [run_text.checkpoint_line(view)]
        room = max(height - len(head) - len(tail), 0)
        charts = self._charts[:room]
        if charts and len(charts) + 2 <= room:
            charts = [Content(), *charts, Content()]
        return [*head, *charts, *tail]

    def _paint_guard(self, view: RunView) -> None:
        table = self.query_one(Table)
        decisions = {d.id: d for d in reversed(view.decisions)}
        table.head(f"guard   {view.plan.controller}", _warning(view))
        if decisions:
            table.show(list(decisions), lambda key: run_text.decision_cells(decisions[key]))
        else:
            table.say(
                "empty",
                "All inside the plan: the guard has not had to do anything.",
                "It watches the cap, the deadline and signs of life.",
            )

    # ---- the log ---------------------------------------------------------------------------

    def do_log(self) -> None:
        """The log in full height, or back."""
        self._log_open = not self._log_open
        self.repaint()
        self.query_one(LogView).focus()

    def do_filter(self) -> None:
        """Open the filter."""
        self.query_one(FilterField).open()

    @on(Input.Changed, "#filter")
    def _filtered(self, event: Input.Changed) -> None:
        self.query_one(LogView).set_filter(event.value)

    def do_back(self) -> None:
        """Close the filter and drop it; then the open log."""
        field = self.query_one(FilterField)
        if field.in_use:
            field.drop()
        elif self._log_open:
            self.do_log()

    def do_next(self) -> None:
        """The next line that tells of trouble."""
        if not self.query_one(LogView).find(1):
            self.notify("No line below tells of trouble.")

    def do_previous(self) -> None:
        """The line before that tells of trouble."""
        if not self.query_one(LogView).find(-1):
            self.notify("No line above tells of trouble.")

    # ---- what can be done with a run -------------------------------------------------------

    def _tell(self, ask: Callable[[str], None], said: str) -> None:
        """Ask the services to do something with the run, and say so once they agreed."""
        run_id = self._feed.run_id
        if run_id is None:
            self.notify("There is no run here.", severity="warning")
            return

        def done(_: None) -> None:
            self.notify(said)
            self.ask()

        self.call(lambda: ask(run_id), done, group="command")

    def do_pause(self) -> None:
        """Pause; or ask, then resume what stands still."""
        services, view = self.session.services, self._feed.view
        if view is not None and view.summary.supervisor_alive and not view.keeps_progress:
            self._ask_to_lose(view)
            return
        if view is None or not resumable(view.summary):
            self._tell(services.pause, "Pausing: a checkpoint first, then the resources go back.")
            return
        from planner.tui.agreements import ask_to_agree, resume_agreement

        said = "Resuming from the last good checkpoint."
        agreement = resume_agreement(view, self.session.now())
        ask_to_agree(self.planner, agreement, lambda: self._tell(services.resume, said))

    def _ask_to_lose(self, view: RunView) -> None:
        """Ask before a pause that throws away what the run has done."""
        from planner.tui.screens.question import Answer, QuestionScreen

        question = QuestionScreen(
            f"Pause {view.summary.id} and lose what it did?",
            [
                "Its script does not use planner.sdk and keeps no checkpoint.",
                "When it is resumed it starts from the beginning.",
            ],
            (Answer("back", "Back", "esc"), Answer("pause", "Pause all the same", "p")),
        )

        def answered(answer: str | None) -> None:
            if answer == "pause":
                self._tell(self.session.services.pause, "Pausing: the resources go back.")

        self.app.push_screen(question, answered)

    def do_checkpoint(self) -> None:
        """Ask for a checkpoint."""
        self._tell(self.session.services.checkpoint, "A checkpoint is written at the next step.")

    def do_stop(self) -> None:
        """Ask, then stop."""
        view = self._feed.view
        if view is None or over(view.summary.state):
            self.notify("There is no run here that could be stopped.")
            return
        from planner.tui.screens.question import Answer, QuestionScreen

        question = QuestionScreen(
            f"Stop {view.summary.id}?",
            [
                "A stopped run is over and cannot be resumed.",
                "To go on with it later, go back and pause it with p.",
            ],
            (
                Answer("back", "Back", "esc"),
                Answer("stop", "Checkpoint and stop", "c"),
                Answer("now", "Stop without checkpoint", "n"),
            ),
        )
        self.app.push_screen(question, self._stop)

    def _stop(self, answer: str | None) -> None:
        cancel = self.session.services.cancel
        if answer == "stop":
            self._tell(cancel, "Stopping: a checkpoint first, then the resources go back.")
        elif answer == "now":
            self._tell(partial(cancel, now=True), "Stopping now, without a checkpoint.")

    def do_extend(self) -> None:
        """Ask by how much, show the limits as they were and will be, and ask again."""
        view = self._feed.view
        if view is None or view.summary.state in (RunState.DONE, RunState.CANCELLED):
            self.notify("There is no run here that could be extended.")
            return
        goal = view.plan.goal
        if goal.deadline_at is None and goal.budget_usd is None:
            self.notify("This run has neither a deadline nor a cap that could be raised.")
            return
        from planner.tui.screens.extend import ExtendScreen

        asked = partial(self._ask_to_extend, view)
        self.app.push_screen(ExtendScreen(view, self.session.now()), asked)

    def _ask_to_extend(self, view: RunView, extension: Extension | None) -> None:
        if extension is None:
            return
        from planner.tui.agreements import ask_to_agree, extend_agreement

        more = partial(
            self.session.services.extend,
            deadline_s=extension.deadline_s,
            budget_usd=extension.budget_usd,
        )
        agreement = extend_agreement(view, extension, self.session.now())
        said = "Extended; it is noted as a decision."
        ask_to_agree(self.planner, agreement, lambda: self._tell(more, said))

    def do_detach(self) -> None:
        """Leave; the run goes on."""
        self.planner.do_quit()

    def do_decisions(self) -> None:
        """Show the decisions of this run."""
        self.planner.go("decisions")

    def do_newer(self) -> None:
        """Follow the run launched after this one."""
        self._step(-1)

    def do_older(self) -> None:
        """Follow the run launched before this one."""
        self._step(1)

    def _step(self, by: int) -> None:
        def go(runs: tuple[RunSummary, ...]) -> None:
            ids = [run.id for run in runs]
            here = ids.index(self._feed.run_id) if self._feed.run_id in ids else 0
            if not 0 <= here + by < len(ids):
                self.notify("There is no further run.")
                return
            self.session.run_id = ids[here + by]
            self.arrive()

        self.call(self.session.services.runs, go, group="runs")


def _warning(view: RunView) -> str:
    warning = view.warnings[-1] if view.warnings and not over(view.summary.state) else ""
    return f"! {warning}" if warning else ""
