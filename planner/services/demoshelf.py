"""The runs of any `Services`, as what `compare` asks of the kept ones."""

from __future__ import annotations

from planner.core.plan import Plan
from planner.services.api import RunView, Services
from planner.store.record import RunRecord


class ShelfOf:
    """The plays, as what `compare` asks of the kept runs."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def resolve(self, reference: str) -> str:
        """The run id behind a reference."""
        return self._services.resolve(reference)

    def plan(self, run_id: str) -> Plan:
        """What was agreed to at launch."""
        return self._services.view(run_id).plan

    def record(self, run_id: str) -> RunRecord:
        """What the journal says up to now."""
        return RunRecord.replay(self._services.events(run_id))

    def view(self, run_id: str) -> RunView:
        """The run in full."""
        return self._services.view(run_id)
