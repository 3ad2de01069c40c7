"""What to change in a running job, and what that would do, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast, get_args

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.timer import Timer
from textual.widgets import Input, Static

from planner.core.adjust import LEVERS, Expectation, LrRule, Wish, parse_wish, planned
from planner.core.errors import PlannerError
from planner.services.api import RunView
from planner.tui.text import fit, row
from planner.tui.widgets.button import Button
from planner.tui.widgets.change_text import expectation_lines, levers_in_force
from planner.tui.widgets.pane import Pane
from planner.tui.widgets.slider import Choice

if TYPE_CHECKING:
    from planner.tui.app import PlannerApp

Ask = Callable[[Wish], Expectation]

ASK_AFTER_S = 0.4
"""Time without a key after which it is asked what the change would do."""
_NAME, _NOW = 21, 27
_EXAMPLES = {
    "workers": "such as 2",
    "micro_batch": "such as 64",
    "loader_workers": "such as 4",
    "memory": "low or normal",
    "move": "such as local:other",
    "checkpoint_interval": "such as 5m, or auto",
    "global_batch": "such as 512",
}
_IN_FLIGHT, _RELAUNCH = "in flight where it can be", "by relaunch"
_KEPT, _MAY_CHANGE = "kept", "may change"


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """What is to be asked for, and what was shown of it."""

    wish: Wish
    expected: Expectation


class OverrideScreen(ModalScreen[Override]):
    """A field for each lever, with what is in force; below it what the change would do.

    It sends nothing. What is typed is tried out with the services in a thread, and can only be
    gone on with once the answer to exactly that stands on the screen.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", show=False),
        Binding("up", "app.focus_previous", show=False),
        Binding("down", "app.focus_next", show=False),
    ]
    VERTICAL_BREAKPOINTS: list[tuple[int, str]] | None = [  # noqa: RUF012 - as Textual declares it
        (0, "-low"),
        (36, "-tall"),
    ]

    def __init__(self, view: RunView, ask: Ask, note: str = "nothing has changed yet") -> None:
        """Args: `ask` tells what is to be expected of a wish, and is called in a thread."""
        super().__init__()
        self._view, self._ask_services, self._note = view, ask, note
        self._wish: Wish | None = None
        self._told: Override | None = None
        self._busy = self._hurry = False
        self._timer: Timer | None = None

    # ---- parts -----------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Levers, how it may be done, what it would do, Back and the one that goes on."""
        now = self._view.in_force or planned(self._view.plan)
        standing = levers_in_force(now, len(self._view.crew))
        with Vertical(classes="box") as box:
            box.border_title = Content.styled(f"Override {self._view.summary.id}", "bold")
            box.border_subtitle = Content.styled(self._note, "$soft")
            head = f"{'lever':<{_NAME}}{'in force':<{_NOW}}new value"
            yield Static(Content.styled(head, "$soft"))
            for lever in LEVERS:
                with Horizontal(classes="field"):
                    value = (fit(standing[lever], _NOW - 2) + "  ", "bold")
                    yield Static(row((lever.ljust(_NAME), "$soft"), value))
                    yield Input(id=lever, placeholder=_EXAMPLES[lever])
            with Horizontal(classes="field"):
                yield Choice((_KEPT, _MAY_CHANGE), _KEPT, label="maths", id="maths")
                yield Choice(get_args(LrRule), "linear", label="lr_rule", id="lr-rule")
            yield Choice((_IN_FLIGHT, _RELAUNCH), _IN_FLIGHT, label="how", id="how")
            yield Pane("what it would do", id="expected")
            with Horizontal(classes="buttons"):
                yield Button("Back", "back")
                yield Button("Change it", "change", disabled=True)
                yield Static(id="next", classes="hint")

    def on_mount(self) -> None:
        """Typing can begin at once."""
        self._read()
        self.query(Input).first().focus()

    # ---- what is typed -----------------------------------------------------------------------

    @on(Input.Changed)
    @on(Choice.Changed)
    def _read(self) -> None:
        """Take in what stands in the fields, and ask about it once nothing more is typed."""
        pairs = [f"{f.id}={f.value.strip()}" for f in self.query(Input) if f.value.strip()]
        pane, self._hurry = self.query_one("#expected", Pane), False
        try:
            self._wish = self._wanted(pairs) if pairs else None
        except PlannerError as error:
            self._wish = None
            pane.fail(error)
        else:
            if self._wish is None:
                hint = "enter asks at once. Nothing is sent before you say so."
                pane.say("empty", "Type a new value: what it would do stands here then.", hint)
            elif not self._answered:
                pane.say("loading", "Finding out what it would do.")
                self._ask_soon()
            else:
                self._show_answer()
        self._offer()

    def _wanted(self, pairs: list[str]) -> Wish:
        """The wish in the fields. Raises `PlannerError`."""
        return parse_wish(
            pairs,
            allow_maths=self.query_one("#maths", Choice).value == _MAY_CHANGE,
            lr_rule=self.query_one("#lr-rule", Choice).value,
            relaunch=self.query_one("#how", Choice).value == _RELAUNCH,
        )

    @property
    def _answered(self) -> bool:
        """Whether it is known what exactly this wish would do."""
        return self._told is not None and self._told.wish == self._wish

    @property
    def _ready(self) -> bool:
        """Whether it can be gone on with."""
        return self._answered and self._told is not None and self._told.expected.how != "nothing"

    # ---- what it would do ----------------------------------------------------------------------

    def _ask_soon(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        planner = cast("PlannerApp", self.app)
        self._timer = self.set_timer(ASK_AFTER_S * planner.pace, self._ask)

    def _ask(self) -> None:
        """Ask what the wish would do, unless an answer is still awaited."""
        wish = self._wish
        if wish is None or self._busy or self._answered:
            return
        self._busy = True
        cast("PlannerApp", self.app).call_service(
            partial(self._ask_services, wish),
            partial(self._take, wish),
            partial(self._refused, wish),
            group="expect",
            owner=self,
        )

    def _take(self, wish: Wish, expected: Expectation) -> None:
        self._busy = False
        if not self.is_attached:
            return
        if wish != self._wish:
            self._ask()
            return
        self._told = Override(wish=wish, expected=expected)
        self._show_answer()
        self._offer()
        if self._hurry and self._ready:
            self.query_one("#change", Button).focus()

    def _refused(self, wish: Wish, error: PlannerError) -> None:
        self._busy = False
        if not self.is_attached:
            return
        if wish != self._wish:
            self._ask()
            return
        self._told = None
        self.query_one("#expected", Pane).fail(in_words_of_the_app(error))

    def _show_answer(self) -> None:
        if self._told is not None:
            expected = self._told.expected
            pane = self.query_one("#expected", Pane)
            pane.draw(lambda width, _: expectation_lines(expected, width))

    def _offer(self) -> None:
        """Open or shut the button, and say what it will do."""
        button = self.query_one("#change", Button)
        button.disabled = not self._ready
        button.refresh()
        asks = self._ready and self._told is not None and asked_again(self._told.expected)
        self.query_one("#next", Static).update(asks or "")

    # ---- answers -------------------------------------------------------------------------------

    @on(Input.Submitted)
    def _submitted(self) -> None:
        """Ask at once; where the answer is there, go to the button."""
        if self._ready:
            self.query_one("#change", Button).focus()
            return
        self._hurry = True
        self._ask()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Back, or on with what was shown."""
        self.dismiss(self._told if event.button_id == "change" and self._ready else None)


def asked_again(expected: Expectation) -> str:
    """Why it is asked once more before the change is sent; empty where it is not."""
    if expected.dearer:
        return "asks again: it costs more"
    return f"asks again: {', '.join(expected.asks)}" if expected.asks else ""


_HINTS = {
    "--allow-maths": "let maths change, below the fields; lr_rule says how the rate follows",
    "--relaunch": "by relaunch, below the fields, does so all the same",
    "planner extend": "esc, then + raises the cap",
}


def in_words_of_the_app(error: PlannerError) -> PlannerError:
    """The error with a hint that can be followed here, where it names the command line."""
    for words, hint in _HINTS.items():
        if words in (error.hint or ""):
            return PlannerError(error.text, hint=hint)
    return error
