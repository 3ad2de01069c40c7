"""Sliders for deadline, budget and confidence: what would be picked if they stood elsewhere?"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from planner.core.job import Goal
from planner.core.types import EstimateResult
from planner.core.units import format_money
from planner.tui.text import percent, row, short_duration
from planner.tui.widgets.slider import Choice, Slider

CONFIDENCES: tuple[float, ...] = (*(round(0.5 + 0.05 * i, 2) for i in range(10)), 0.98, 0.99)
PREFER = ("cost", "time", "risk")
_STEPS = 24


def _spread(low: float, high: float) -> list[float]:
    """Steps of equal ratio, each rounded to two digits so that it reads well."""
    low = max(low, 1e-6)
    ratio = (max(high, 2 * low) / low) ** (1 / _STEPS)
    values = (low * ratio**i for i in range(_STEPS + 1))
    return [round(v, 1 - math.floor(math.log10(v))) for v in values]


def _none_or(text: str, value: float) -> str:
    return "none" if math.isinf(value) else text


class WhatIf(Vertical):
    """The sliders, and one line with what they lead to."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "apply", show=False),
        Binding("escape", "reset", show=False),
        Binding("down,j", "app.focus_next", show=False),
        Binding("up,k", "app.focus_previous", show=False),
    ]

    class Tried(Message):
        """The sliders stand at this goal."""

        def __init__(self, goal: Goal) -> None:
            super().__init__()
            self.goal = goal

    class Applied(Message):
        """The tried goal is to become the goal."""

    class Reset(Message):
        """Back to the goal as it was."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, classes="pane")
        self._goal = Goal()

    def compose(self) -> ComposeResult:
        """Three sliders, a choice, and a line."""
        inf = math.inf
        yield Slider(
            (60.0, inf), inf, lambda v: _none_or(_deadline(v), v), label="deadline", id="w-deadline"
        )
        yield Slider(
            (1.0, inf), inf, lambda v: _none_or(format_money(v), v), label="budget", id="w-budget"
        )
        yield Slider(CONFIDENCES, 0.9, percent, label="confidence", id="w-confidence")
        yield Choice(PREFER, "cost", label="prefer", id="w-prefer")
        yield Static(id="w-answer")

    def on_mount(self) -> None:
        """Say what the keys do."""
        self.border_title = Content.styled("what if", "bold")
        self.border_subtitle = Content.styled("← → change   enter applies   esc resets", "$soft")

    def set_goal(self, goal: Goal, estimate: EstimateResult) -> None:
        """Stand the sliders at a goal; their range follows the options."""
        self._goal = goal
        times = [o.total_s for o in estimate.options]
        costs = [o.cost_usd for o in estimate.options]
        if not times:
            return
        deadline = math.inf if goal.deadline_s is None else goal.deadline_s
        budget = math.inf if goal.budget_usd is None else goal.budget_usd
        steps = _spread(min(t.p05 for t in times) / 1.5, 3 * max(t.p95 for t in times))
        self.query_one("#w-deadline", Slider).set_values((*steps, math.inf), deadline)
        steps = _spread(min(c.p05 for c in costs) / 1.5, 3 * max(c.p95 for c in costs))
        self.query_one("#w-budget", Slider).set_values((*steps, math.inf), budget)
        self.query_one("#w-confidence", Slider).set_values(CONFIDENCES, goal.confidence)
        self.query_one("#w-prefer", Choice).value = goal.prefer

    def answer(self, text: str, *, changed: bool) -> None:
        """What the sliders lead to."""
        line = row(("→ ", "bold $key"), (text, "bold" if changed else "$soft"))
        self.query_one("#w-answer", Static).update(line)

    @on(Slider.Changed)
    @on(Choice.Changed)
    def _turned(self, event: Message) -> None:
        event.stop()
        deadline = self.query_one("#w-deadline", Slider).value
        budget = self.query_one("#w-budget", Slider).value
        goal = self._goal
        if deadline != (math.inf if goal.deadline_s is None else goal.deadline_s):
            # A deadline that is tried out counts from now, not from when the old one was stated.
            goal = replace(
                goal, deadline_s=None if math.isinf(deadline) else deadline, deadline_at=None
            )
        goal = replace(
            goal,
            budget_usd=None if math.isinf(budget) else budget,
            confidence=self.query_one("#w-confidence", Slider).value,
            prefer=self.query_one("#w-prefer", Choice).value,  # type: ignore[arg-type]
        )
        self.post_message(self.Tried(goal))

    def action_apply(self) -> None:
        """Take the tried goal over."""
        self.post_message(self.Applied())

    def action_reset(self) -> None:
        """Back to the goal."""
        self.post_message(self.Reset())


def _deadline(seconds: float) -> str:
    return short_duration(seconds)
