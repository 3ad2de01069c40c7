"""The app: six screens over one session, and what is the same on all of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.filter import LineFilter
from textual.screen import Screen

from planner.core.clock import Clock, SystemClock
from planner.core.errors import PlannerError
from planner.core.job import Goal, JobSpec
from planner.core.units import format_bytes
from planner.services.api import Services
from planner.tui import estimating
from planner.tui.actions import ACTIONS, TABS, Action, bindings_of
from planner.tui.ascii import AsciiFilter
from planner.tui.keymap import read_keymap
from planner.tui.screens.base import PlannerScreen
from planner.tui.session import Session
from planner.tui.themes import DEFAULT_THEME, THEMES, variable_defaults
from planner.tui.widgets.chrome import TopBar

if TYPE_CHECKING:
    from textual.command import Provider

T = TypeVar("T")

EXIT_AFTER_FIRST_FRAME = "PLANNER_TUI_EXIT_AFTER_FIRST_FRAME"
"""Set to 1, the app leaves once its first screen stands: for benchmarks of starting up."""


def _screen(tab: str) -> Screen[None]:
    """A tab's screen. Imported when first gone to: the first frame needs only one of them."""
    from importlib import import_module

    module = import_module(f"planner.tui.screens.{tab}")
    screen: Screen[None] = getattr(module, f"{tab.capitalize()}Screen")()
    return screen


def _palette() -> type[Provider]:
    from planner.tui.palette import PlannerCommands

    return PlannerCommands


