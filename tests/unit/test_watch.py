"""Watching a run in a terminal: what is told of it, and from where its log is followed."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from support.fake_services import RUN_ID, FakeServices, view

from planner.cli.watch import Ending, Watcher, ignore
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
