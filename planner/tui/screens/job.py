"""1 Job: what to train, what is wanted of it, whether this machine is fit, and what is next."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Input, Static

from planner.core.errors import PlannerError, UnitError
from planner.core.types import Goal, JobSpec, Place
from planner.core.units import format_duration, format_money, parse_deadline, parse_money_usd
from planner.services.api import Check, EstimateRequest, ProbePlan
from planner.tui.actions import bindings_of
from planner.tui.screens.base import PlannerScreen
from planner.tui.text import Part, count, pair, percent, row, short_duration, time_of_day, wrap
from planner.tui.widgets.pane import Pane
from planner.tui.widgets.slider import Choice, Slider

CONFIDENCES = (*(round(0.5 + 0.05 * i, 2) for i in range(10)), 0.98, 0.99)
PREFER = ("cost", "time", "risk")


def job_lines(job: JobSpec, width: int) -> Iterable[Content]:
    """The job as labelled lines."""
    value_width = width - 11
    command = wrap(_command_text(job.command), value_width)
    for index, line in enumerate(command[:3]):
        yield pair("command" if index == 0 else "", line)
    images = (f"  {count(job.samples)} samples", "$soft") if job.samples else ""
    yield pair("data", job.data or ("none that planner can slice", "$soft"), images)
    probe = job.probe
    sliced = f"{percent(probe.slice_fraction)} of the data" if job.data else "all of it"
    yield pair("slice", f"{sliced}, {probe.steps} steps")
    yield pair("work", *_work(job))
    yield pair(
        "checkpoint",
        job.checkpoint_dir or "run's folder",
        f", every {short_duration(job.checkpoint_interval_s)}",
    )
    yield from _knobs(job, value_width)
    contract = "SDK in the script" if job.tier else "no SDK, timed outside"
    yield pair("contract", contract, (f"  tier {job.tier}", "$soft"))
    for index, place in enumerate(job.places):
        yield pair("where" if index == 0 else "", _place(place))
    if not job.places:
        yield pair("where", ("nowhere: add [[where]] to the job file", "$bad"))


def _command_text(command: Sequence[str]) -> str:
    """The command as one would type it; `{placeholders}` are left as they are in the job file."""
    return " ".join(a if a.startswith("{") and a.endswith("}") else shlex.quote(a) for a in command)


def _work(job: JobSpec) -> list[Part]:
    epochs = f"{job.epochs} epoch" + ("s" if job.epochs != 1 else "")
    batch = f", global batch {job.global_batch}" if job.global_batch else ""
    total = f"  {count(job.samples * job.epochs)} samples" if job.samples else ""
    return [epochs + batch, (total, "$soft")]


def _knobs(job: JobSpec, width: int) -> Iterable[Content]:
    adjust = job.adjust
    kinds = (("may turn", adjust.allow, ""), ("must ask", adjust.ask, "$warn"))
    for label, names, style in (*kinds, ("never", adjust.never, "$soft")):
        text = ", ".join(name.replace("_", " ") for name in names)
        for index, line in enumerate(wrap(text, width, style=style) if text else ()):
            yield pair(label if index == 0 else "", line)


def _place(place: Place) -> str:
    slots = place.settings.get("slots")
    price = next((v for k, v in place.settings.items() if k.startswith("usd_per_")), None)
    what = "GPU" if "usd_per_gpu_h" in place.settings else "slot"
    parts = [f"{place.runner} {place.pool}"]
    if slots:
        parts.append(f"{slots} {what}s")
    text = ", ".join(parts)
    return text if price is None else f"{text} ${price}/h"


def check_lines(checks: Sequence[Check], width: int) -> Iterable[Content]:
    """What `planner doctor` finds: trouble first, with its fix; the rest in two columns."""
    order = ("fail", "warn", "ok", "skip")
    styles = {"fail": "bold $bad", "warn": "bold $warn", "ok": "$good", "skip": "$soft"}
    ranked = sorted(checks, key=lambda c: order.index(c.state))
    troubled = [check for check in ranked if check.state in ("fail", "warn")]
    for check in troubled:
        fix = (f"  {check.fix}", "$soft") if check.fix else ""
        yield row((f"{check.state:<5}", styles[check.state]), check.text, fix)
    others = [
        row((f"{check.state:<5}", styles[check.state]), check.text)
        for check in ranked[len(troubled) :]
    ]
    half, cell = -(-len(others) // 2), (width - 2) // 2
    for index in range(half):
        pairs = (c.truncate(cell, ellipsis=True, pad=True) for c in others[index::half])
        yield Content("  ").join(pairs)


class FocusPane(Pane, can_focus=True):
    """A pane that can have the focus, so that keys are not typed into a field."""


class JobScreen(PlannerScreen):
    """The form, the goal, the checks, and the line that says what enter does."""

    TAB = "job"
    HOME = "#form"
    FOOTER = ("job.probe", "job.estimate", "app.palette", "app.quit")
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("job")

    def panes(self) -> ComposeResult:
        """Form and goal side by side, checks, and what enter does."""
        goal = self.session.goal
        with Horizontal(id="top"):
            yield FocusPane("job", id="form")
            with Vertical(id="goal", classes="pane"):
                yield from self._field("deadline", _deadline_text(goal), "none, or 6h, 17:40")
                yield from self._field("budget", _budget_text(goal), "none, or 40")
                yield Slider(
                    CONFIDENCES, goal.confidence, percent, label="confidence", id="confidence"
                )
                yield Choice(PREFER, goal.prefer, label="prefer", id="prefer")
                yield Static(id="limits")
        yield FocusPane("checks", id="checks")
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

    # ---- drawing ---------------------------------------------------------------------------

    def paint(self) -> None:
        """Everything but the fields, which belong to whoever types in them."""
        self._paint_form()
        self._paint_goal()
        self._paint_checks()
        self._paint_ready()

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
        form.draw(lambda width, _: job_lines(job, width))

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
            probe = job.probe
            cap = f"{format_money(probe.max_cost_usd)}, {short_duration(probe.max_time_s)}"
            text = [
                Content(),
                pair("probe cap", cap),
                pair("controller", "guarded"),
                pair("retries", f"{job.retries}", ("  after progress", "$soft")),
            ]
            self.query_one("#limits", Static).update(Content("\n").join(text))

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
            pane.draw(lambda width, _: check_lines(checks, width))

    def _paint_ready(self) -> None:
        self.query_one("#ready", Pane).show([self._ready_line()])

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
        job = self.session.job
        if job is not None and self.session.estimate is None:
            services = self.session.services
            self.call(
                lambda: services.latest_estimate(job), self.planner.keep_estimate, group="latest"
            )

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
                new = _with_deadline(goal, text, self)
            else:
                new = replace(goal, budget_usd=parse_money_usd(text) if text else None)
        except UnitError as error:
            self._complain(field, error)
            return False
        self._complain(field, None)
        if new != goal:
            self.planner.set_goal(new)
            self._paint_goal()
        return True

    def _complain(self, field: Input, error: UnitError | None) -> None:
        problem = self.query_one(f"#{field.id}-problem", Static)
        field.set_class(error is not None, "-invalid")
        problem.set_class(error is not None, "-on")
        if error is not None:
            problem.update(Content(f"! {error.text}" + (f": {error.hint}" if error.hint else "")))
            self._echo(field.id or "", "not taken")

    @on(Slider.Changed)
    def _confidence(self, event: Slider.Changed) -> None:
        self.planner.set_goal(replace(self.session.goal, confidence=event.value))

    @on(Choice.Changed)
    def _prefer(self, event: Choice.Changed) -> None:
        self.planner.set_goal(replace(self.session.goal, prefer=event.value))  # type: ignore[arg-type]

    # ---- actions ---------------------------------------------------------------------------

    def do_probe(self) -> None:
        """Start the probes."""
        problem = next((f for f in self.query(Input) if f.has_class("-invalid")), None)
        if problem is not None:
            problem.focus()
            return
        self.planner.start_estimate(probe=True)

    def do_estimate(self) -> None:
        """Estimate from kept results."""
        self.planner.start_estimate(probe=False)

    def do_back(self) -> None:
        """Leave a field; what could not be read there is dropped."""
        texts = {"deadline": _deadline_text, "budget": _budget_text}
        for name, text in texts.items():
            field = self.query_one(f"#{name}", Input)
            if field.has_class("-invalid"):
                field.value = text(self.session.goal)
        self.go_home()

    def do_checks(self) -> None:
        """Check again."""
        self.session.checks = None
        self._paint_checks()
        self._check()


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


def _deadline_text(goal: Goal) -> str:
    if goal.deadline_s is None:
        return ""
    return short_duration(goal.deadline_s)


def _budget_text(goal: Goal) -> str:
    return "" if goal.budget_usd is None else f"{goal.budget_usd:g}"


def _with_deadline(goal: Goal, text: str, screen: PlannerScreen) -> Goal:
    if not text:
        return replace(goal, deadline_s=None, deadline_at=None)
    seconds, at = parse_deadline(text, screen.session.now())
    return replace(goal, deadline_s=seconds, deadline_at=at)