class PlannerApp(App[None]):
    """The terminal app.

    Attributes:
        pace: Factor on every waiting time of the screens; tests make it small.
    """

    TITLE = "planner"
    CSS_PATH = "planner.tcss"
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        tab: partial(_screen, tab) for tab in TABS
    }
    DEFAULT_MODE = "job"
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings_of("app"),
        Binding("ctrl+c", "app.do('app.quit')", show=False),
    ]
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {_palette}
    COMMAND_PALETTE_BINDING = "f30"  # bound through the registry instead
    NOTIFICATION_TIMEOUT = 5

    def __init__(self, session: Session, *, ascii: bool = False, theme: str | None = None) -> None:
        self._ascii = [AsciiFilter()] if ascii else []
        self._wanted_theme = theme or DEFAULT_THEME
        self._variables: dict[str, str] = {}
        self.session = session
        self.pace = 1.0
        self.farewell: list[str] = []
        super().__init__()
        self._put_on_theme()

    # ---- start -----------------------------------------------------------------------------

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """What our names for colours mean in a theme that does not know them."""
        return variable_defaults(self.current_theme)

    def get_line_filters(self) -> list[LineFilter]:
        """Textual's own, and the one that leaves only ASCII."""
        return [*super().get_line_filters(), *self._ascii]

    def _put_on_theme(self) -> None:
        """Take the theme before any style is parsed: parsing twice would double the start."""
        for theme in THEMES:
            self.register_theme(theme)
        known = self._wanted_theme in self.available_themes
        self.set_reactive(App.theme, self._wanted_theme if known else DEFAULT_THEME)
        self._variables = self.get_css_variables()
        self.stylesheet.set_variables(self._variables)

    def refresh_css(self, animate: bool = True) -> None:
        """Parse the styles again only when a colour has changed.

        Textual also asks for it at the start and at the first visit of each tab, where nothing
        but the styles of new widgets is missing, and those are parsed as they come.
        """
        variables = self.get_css_variables()
        if variables == self._variables:
            self.stylesheet.update(self, animate=animate)
        else:
            self._variables = variables
            super().refresh_css(animate=animate)

    def on_mount(self) -> None:
        """Say what is wrong with the settings, and go to the run that was asked for."""
        if self._wanted_theme not in self.available_themes:
            text = f'There is no theme "{self._wanted_theme}". Press : and type "theme".'
            self.notify(text, severity="warning")
        self.set_keymap(dict(self.session.keymap.changed))
        for problem in self.session.keymap.problems:
            self.notify(problem, title="keymap", severity="warning")
        if self.session.run_id:
            self.switch_mode("runs")
        if os.environ.get(EXIT_AFTER_FIRST_FRAME) == "1":
            self.call_after_refresh(self._after_first_frame)

    def _after_first_frame(self) -> None:
        self.screen.call_after_refresh(self.exit)

    # ---- services --------------------------------------------------------------------------

    def call_service(
        self,
        ask: Callable[[], T],
        then: Callable[[T], None],
        failed: Callable[[PlannerError], None] | None = None,
        *,
        group: str,
        owner: DOMNode | None = None,
    ) -> None:
        """Call a service in a thread. An error becomes a message or `failed`, never a crash."""

        def work() -> None:
            try:
                answer = ask()
            except PlannerError as error:
                self._answer(partial(failed or self.show_error, error))
            except Exception as error:  # a defect must not take the screen down with it
                self._answer(partial(failed or self.show_error, _defect(error)))
            else:
                self._answer(partial(then, answer))

        node = owner if owner is not None else self
        node.run_worker(work, thread=True, group=group, exit_on_error=False)

    def _answer(self, callback: Callable[[], None]) -> None:
        if self.is_running:
            self.call_from_thread(callback)

    def show_error(self, error: PlannerError) -> None:
        """An error as a message: what happened, and what to do."""
        text = error.text + (f"\n{error.hint}" if error.hint else "")
        self.notify(text, title="error", severity="error", timeout=20, markup=False)

    def start_estimate(self, *, probe: bool) -> None:
        """Probe (or not), predict and score; Probes shows how it goes."""
        estimating.start_estimate(self, probe=probe)

    def stop_estimate(self) -> None:
        """Stop probing, with what there is."""
        estimating.stop_estimate(self)

    def set_goal(self, goal: Goal) -> None:
        """Another goal: score again what there is."""
        estimating.set_goal(self, goal)

    # ---- actions ---------------------------------------------------------------------------

    def action_do(self, name: str) -> None:
        """Carry out an action of the registry."""
        action = ACTIONS[name]
        if action.changes and self.session.read_only:
            self._refuse(action)
            return
        method = f"do_{action.verb}"
        owners = (self.screen.focused, self.screen, self)
        handler: Any = next((h for o in owners if (h := getattr(o, method, None))), None)
        if handler is not None:
            handler()

    def _refuse(self, action: Action) -> None:
        self.notify(
            f"{action.label} changes something, and this session is read-only. "
            "ctrl+t switches that off.",
            title="read-only",
            severity="warning",
        )

    def go(self, tab: str) -> None:
        """Show a tab."""
        if len(self.screen_stack) > 1:
            return
        self.switch_mode(tab)

    def open_option(self, option_id: str) -> None:
        """Show an option."""
        self.session.option_id = option_id
        self.go("options")

    def open_run(self, run_id: str) -> None:
        """Show a run."""
        self.session.run_id = run_id
        self.go("runs")

    def do_job(self) -> None:
        """Go to Job."""
        self.go("job")

    def do_probes(self) -> None:
        """Go to Probes."""
        self.go("probes")

    def do_options(self) -> None:
        """Go to Options."""
        self.go("options")

    def do_runs(self) -> None:
        """Go to Runs."""
        self.go("runs")

    def do_decisions(self) -> None:
        """Go to Decisions."""
        self.go("decisions")

    def do_history(self) -> None:
        """Go to History."""
        self.go("history")

    def do_palette(self) -> None:
        """Open the palette."""
        self.action_command_palette()

    def do_help(self) -> None:
        """Open the help overlay for the active screen."""
        from planner.tui.screens.help import HelpScreen

        tab = self.screen.TAB if isinstance(self.screen, PlannerScreen) else "app"
        bound = {b.binding.id for b in self.screen.active_bindings.values() if b.binding.id}
        self.push_screen(HelpScreen(tab, self.session.keymap, bound))

    def do_jump(self) -> None:
        """Label the panes, and go to the one whose letter is pressed."""
        from planner.tui.screens.jump import JumpScreen, targets

        letters = targets(self.screen)

        def jump(letter: str | None) -> None:
            if letter:
                letters[letter].focus()

        self.push_screen(JumpScreen(letters), jump)

    def do_refresh(self) -> None:
        """Ask again for what the active screen shows."""
        if isinstance(self.screen, PlannerScreen):
            self.screen.arrive()

    def do_copy(self) -> None:
        """Copy the estimate as JSON, on screens that have no document of their own."""
        estimate = self.session.shown
        if estimate is None:
            self.notify("There is nothing to copy yet.")
            return
        from planner.wire.to_wire import estimate_document

        self.copy_document(estimate_document(estimate))

    def copy_document(self, document: Mapping[str, Any]) -> None:
        """Put a document on the clipboard, by way of the terminal (OSC 52)."""
        text = json.dumps(document, indent=2, ensure_ascii=False)
        self.copy_to_clipboard(text)
        self.notify(f"Copied {document.get('schema', 'JSON')}, {format_bytes(len(text))}.")

    def do_read_only(self) -> None:
        """Switch read-only on or off."""
        self.session.read_only = not self.session.read_only
        word = "on: nothing is started or stopped" if self.session.read_only else "off"
        self.notify(f"Read-only is {word}.")
        self.changed()

    def do_quit(self) -> None:
        """Leave. Probes would end with the app, so ask before; runs go on."""
        from planner.tui.screens.leave import leave

        leave(self)

    # ---- drawing ---------------------------------------------------------------------------

    def changed(self) -> None:
        """Something that screens show has changed."""
        if isinstance(self.screen, PlannerScreen):
            self.screen.repaint()

    def paint_top_bar(self, screen: PlannerScreen) -> None:
        """Say at the top what kind of session this is."""
        kind = ("demo", "$key") if self.session.demo else ("live", "$soft")
        read_only = (("READ-ONLY", "bold reverse $warn"),) if self.session.read_only else ()
        screen.query_one(TopBar).set_chips(kind, *read_only)


