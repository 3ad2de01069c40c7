"""The app on real services and an empty state directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tui import Stage, press

from planner.services.live import LiveServices

pytestmark = pytest.mark.asyncio


async def test_real_services_answer_every_screen_of_the_app(tmp_path: Path) -> None:
    stage = Stage(LiveServices(tmp_path / "state"), job=None)
    async with stage.running() as pilot:
        text = stage.screen_text()
        assert "Python 3." in text
        for key in "123456":
            await press(pilot, key)
            text = stage.screen_text()
            assert "defect" not in text
            assert "!" not in text or key == "1"
