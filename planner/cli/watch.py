"""Looking at a run until it rests. Looking never affects it; asking it to stop is a choice."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from planner.cli import diagnostics, keys, render
from planner.cli.runtext import RESTING, live_line
from planner.core.errors import ExitCode, UsageError
from planner.core.plan import Decision
from planner.core.types import RunState
from planner.services.api import RunView, Services

LOOK_S = 0.5
SETTLE_S = 60.0
"""How long a run may take to come to rest after it was asked to."""
ORPHAN_S = 15.0
"""How long a supervisor may be gone before the viewer says so and leaves."""
SECOND_S = 3.0
"""Two Ctrl-C within so many seconds mean stop, as in the question."""

_HELP = "d detach   s stop and keep the checkpoint   k checkpoint now   l log on or off   ? keys"


_ON_FAILURE = ("start again", "give up", "kill")
"""How the decisions begin that are about a failure: several of them may give the same reason."""


class Ending(Enum):
    """Why watching ended."""

    RESTED = "rested"
    DETACHED = "detached"
    ORPHANED = "orphaned"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"


@dataclass(slots=True)
class Watcher:
    """One viewer of one run.

    Attributes:
        services: The application.
        run_id: The run.
        owner: Whether an interrupt may stop the run: true for `planner run`, false for `attach`.
        interactive: Whether a person sits there who can be asked.
        show: Called with every new view.
        look_s: Between two looks.
    """

    services: Services
    run_id: str
    owner: bool
    interactive: bool
    show: Callable[[RunView], None]
    look_s: float = LOOK_S
    _log: dict[str, int] | None = None
    _gone_since_s: float | None = None
    _keeps: bool = True
    _interrupts: list[float] = field(default_factory=list)

    def watch(self) -> Ending:
        """Look until the run rests, its supervisor is gone, or the viewer leaves."""
        with keys.reader(active=self.interactive) as read_key:
            while True:
                try:
                    ending = self._look(read_key)
                except KeyboardInterrupt:
                    ending = self._interrupted()
                except diagnostics.Terminated:
                    ending = Ending.TERMINATED
                    if self.owner and not self.interactive:
                        self._stop(ending)
                if ending is not None:
                    diagnostics.status("")
                    return ending

    def _look(self, read_key: Callable[[float], str]) -> Ending | None:
        view = self.services.view(self.run_id)
        self._keeps = view.keeps_progress
        self._follow_log()
        self.show(view)
        if view.summary.state in RESTING:
            return Ending.RESTED
        if self._orphaned(view):
            return Ending.ORPHANED
        return self._pressed(read_key(self.look_s))

    def _orphaned(self, view: RunView) -> bool:
        if view.summary.supervisor_alive:
            self._gone_since_s = None
            return False
        now_s = time.monotonic()
        if self._gone_since_s is None:
            self._gone_since_s = now_s
        return now_s - self._gone_since_s >= ORPHAN_S

    # ---- keys ----------------------------------------------------------------------------------

    def _pressed(self, key: str) -> Ending | None:
        if key == "d":
            return self._detach()
        if key == "l":
            self._log = None if self._log is not None else dict(self._logs_until_now())
        elif key == "?":
            diagnostics.say(_HELP)
        elif key == "k" and self.owner:
            self.services.checkpoint(self.run_id)
            diagnostics.say("asked for a checkpoint")
        elif key == "s" and self.owner and self._agreed(f"{self._how_to_stop()}, release all?"):
            return self._stop(Ending.INTERRUPTED)
        return None

    def _how_to_stop(self) -> str:
        """What a stop would do, as it is asked for."""
        if self._keeps:
            return "stop with a checkpoint"
        return "stop without a checkpoint, losing all it did"

    def _agreed(self, question: str) -> bool:
        with keys.cooked():
            return diagnostics.ask(f"{question} [y/N] ").lower() == "y"

    def _logs_until_now(self) -> dict[str, int]:
        page = self.services.logs(self.run_id)
        while page.more:
            page = self.services.logs(self.run_id, page.cursor)
        return dict(page.cursor)

    def _follow_log(self) -> None:
        if self._log is None:
            return
        page = self.services.logs(self.run_id, self._log)
        self._log = dict(page.cursor)
        for line in page.lines:
            diagnostics.say(f"| {line.text}")

    # ---- leaving -------------------------------------------------------------------------------

    def _interrupted(self) -> Ending | None:
        """Ctrl-C: ask first; a second within 3 s stops; without a terminal stop at once."""
        if not self.owner:
            return self._detach()
        if not self.interactive:
            return self._stop(Ending.INTERRUPTED)
        now_s = time.monotonic()
        self._interrupts = [at for at in self._interrupts if now_s - at <= SECOND_S] + [now_s]
        if len(self._interrupts) > 1:
            return self._stop(Ending.INTERRUPTED)
        try:
            with keys.cooked():
                answer = diagnostics.ask(self._question()).lower()
        except KeyboardInterrupt:
            return self._stop(Ending.INTERRUPTED)
        if answer.startswith("s"):
            return self._stop(Ending.INTERRUPTED)
        return None if answer.startswith("c") else self._detach()

    def _question(self) -> str:
        from planner.core.units import format_money

        rate = format_money(self.services.view(self.run_id).usd_per_h)
        return (
            f"\n[d]etach (goes on, {rate}/h), [s]{self._how_to_stop()[1:]}, or [c]ontinue"
            " watching? [d] "
        )

    def _detach(self) -> Ending:
        diagnostics.status("")
        diagnostics.say(f"{self.run_id} goes on: planner attach {self.run_id}")
        return Ending.DETACHED

    def _stop(self, ending: Ending) -> Ending | None:
        """Checkpoint and release, and wait for it. A third interrupt ends only the viewer.

        None where the run came to its end by itself, which is then told as any other.
        """
        how = "with" if self._keeps else "without"
        diagnostics.say(f"stopping {self.run_id} {how} a checkpoint ...")
        try:
            self.services.pause(self.run_id)
            view = settle(self.services, self.run_id)
        except KeyboardInterrupt:
            diagnostics.say(f"left while it stops: planner status {self.run_id}")
            return ending
        except UsageError:
            if self.services.view(self.run_id).summary.state in RESTING:
                return None
            raise
        if view.summary.state is RunState.PAUSED:
            diagnostics.say(_released(view))
        return ending


def _released(view: RunView) -> str:
    """What a stop has left."""
    run_id = view.summary.id
    if view.last_checkpoint_at is None:
        return f"all released, no checkpoint: planner resume {run_id} starts from the beginning"
    return f"checkpoint kept, all released: planner resume {run_id} goes on"


def settle(services: Services, run_id: str, timeout_s: float = SETTLE_S) -> RunView:
    """Wait until a run rests, or for `timeout_s`; its last view."""
    end_s = time.monotonic() + timeout_s
    while True:
        view = services.view(run_id)
        if view.summary.state in RESTING or time.monotonic() >= end_s:
            return view
        time.sleep(LOOK_S)


def exit_code(view: RunView, ending: Ending) -> int:
    """The exit code of `planner run` for how a run, and watching it, ended."""
    if ending is Ending.DETACHED:
        return int(ExitCode.OK)
    if ending is Ending.INTERRUPTED:
        return int(ExitCode.INTERRUPT)
    if ending is Ending.TERMINATED:
        return int(ExitCode.TERM)
    if ending is Ending.ORPHANED:
        return int(ExitCode.ENVIRONMENT)
    codes = {
        RunState.FAILED: ExitCode.RUN_FAILED,
        RunState.STOPPED_BY_CAP: ExitCode.BUDGET_STOP,
        RunState.CANCELLED: ExitCode.INTERRUPT,
    }
    code = codes.get(view.summary.state, ExitCode.OK)
    if code is ExitCode.OK and view.summary.late:
        code = ExitCode.LATE
    return int(code)


class LiveLine:
    """Shows views on the status line of a terminal, and what happened above it."""

    def __init__(self) -> None:
        self._seen = Changes()

    def __call__(self, view: RunView) -> None:
        """Show one view."""
        for text in self._seen.news(view):
            diagnostics.say(text)
        diagnostics.status(f"[?] {live_line(view)}")


class PlainLines:
    """Prints a line on stdout whenever something changed: a state, an epoch, a decision."""

    def __init__(self) -> None:
        self._seen = Changes()
        self._at: tuple[RunState, int] | None = None

    def __call__(self, view: RunView) -> None:
        """Show one view."""
        for text in self._seen.news(view):
            render.text(text)
        at = (view.summary.state, view.epoch)
        if at != self._at:
            self._at = at
            render.text(live_line(view))


class Changes:
    """What is new since the last view."""

    def __init__(self) -> None:
        self._decisions = 0
        self._warnings = 0
        self._reasons: set[str] = set()

    def news(self, view: RunView) -> list[str]:
        """Decisions and warnings not told yet; not why it ended, which is told when it has."""
        reason = view.summary.reason if view.summary.state in RESTING else None
        new = [(one, self._why(one, reason)) for one in view.decisions[self._decisions :]]
        lines = [f"{one.at:%H:%M:%S}  {one.action}: {why}" for one, why in new if why]
        lines += [f"warning: {text}" for text in view.warnings[self._warnings :]]
        self._decisions, self._warnings = len(view.decisions), len(view.warnings)
        return lines

    def _why(self, decision: Decision, ending: str | None) -> str:
        """Why, less the reason of a failure that was told before; empty when all of it will be.

        `ending` is why the run ended, which is told once all else is.
        """
        why = decision.why
        if not decision.action.startswith(_ON_FAILURE):
            return why
        if ending and _gives(why, ending):
            return why.removeprefix(ending).removeprefix("; ")
        told = max((one for one in self._reasons if _gives(why, one)), key=len, default="")
        self._reasons.add(why)
        return why.removeprefix(told).removeprefix("; ") or "as before"


def _gives(why: str, reason: str) -> bool:
    """Whether that is the reason given, alone or before something else."""
    return why == reason or why.startswith(f"{reason}; ")


def ignore(_view: RunView) -> None:
    """Show nothing."""
