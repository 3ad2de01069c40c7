"""The app on a clock that stands still, in one time zone."""

from __future__ import annotations

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


@pytest.fixture
def stage() -> Stage:
    """An app on the sample recording, and what a test needs to drive it."""
    return Stage()
