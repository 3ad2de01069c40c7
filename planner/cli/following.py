"""Watch a run in the way its output asks for, and print what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable

from planner.cli import diagnostics, render
from planner.cli.runtext import last_line, live_line, resumed_from
from planner.cli.watch import Ending, LiveLine, PlainLines, Watcher, exit_code, ignore
from planner.core.errors import ExitCode
from planner.services.api import RunView, Services


def follow(services: Services, run_id: str, *, owner: bool, json: bool, ndjson: bool) -> int:
    """Watch until the run rests or the viewer leaves; the exit code of `planner run`."""
    interactive = sys.stdin.isatty() and diagnostics.is_terminal() and not (json or ndjson)
    events = EventLines(services, run_id) if ndjson else None
    watcher = Watcher(
        services=services,
        run_id=run_id,
        owner=owner,
        interactive=interactive,
        show=_shower(json=json, events=events),
    )
    ending = watcher.watch()
    view = services.view(run_id)
    if events is not None:
        events(view)
    elif json:
        print_view(view, json=True)
    elif ending is not Ending.DETACHED:
        render.text(last_line(view))
    return _told(services, view, ending)


def print_view(view: RunView, *, json: bool, said: str | None = None) -> None:
    """Print a run: its document, or a line; `said` is what was done, when it is left alone now."""
    if json:
        from planner.wire.to_wire import run_document

        render.document(run_document(view))
    elif said is not None:
        render.text(f"{view.summary.id} {said}: planner attach {view.summary.id}")
    else:
        render.text(live_line(view))


class EventLines:
    """Prints the run's events as `planner.event/1` lines, each once."""

    def __init__(self, services: Services, run_id: str) -> None:
        self._services = services
        self._run_id = run_id
        self._seq = -1

    def __call__(self, _view: RunView) -> None:
        """Print what is new."""
        from planner.wire.to_wire import event_document

        for event in self._services.events(self._run_id, self._seq):
            self._seq = event.seq
            render.json_line(event_document(event))


def _shower(*, json: bool, events: EventLines | None) -> Callable[[RunView], None]:
    if events is not None:
        return events
    if json:
        return ignore
    if render.is_terminal() and diagnostics.is_terminal():
        return LiveLine()
    return PlainLines()


def _told(services: Services, view: RunView, ending: Ending) -> int:
    """The exit code, with its reason on standard error."""
    run = view.summary
    code = exit_code(view, ending)
    if ending is Ending.ORPHANED:
        diagnostics.tell_text(
            f"the supervisor of {run.id} is gone", f"planner resume {run.id} adopts the run"
        )
    elif code in (ExitCode.RUN_FAILED, ExitCode.BUDGET_STOP) and run.reason:
        diagnostics.tell_text(
            f"{run.id}: {run.reason}",
            f"planner logs {run.id}; planner resume {run.id} goes on {resumed_from(view)}",
        )
    elif code == ExitCode.LATE:
        diagnostics.tell_text(f"{run.id} finished after its deadline")
    leaked = _leaks(services, run.id) if ending is Ending.RESTED else []
    if leaked:
        diagnostics.tell_text(
            f"something of {run.id} may still be running: {'; '.join(leaked)}",
            "planner clean --leaked --yes removes it",
        )
        return int(ExitCode.CLEANUP)
    return code


def _leaks(services: Services, run_id: str) -> list[str]:
    """What could not be released, and was not released later either."""
    left: dict[str, str] = {}
    for event in services.events(run_id):
        key = str(event.data.get("key", ""))
        if event.type == "resource.leaked":
            left[key] = str(event.data.get("text", key))
        elif event.type == "resource.released":
            left.pop(key, None)
    return list(left.values())
