"""`python -m support.cli_driver SCENARIO CALLS_FILE ARG...`: planner on fake services, for real.

A process of its own, so that signals, pipes and terminals are those of the operating system. What
the services were asked for is appended to CALLS_FILE, one name a line.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from planner.cli import invocation, watch
from planner.cli.main import main
from planner.core.events import EventSink
from planner.core.types import EstimateResult, RunState
from planner.services.api import Cancel, EstimateRequest
from support.fake_services import FakeServices, view


class Recorded(FakeServices):
    """Fake services whose calls are on disk as soon as they are made."""

    def __init__(self, calls: Path) -> None:
        super().__init__()
        self.file = calls

    def _called(self, name: str, about: object = None) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
        super()._called(name, about)


class Slow(Recorded):
    """Its estimate takes until somebody cancels it."""

    def estimate(
        self, request: EstimateRequest, on_event: EventSink, cancel: Cancel | None = None
    ) -> EstimateResult:
        self._called("estimating")
        while cancel is None or not cancel.is_set():
            time.sleep(0.02)
        self._called("cancelled")
        return self.result


def services_for(scenario: str, calls: Path) -> FakeServices:
    services = Slow(calls) if scenario == "slow" else Recorded(calls)
    if scenario == "endless":
        services.views = [view(RunState.RUNNING)]
    elif scenario == "crash":
        secret = "hunter2-in-a-local-variable"
        services.fail["runs"] = ValueError(f"a defect {secret[:0]}")
    elif scenario == "flood":
        services.summaries = services.summaries * 20_000
    return services


if __name__ == "__main__":
    scenario, calls, *arguments = sys.argv[1:]
    made = services_for(scenario, Path(calls))
    invocation.open_services = lambda _state_dir: made
    watch.LOOK_S = 0.05
    sys.argv = ["planner", *arguments]
    main()
