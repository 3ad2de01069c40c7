"""Drives the terminal app in tests: on the sample recording, or on services that a test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from textual.app import App
from textual.pilot import Pilot

from planner.core.adjust import planned
from planner.core.clock import ManualClock
from planner.core.job import JobSpec
from planner.services.api import Services
from planner.services.demo import DemoServices
from planner.tui.app import PlannerApp
from planner.tui.keymap import read_keymap
from planner.tui.session import Session
from support.fake_services import FakeServices, view
from support.recorded import JOB, NOW, sample_recording

NARROW, WIDE = (80, 24), (120, 40)
RUN_TAKES_S = 32.0


class Stage:
    """An app, its services and its clock.

    Args:
        services: What the app asks; by default the sample recording on a clock that stands still.
    """

    def __init__(self, services: Services | None = None, *, job: JobSpec | None = JOB) -> None:
        self.clock = ManualClock(NOW + timedelta(hours=2))
        self.services: Any = services or DemoServices(
            sample_recording(), self.clock, run_takes_s=RUN_TAKES_S
        )
        self.job = job
        self.app = self.make()

    def make(
        self,
        *,
        ascii: bool = False,
        theme: str | None = None,
        read_only: bool = False,
        keymap: Mapping[str, str] | None = None,
        confirm_above_usd: float = 10.0,
        run_id: str | None = None,
    ) -> PlannerApp:
        """Another app on the same services; the stage's app from now on."""
        session = Session(
            services=self.services,
            job=self.job,
            demo=isinstance(self.services, DemoServices),
            read_only=read_only,
            keymap=read_keymap(keymap),
            confirm_above_usd=confirm_above_usd,
            run_id=run_id,
            clock=self.clock,
        )
        self.app = PlannerApp(session, ascii=ascii, theme=theme)
        # Nothing is to happen by itself, so that a picture does not depend on when it is taken.
        self.app.pace = 1e6
        return self.app

    @asynccontextmanager
    async def running(self, size: tuple[int, int] = NARROW) -> AsyncIterator[Pilot[None]]:
        """The app in a terminal of that size, with its first answers there."""
        async with self.app.run_test(size=size, notifications=True) as pilot:
            await settle(pilot)
            yield pilot

    def screen_text(self) -> str:
        """What stands on the screen."""
        return _shown(self.app)

    @property
    def tab(self) -> str:
        """The tab in view."""
        return self.app.current_mode


def live(**changes: Any) -> tuple[FakeServices, Stage]:
    """A run at work on fake services, and the app on it; `changes` go to the run's view."""
    services = FakeServices()
    shown = view(**changes)
    services.views = [replace(shown, in_force=planned(shown.plan))]
    stage = Stage(services)
    stage.make(run_id=shown.summary.id)
    return services, stage


def _shown(app: App[None]) -> str:
    # Textual has no public way to read the cells; the screenshot would need an SVG parser.
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips)


async def settle(pilot: Pilot[None]) -> None:
    """Until every question that was asked has its answer on the screen: it stays as it is."""
    seen, still = "", 0
    for _ in range(200):
        # A delay of 0 waits for the widgets only; without one the pilot waits for an idle process.
        await pilot.pause(0)
        await pilot.app.workers.wait_for_complete()
        shown = _shown(pilot.app)
        still = still + 1 if shown == seen else 0
        seen = shown
        if still == 3:
            return


async def press(pilot: Pilot[None], *keys: str) -> None:
    """Press keys one after another, each with its consequences."""
    for key in keys:
        await pilot.press(key)
        await settle(pilot)


async def to_options(pilot: Pilot[None]) -> None:
    """Probe, then go on to the options."""
    await press(pilot, "enter", "enter")


async def to_run(pilot: Pilot[None]) -> None:
    """Launch the pick."""
    await to_options(pilot)
    await press(pilot, "L", "y")
