"""What every screen has: the lines above and below, service calls in threads, a pulse."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

from textual.app import ComposeResult
from textual.containers import Container
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Input

from planner.core.errors import PlannerError
from planner.tui.actions import ACTIONS, Action
from planner.tui.session import Session
from planner.tui.widgets.chrome import MIN_HEIGHT, MIN_WIDTH, KeyBar, TooSmall, TopBar

if TYPE_CHECKING:
    from planner.tui.app import PlannerApp

T = TypeVar("T")


class PlannerScreen(Screen[None]):
    """One of the six tabs.

    A screen reads `session` and draws; `paint` is called whenever something may have changed, and
    on every pulse while `PULSE_S` is set.
    """

    TAB: ClassVar[str] = ""
    FOOTER: ClassVar[tuple[str, ...]] = ()
    HOME: ClassVar[str] = ""
    PULSE_S: ClassVar[float | None] = None
    HORIZONTAL_BREAKPOINTS: list[tuple[int, str]] | None = [  # noqa: RUF012 - as Textual declares it
        (0, "-tiny"),
        (MIN_WIDTH, "-narrow"),
        (120, "-wide"),
    ]
    VERTICAL_BREAKPOINTS: list[tuple[int, str]] | None = [  # noqa: RUF012 - as Textual declares it
        (0, "-short"),
        (MIN_HEIGHT, "-enough"),
        (36, "-tall"),
    ]

    _pulse: Timer | None = None

    @property
    def planner(self) -> PlannerApp:
        """The app, by its own type."""
        return cast("PlannerApp", self.app)

    @property
    def session(self) -> Session:
        """What the screens share."""
        return self.planner.session

    @property
    def wide(self) -> bool:
        """Whether panes stand side by side."""
        return self.app.size.width >= 120

    @property
    def tall(self) -> bool:
        """Whether there is room for more than the essential."""
        return self.app.size.height >= 36

    @property
    def typing(self) -> bool:
        """Whether a person is typing: nothing is redrawn meanwhile."""
        return isinstance(self.focused, Input) and bool(self.focused.has_focus)

    # ---- parts -----------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Top bar, the screen's own panes, key bar."""
        yield TopBar(self.TAB)
        with Container(id="body"):
            yield from self.panes()
        yield KeyBar()
        yield TooSmall()

    def panes(self) -> ComposeResult:
        """The screen's own panes."""
        yield from ()

    def paint(self) -> None:
        """Bring the panes up to date with the session."""

    def arrive(self) -> None:
        """The screen was gone to, or came back: ask for what it needs."""

    def offers(self) -> tuple[tuple[str, str], ...]:
        """Footer: action names and words; a word of "" takes the action's own label."""
        return tuple((name, "") for name in self.FOOTER)

    def go_home(self) -> None:
        """Put the focus on the screen's first pane."""
        if self.HOME:
            self.query_one(self.HOME).focus()

    def do_back(self) -> None:
        """Leave a field, or whatever has the focus."""
        self.go_home()

    # ---- life ------------------------------------------------------------------------------

    def on_mount(self) -> None:
        """Focus the pane to be in, and start the pulse."""
        self.go_home()
        if self.PULSE_S is not None:
            self._pulse = self.set_interval(self.PULSE_S * self.planner.pace, self._beat)

    def on_screen_resume(self) -> None:
        """Draw what is known, then ask for the rest once that stands on the screen."""
        if self._pulse is not None:
            self._pulse.resume()
        self.repaint()
        self.call_after_refresh(self.arrive)

    def on_screen_suspend(self) -> None:
        """Do nothing while out of sight."""
        if self._pulse is not None:
            self._pulse.pause()

    def _beat(self) -> None:
        if not self.typing:
            self.beat()

    def beat(self) -> None:
        """Called at every pulse, unless a person is typing."""

    def repaint(self) -> None:
        """Draw panes and both lines."""
        if not self.is_mounted:
            return
        self.planner.paint_top_bar(self)
        self.paint()
        self.paint_keys()

    def paint_keys(self) -> None:
        """Bring the key bar up to date."""
        offered: list[tuple[Action, str]] = []
        for name, word in (*self.offers(), ("app.help", "")):
            action = ACTIONS[name]
            offered.append((action, word or action.label))
        self.query_one(KeyBar).offer(offered, self.session.keymap)

    def call(
        self,
        ask: Callable[[], T],
        then: Callable[[T], None],
        failed: Callable[[PlannerError], None] | None = None,
        *,
        group: str,
    ) -> None:
        """Ask a service in a thread; the answer comes back on the app's own thread."""
        self.planner.call_service(ask, then, failed, group=group, owner=self)