def _defect(error: Exception) -> PlannerError:
    return PlannerError(
        f"planner has a defect: {type(error).__name__}: {error}",
        hint="Runs are not touched by it. Please report it with the steps that led here.",
    )


def run_app(
    services: Services,
    *,
    job: JobSpec | None,
    job_path: Path | None,
    read_only: bool = False,
    ascii: bool = False,
    theme: str | None = None,
    keymap: Mapping[str, str] | None = None,
    demo: bool = False,
    confirm_above_usd: float = 10.0,
    run_id: str | None = None,
    clock: Clock | None = None,
    goal: Goal | None = None,
) -> None:
    """Run the app until the person leaves it.

    Args:
        services: What answers; live or demo.
        job: The job of the form; None shows how to make one.
        job_path: Where it came from, for titles.
        read_only: Refuse everything that starts, stops or spends.
        ascii: Draw with ASCII only.
        theme: One of `planner.tui.themes` or of Textual; None takes `planner-dark`.
        keymap: Action names to keys, comma separated.
        demo: Whether `services` plays a recording, which is said at the top.
        confirm_above_usd: Worst case from which on a launch needs its cap typed.
        run_id: Open this run at once.
        clock: What time it is.
        goal: What the form starts with; None takes the job's own.
    """
    session = Session(
        services=services,
        job=job,
        job_path=job_path,
        read_only=read_only,
        demo=demo,
        confirm_above_usd=confirm_above_usd,
        keymap=read_keymap(keymap),
        run_id=run_id,
        clock=clock or SystemClock(),
    )
    session.goal = goal or session.goal
    app = PlannerApp(session, ascii=ascii, theme=theme)
    app.run()
    for line in app.farewell:
        print(line, file=sys.stderr)
