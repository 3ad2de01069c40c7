"""1 Job: what to train, what is wanted of it, whether this machine is fit, and what is next."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content
from textual.widgets import Input, Static

from planner.core.errors import PlannerError, UnitError
from planner.core.job import Goal
from planner.core.units import parse_deadline, parse_money_usd
from planner.services.api import Check, EstimateRequest, ProbePlan, RunSummary
from planner.tui import estimating
from planner.tui.actions import bindings_of
from planner.tui.screens.base import PlannerScreen
from planner.tui.text import (
    percent,
    row,
    short_duration,
    time_of_day,
)
from planner.tui.widgets.job_text import (
    check_lines,
    control_lines,
    job_lines,
    ready_line,
    recent_lines,
)
from planner.tui.widgets.pane import Pane
from planner.tui.widgets.slider import Choice, Slider

CONFIDENCES = (*(round(0.5 + 0.05 * i, 2) for i in range(10)), 0.98, 0.99)
PREFER = ("cost", "time", "risk")
LIMITS_WIDTH, LIMITS_HEIGHT = 34, 8
"""Cells below the fields of the goal pane in the smallest window."""


class FocusPane(Pane, can_focus=True):
    """A pane that can have the focus, so that keys are not typed into a field."""


class JobScreen(PlannerScreen):
    """The form, the goal, the checks, and the line that says what enter does."""

    TAB = "job"
    HOME = "#form"
    FOOTER = (
        "job.probe",
        "job.estimate",
        "job.save",
        "job.edit",
        "app.quit",
        "app.palette",
    )
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("job")

    _goal_in_fields: Goal | None = None
    _filled_with = Goal()

    def panes(self) -> ComposeResult:
        """Form and goal side by side, checks, and what enter does."""
        self._filled_with = goal = self.session.goal
        with Horizontal(id="top"):
            yield FocusPane("job", id="form")
            with Vertical(id="goal", classes="pane"):
                yield from self._field("deadline", _deadline_text(goal), "e.g. 6h")
                yield from self._field("budget", _budget_text(goal), "e.g. 40")
                yield Slider(
                    CONFIDENCES, goal.confidence, percent, label="confidence", id="confidence"
                )
                yield Choice(PREFER, goal.prefer, label="prefer", id="prefer")
                yield Static(id="limits")
        with Container(id="lower"):
            yield FocusPane("checks", id="checks")
            yield Pane("before", id="before")
        yield Pane(id="ready")

    def _field(self, name: str, value: str, placeholder: str) -> ComposeResult:
        with Horizontal():
            yield Static(name, classes="label")
            yield Input(value, placeholder=placeholder, id=name, select_on_focus=False)
            yield Static(classes="echo", id=f"{name}-echo")
        yield Static(classes="problem", id=f"{name}-problem")

    def on_mount(self) -> None:
        """With the form in focus, enter does what the line at the bottom says."""
        super().on_mount()
        self.query_one("#goal").border_title = Content.styled("goal", "bold")

    def offers(self) -> tuple[tuple[str, str], ...]:
        """What enter does here and now: in a field it only takes over what was typed."""
        plan = self.session.probe_plan
        free = isinstance(plan, ProbePlan) and not plan.to_run
        enter = "Next field" if self.typing else "Estimate" if free else "Probe"
        return tuple((name, enter if name == "job.probe" else "") for name in self.FOOTER)

    def on_descendant_focus(self) -> None:
        """Enter means something else from here on."""
        self.paint_keys()

    # ---- drawing ---------------------------------------------------------------------------

    def paint(self) -> None:
        """Everything; the fields, which belong to whoever types in them, only for another goal."""
        if self._goal_in_fields not in (None, self.session.goal):
            self._fill_fields()
        self._goal_in_fields = self.session.goal
        self._paint_form()
        self._paint_goal()
        self._paint_checks()
        self._paint_ready()
        self._paint_before()

    def _paint_before(self) -> None:
        session, pane = self.session, self.query_one("#before", Pane)
        runs, estimate = session.known_runs, session.estimate
        pane.draw(lambda _width, height: recent_lines(runs[:height], estimate, session.now()))

    def _paint_form(self) -> None:
        form = self.query_one("#form", Pane)
        job = self.session.job
        if job is None:
            form.head("job")
            form.say(
                "empty",
                "No job file is open.",
                "Make one with: planner init -- python train.py ...   "
                "then open it with: planner planner.toml",
            )
            return
        form.head(f"job  {self.session.job_name}")
        form.draw(lambda width, _height: job_lines(job, width))

    def _paint_goal(self) -> None:
        goal = self.session.goal
        if goal.deadline_s is not None:
            at = goal.deadline_at or self.session.now() + timedelta(seconds=goal.deadline_s)
            self._echo("deadline", f"→ {time_of_day(at)}")
        else:
            self._echo("deadline", "none")
        self._echo("budget", "hard cap" if goal.budget_usd is not None else "no cap")
        job = self.session.job
        if job is not None:
            lines = list(control_lines(job, LIMITS_WIDTH))
            if len(lines) < LIMITS_HEIGHT:
                lines.insert(0, Content())
            self.query_one("#limits", Static).update(Content("\n").join(lines))

    def _fill_fields(self) -> None:
        """Put a goal that comes from elsewhere into the fields: a what-if, or an edited file."""
        self._filled_with = goal = self.session.goal
        self.query_one("#deadline", Input).value = _deadline_text(goal)
        self.query_one("#budget", Input).value = _budget_text(goal)
        self.query_one(Slider).set_values(CONFIDENCES, goal.confidence)
        self.query_one(Choice).value = goal.prefer

    def _echo(self, name: str, text: str) -> None:
        self.query_one(f"#{name}-echo", Static).update(Content(text))

    def _paint_checks(self) -> None:
        pane = self.query_one("#checks", Pane)
        checks = self.session.checks
        if checks is None:
            pane.say("loading", "Checking this machine and the places of the job.")
        elif isinstance(checks, PlannerError):
            pane.fail(checks)
        elif not checks:
            pane.say("empty", "There is nothing to check.")
        else:
            bad = sum(c.state == "fail" for c in checks)
            warn = sum(c.state == "warn" for c in checks)
            good = sum(c.state == "ok" for c in checks)
            words = [f"{good} ok"] + [f"{n} {w}" for n, w in ((warn, "warn"), (bad, "fail")) if n]
            pane.head("checks", "  ".join(words))
            pane.draw(lambda width, height: check_lines(checks, width, height))

    def _paint_ready(self) -> None:
        self.query_one("#ready", Pane).show([self._ready_line()])
        self.paint_keys()

    def _ready_line(self) -> Content:
        plan = self.session.probe_plan
        if self.session.job is None:
            return row(("nothing to probe until a job is open", "$soft"))
        if self.session.board.state == "running":
            return row(("2", "bold $key"), "  probes are running: watch them on the second tab")
        if plan is None:
            return row(("… counting the probes this job would need", "$soft"))
        if isinstance(plan, PlannerError):
            return row((f"! {plan.text}", "bold $bad"), f"  {plan.hint or ''}")
        return ready_line(plan)

    # ---- asking ----------------------------------------------------------------------------

    def arrive(self) -> None:
        """Ask for checks, the probe plan, and the newest kept estimate."""
        self._check()
        self._count_probes()
        self.call(lambda: self.session.services.runs(20), self._know_runs, group="runs")
        estimating.look_for_kept(self.planner)

    def _know_runs(self, runs: tuple[RunSummary, ...]) -> None:
        self.session.known_runs = runs
        self._paint_before()

    def _check(self) -> None:
        def done(checks: tuple[Check, ...] | PlannerError) -> None:
            self.session.checks = checks
            self._paint_checks()

        self.call(self.session.services.doctor, done, done, group="doctor")

    def _count_probes(self) -> None:
        job = self.session.job
        if job is None:
            return
        request = EstimateRequest(job=job, goal=self.session.goal)

        def done(plan: ProbePlan | PlannerError) -> None:
            self.session.probe_plan = plan
            self._paint_ready()

        services = self.session.services
        self.call(lambda: services.plan_probes(request), done, done, group="plan")

    # ---- the goal --------------------------------------------------------------------------

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._take(event.input)

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        if self._take(event.input):
            self.focus_next()

    def _take(self, field: Input) -> bool:
        """Take a field over into the goal; what cannot be read changes nothing."""
        text = field.value.strip()
        goal = self.session.goal
        try:
            if field.id == "deadline":
                new = self._with_deadline(goal, text)
            else:
                new = self._with_budget(goal, text)
        except UnitError as error:
            self._complain(field, error)
            return False
        self._complain(field, None)
        if new != goal:
            self._set_goal(new)
            self._paint_goal()
        return True

    def _with_deadline(self, goal: Goal, text: str) -> Goal:
        """The goal with the deadline of a text. Raises `UnitError`."""
        now = self.session.now()
        for known in (self._filled_with, goal):
            # The same words again: to the second as it was, and counted from when it was stated.
            over = known.deadline_at is not None and known.deadline_at <= now
            if text == _deadline_text(known) and (known == goal or not over):
                return replace(goal, deadline_s=known.deadline_s, deadline_at=known.deadline_at)
        seconds, at = parse_deadline(text, now) if text else (None, None)
        return replace(goal, deadline_s=seconds, deadline_at=at)

    def _with_budget(self, goal: Goal, text: str) -> Goal:
        """The goal with the budget of a text. Raises `UnitError`."""
        if text == _budget_text(self._filled_with):
            return replace(goal, budget_usd=self._filled_with.budget_usd)
        return replace(goal, budget_usd=parse_money_usd(text) if text else None)

    def _complain(self, field: Input, error: UnitError | None) -> None:
        problem = self.query_one(f"#{field.id}-problem", Static)
        field.set_class(error is not None, "-bad")
        problem.set_class(error is not None, "-on")
        if error is not None:
            problem.update(Content(f"! {error.text}" + (f": {error.hint}" if error.hint else "")))
            self._echo(field.id or "", "not taken")

    @on(Slider.Changed)
    def _confidence(self, event: Slider.Changed) -> None:
        self._set_goal(replace(self.session.goal, confidence=event.value))

    @on(Choice.Changed)
    def _prefer(self, event: Choice.Changed) -> None:
        self._set_goal(replace(self.session.goal, prefer=event.value))  # type: ignore[arg-type]

    def _set_goal(self, goal: Goal) -> None:
        """A goal that the fields show already."""
        self._goal_in_fields = goal
        self.planner.set_goal(goal)

    # ---- actions ---------------------------------------------------------------------------

    def _to_wrong_field(self) -> bool:
        """Go to a field that cannot be read; whether there is one."""
        problem = next((f for f in self.query(Input) if f.has_class("-bad")), None)
        if problem is not None:
            problem.focus()
        return problem is not None

    def do_probe(self) -> None:
        """Start the probes."""
        if not self._to_wrong_field():
            self.planner.start_estimate(probe=True)

    def do_save(self) -> None:
        """Save the job file with the goal of the form; asks for its name."""
        from planner.tui.jobfile import ask_to_save, deadline_text

        if self._to_wrong_field():
            return
        typed = self.query_one("#deadline", Input).value.strip()
        as_filled = typed == _deadline_text(self._filled_with)
        ask_to_save(self.planner, deadline_text(self.session.goal) if as_filled else typed)

    def do_edit(self) -> None:
        """Open the job file in the person's editor, and take over what comes back."""
        from planner.tui.jobfile import edit

        if edit(self.planner):
            self.repaint()
            self.arrive()

    def do_estimate(self) -> None:
        """Estimate from kept results."""
        self.planner.start_estimate(probe=False)

    def do_back(self) -> None:
        """Leave a field; what could not be read there is dropped."""
        texts = {"deadline": _deadline_text, "budget": _budget_text}
        for name, text in texts.items():
            field = self.query_one(f"#{name}", Input)
            if field.has_class("-bad"):
                field.value = text(self.session.goal)
        self.go_home()

    def do_checks(self) -> None:
        """Check again."""
        self.session.checks = None
        self._paint_checks()
        self._check()


def _deadline_text(goal: Goal) -> str:
    if goal.deadline_s is None:
        return ""
    return short_duration(goal.deadline_s)


def _budget_text(goal: Goal) -> str:
    return "" if goal.budget_usd is None else f"{goal.budget_usd:.10g}"
