"""The launch confirmation: everything that is agreed to, with the focus on Back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from planner.core.errors import UnitError
from planner.core.types import EstimateResult, Option
from planner.core.units import format_bytes, format_money, parse_money_usd
from planner.tui.text import (
    batch_text,
    money_interval,
    pair,
    place_text,
    probability,
    rate,
    resources_text,
    row,
    short_duration,
    time_interval,
)
from planner.tui.widgets.button import Button


class ConfirmScreen(ModalScreen[bool]):
    """Dismissed with True only when the launch was agreed to.

    Up to `confirm_above_usd` a `y` is enough; above it the amount has to be typed.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "answer(False)", show=False),
        Binding("left,shift+tab,up", "app.focus_previous", show=False),
        Binding("right,tab,down", "app.focus_next", show=False),
    ]

    def __init__(
        self,
        estimate: EstimateResult,
        option: Option,
        *,
        worst_usd: float,
        confirm_above_usd: float,
    ) -> None:
        super().__init__()
        self._estimate, self._option = estimate, option
        self._worst_usd, self._limit_usd = worst_usd, confirm_above_usd
        self._typed = worst_usd > confirm_above_usd

    def compose(self) -> ComposeResult:
        """What is agreed to, then the two answers."""
        with Vertical(classes="box") as box:
            box.border_title = Content.styled(f"Launch option {self._option.rank}?", "bold")
            box.border_subtitle = Content.styled("nothing is running yet", "$soft")
            lines = confirm_lines(self._estimate, self._option)
            yield Static(Content("\n").join([*lines, Content()]))
            if self._typed:
                with Horizontal(classes="buttons"):
                    yield Static(
                        f"It may cost up to {format_money(self._worst_usd)}, more than "
                        f"{format_money(self._limit_usd)}: type that amount  "
                    )
                    yield Input(id="amount", placeholder="amount")
            with Horizontal(classes="buttons"):
                yield Button("Back", "back")
                yield Button("Launch", "launch", disabled=self._typed)
            yield Static(self._hint(), classes="hint")

    def _hint(self) -> Content:
        if self._typed:
            return row(
                ("esc", "bold $key"), " back   ", ("tab", "bold $key"), " to the amount   ",
                "Launch opens once it is typed",
            )  # fmt: skip
        return row(("esc", "bold $key"), " back   ", ("y", "bold $key"), " launch")

    def on_mount(self) -> None:
        """The default never spends."""
        self.query_one("#back").focus()

    def on_key(self, event: events.Key) -> None:
        """`y` agrees, where that is enough."""
        if event.key == "y" and not self._typed:
            event.stop()
            self.dismiss(True)

    @on(Input.Changed)
    def _check(self, event: Input.Changed) -> None:
        try:
            right = abs(parse_money_usd(event.value) - round(self._worst_usd, 2)) < 0.005
        except UnitError:
            right = False
        launch = self.query_one("#launch", Button)
        launch.disabled = not right
        launch.refresh()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        launch = self.query_one("#launch", Button)
        if not launch.disabled:
            launch.focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Back or Launch."""
        self.dismiss(event.button_id == "launch")

    def action_answer(self, agreed: bool) -> None:
        """Back."""
        self.dismiss(agreed)


def confirm_lines(estimate: EstimateResult, option: Option) -> Iterable[Content]:
    """Price, time, cost, cap, what happens at the cap and when it fails."""
    goal, job, price = estimate.goal, estimate.job, option.price
    yield row(
        (resources_text(option.resources), "bold"),
        f", batch {batch_text(option.knobs)}",
        (f"   {place_text(option.resources)}", "$soft"),
    )
    yield Content()
    if price.source == "free":
        yield pair("price", "free", ("   the job file names no price", "$soft"))
    else:
        source = {"contract": "as the job file says"}.get(price.source, price.source)
        yield pair(
            "price",
            rate(price.usd_per_h),
            (f"   {source}; dearer is refused", "$soft"),
        )
    p_time = probability(option.p_deadline)
    wanted = f"   P(≤ {short_duration(goal.deadline_s)}) {p_time}" if goal.deadline_s else ""
    yield pair("time", time_interval(option.total_s).strip(), (wanted, "bold"))
    p_cost = probability(option.p_budget)
    cap = f"   P(≤ {format_money(goal.budget_usd)}) {p_cost}" if goal.budget_usd else ""
    yield pair("cost", money_interval(option.cost_usd).strip(), (cap, "bold"))
    yield pair(
        "memory",
        format_bytes(option.memory_bytes.p50),
        f"   P(out of memory) {probability(option.p_oom)}",
    )
    if goal.budget_usd is not None:
        yield pair("stops at", f"{format_money(goal.budget_usd)}", "  checkpoint, then release")
    else:
        yield pair("stops at", ("no cap is set", "bold $warn"))
    every = short_duration(job.checkpoint_interval_s)
    yield pair("failures", f"starts again {job.retries} times", f"  loses at most {every}")
    yield pair("controller", "guarded", ("  watches cap and deadline", "$soft"))
    if not option.feasible:
        reason = option.reasons[0].text if option.reasons else "it does not meet the goal"
        yield row(("! not feasible: ", "bold $bad"), reason)
