"""Watching a run in a terminal: what is told of it, and from where its log is followed."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from support.fake_services import RUN_ID, FakeServices, view
from support.planning import NOW

from planner.cli.watch import Changes, Ending, Watcher, ignore
from planner.core.errors import UsageError
from planner.core.plan import Decision
from planner.core.types import RunState
from planner.services.api import LogLine, RunView


class Writing(FakeServices):
    """A long log, to which every look at the run adds a line."""

    def __init__(self) -> None:
        super().__init__()
        self.views = [view()]
        self.page_lines = 100
        self.lines = tuple(said(f"old line {n}") for n in range(1050))

    def view(self, run_id: str) -> RunView:
        self.lines = (*self.lines, said(f"new line {len(self.asked('view'))}"))
        return super().view(run_id)


def said(text: str) -> LogLine:
    return LogLine(source="train", rank=0, text=text)


def test_the_log_is_followed_from_where_it_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher(
        services=Writing(), run_id=RUN_ID, owner=False, interactive=False, show=ignore
    )
    keys = iter("l  d")
    monkeypatch.setattr("planner.cli.keys.reader", lambda **_: nullcontext(lambda _: next(keys)))
    ending = watcher.watch()
    assert ending is Ending.DETACHED
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("|")]
    assert lines == ["| new line 1", "| new line 2", "| new line 3"]


class EndsMeanwhile(FakeServices):
    """A run that comes to its end while its user is asked what to do."""

    def pause(self, run_id: str) -> None:
        self.views = [view(RunState.DONE)]
        raise UsageError(f"run {run_id} is done and cannot be paused")


def test_a_run_that_ends_while_one_is_asked_is_told_as_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    services = EndsMeanwhile()
    services.views = [view()]

    def interrupted(_: float) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("planner.cli.keys.reader", lambda **_: nullcontext(interrupted))
    monkeypatch.setattr("planner.cli.keys.cooked", nullcontext)
    monkeypatch.setattr("planner.cli.diagnostics.ask", lambda _: "s")
    seen: list[RunView] = []
    watcher = Watcher(
        services=services, run_id=RUN_ID, owner=True, interactive=True, show=seen.append
    )
    assert watcher.watch() is Ending.RESTED
    assert seen[-1].summary.state is RunState.DONE


def told(*decisions: tuple[str, str], ended: str | None = None) -> list[str]:
    """What is said of decisions, each seen in a look of its own; with the last one it has ended."""
    changes, lines, made = Changes(), [], []
    for number, (action, why) in enumerate(decisions):
        made.append(Decision(id=f"d{number}", at=NOW, action=action, why=why, mode="auto"))
        over = ended is not None and number == len(decisions) - 1
        state = RunState.FAILED if over else RunState.RUNNING
        seen = view(state, decisions=tuple(made), warnings=(), reason=ended if over else None)
        lines += [line.split("  ", 1)[1] for line in changes.news(seen)]
    return lines


def test_what_a_person_asked_for_is_told_each_time() -> None:
    lines = told(("extend: deadline +1h", "asked for"), ("extend: deadline +2h", "asked for"))
    assert lines == ["extend: deadline +1h: asked for", "extend: deadline +2h: asked for"]


@pytest.mark.parametrize("ended", [None, "exit code 1; no torch"])
def test_the_reason_of_a_failure_is_told_once_and_that_retries_ran_out_too(
    ended: str | None,
) -> None:
    why = "exit code 1; no torch"
    lines = told(
        ("start again from step 0", why),
        ("start again from step 20", why),
        ("give up", f"{why}; 2 retries are used up"),
        ended=ended,
    )
    assert lines == [
        f"start again from step 0: {why}",
        "start again from step 20: as before",
        "give up: 2 retries are used up",
    ]


def test_another_reason_that_begins_alike_is_told_in_full() -> None:
    lines = told(("start again", "exit code 1"), ("start again", "exit code 12"))
    assert lines == ["start again: exit code 1", "start again: exit code 12"]


def test_giving_up_at_the_first_failure_leaves_its_reason_to_the_end() -> None:
    assert told(("give up", "no torch; 0 retries are used up"), ended="no torch") == [
        "give up: 0 retries are used up"
    ]
