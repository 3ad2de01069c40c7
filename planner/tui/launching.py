"""From an option to a run: ask, then launch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from planner.core.types import EstimateResult, Option
from planner.services.api import LaunchRequest
from planner.tui.agreements import ask_to_agree, launch_agreement

if TYPE_CHECKING:
    from planner.tui.app import PlannerApp


def ask_to_launch(app: PlannerApp, estimate: EstimateResult, option: Option) -> None:
    """Show what would be launched; launch it once that was confirmed."""
    ask_to_agree(app, launch_agreement(estimate, option), partial(_launch, app, estimate, option))


def _launch(app: PlannerApp, estimate: EstimateResult, option: Option) -> None:
    # What was shown is what is bought: never dearer than the price on the confirmation.
    request = LaunchRequest(
        estimate=estimate, option_id=option.id, max_usd_per_h=option.price.usd_per_h
    )
    services = app.session.services
    app.notify("Launching. The run will go on without this window.", timeout=3)
    app.call_service(lambda: services.launch(request), partial(_launched, app), group="launch")


def _launched(app: PlannerApp, run_id: str) -> None:
    app.open_run(run_id)
