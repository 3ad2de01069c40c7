"""The app on a clock that stands still, in one time zone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from support.tui import Stage


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def _keys_do_not_wait_for_an_idle_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Textual waits for that after each key, up to two seconds where any thread is at work."""

    async def a_moment(_least_s: float = 0.0) -> None:
        await asyncio.sleep(0.01)

    monkeypatch.setattr("textual.app.wait_for_idle", a_moment)


@pytest.fixture(autouse=True)
def _cursors_do_not_blink(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture taken half a second later would show the field without its cursor."""
    monkeypatch.setattr("textual.widgets.Input._toggle_cursor", lambda _: None)


@pytest.fixture
def stage() -> Stage:
    """An app on the sample recording, and what a test needs to drive it."""
    return Stage()
