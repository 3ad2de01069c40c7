"""Pictures of every screen, from the demo: `python -m planner.tui.screenshots docs/screens`.

The app runs without a terminal on a clock that is told the time, so that the same recording always
gives the same pictures.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from textual.pilot import Pilot

from planner.core.clock import ManualClock
from planner.services.demo import RUN_TAKES_S, DemoServices
from planner.tui.app import PlannerApp
from planner.tui.session import Session

SIZES = ((80, 24), (120, 40))
NOW = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)

SHOTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("1-job", ()),
    ("2-probes", ("enter",)),
    ("3-options", ("enter",)),
    ("3-what-if", ("x", "shift+left", "shift+left")),
    ("3-confirm", ("escape", "L")),
    ("4-run", ("y", "@0.6", "r")),
    ("4-override", ("o", "2", "enter")),
    ("5-decisions", ("escape", "5")),
    ("4-done", ("4", "@1", "r")),
    ("6-history", ("6", "space", "space", "c")),
    ("help", ("3", "question_mark")),
)
"""Name of each picture, and the keys that lead to it from the one before.

`@0.6` plays 0.6 of the run.
"""


async def _take(folder: Path, size: tuple[int, int], theme: str | None) -> list[Path]:
    clock = ManualClock(NOW)
    services = DemoServices(clock=clock)
    app = PlannerApp(
        Session(services=services, job=services.job, demo=True, clock=clock), theme=theme
    )
    app.pace = 1e6  # nothing happens by itself: pictures do not depend on how fast this machine is
    taken = []
    async with app.run_test(size=size) as pilot:
        await _settle(pilot)
        for name, keys in SHOTS:
            for key in keys:
                if key.startswith("@"):
                    clock.sleep(float(key[1:]) * RUN_TAKES_S)
                else:
                    await pilot.press(key)
                await _settle(pilot)
            path = folder / f"{name}-{size[0]}x{size[1]}.svg"
            path.write_text(app.export_screenshot(title="planner --demo"), encoding="utf-8")
            taken.append(path)
    return taken


async def _settle(pilot: Pilot[None]) -> None:
    for _ in range(3):
        await pilot.pause()
        await pilot.app.workers.wait_for_complete()
    await pilot.pause()


def main(argv: Sequence[str] | None = None) -> int:
    """Draw them all; says where to."""
    parser = argparse.ArgumentParser(prog="python -m planner.tui.screenshots", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the SVG files go")
    parser.add_argument("--theme", help="one of the app's themes")
    given = parser.parse_args(argv)
    os.environ["TZ"] = "UTC"  # times of day would otherwise be this machine's own
    time.tzset()
    given.folder.mkdir(parents=True, exist_ok=True)
    for size in SIZES:
        for path in asyncio.run(_take(given.folder, size, given.theme)):
            print(path, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
