"""From a wish to a request at the run's supervisor: checked, with what is expected of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from planner.core.adjust import Expectation, InForce, Wish, planned
from planner.core.adjustrules import AdjustRefusedError, decide
from planner.core.clock import Clock
from planner.core.types import Option
from planner.core.units import format_money
from planner.services.api import RunView
from planner.services.runs import commands
from planner.services.runs.expect import expect, expected_text
from planner.services.runs.facts import facts_of
from planner.services.runs.pricepin import CLEAN_STOP_S
from planner.store.codec import to_json
from planner.store.record import RunRecord
from runners.registry import get_runner


def send_adjust(
    view: RunView,
    record: RunRecord,
    wish: Wish,
    *,
    options: Sequence[Option],
    folder: Path | None,
    clock: Clock,
) -> Expectation:
    """Check a wish, tell what is to be expected of it, and ask for it.

    Args:
        view: The run as it is.
        record: What its journal says.
        wish: What is asked for.
        options: Those of the kept estimate; empty where none is kept.
        folder: Where requests go; None only checks and tells.
        clock: Time of the request.

    Raises:
        AdjustRefusedError: It cannot or may not be done.
        RunnerError: A runner does not answer.
        StoreError: The request cannot be written.
    """
    now = _coming(view, record)
    runners = {now.resources.runner, *([wish.move.runner] if wish.move else [])}
    facts = facts_of(view.plan, record.adjust.levers, get_runner, runners, tuple(options))
    verdict = decide(wish, now, facts)
    found = expect(view, wish, now, verdict, options)
    if verdict.how == "nothing":
        return found
    _require_room(record, found.peak_usd_per_h)
    if folder is None:
        return found
    values = {"wish": to_json(wish), "what": found.what, "expected": expected_text(found)}
    command = commands.send(folder, clock, "adjust", **values)
    return replace(found, command=command.id)


def _coming(view: RunView, record: RunRecord) -> InForce:
    """What will be in force when it is begun: after what was asked for before."""
    targets = [record.adjust.targets.get(change.id or "") for change in record.adjust.pending]
    known = [target for target in targets if target is not None]
    return known[-1] if known else record.adjust.in_force or planned(view.plan)


def _require_room(record: RunRecord, usd_per_h: float) -> None:
    """Raise `AdjustRefusedError` where the cap leaves no room for a clean stop at that price."""
    if record.budget_microusd is None:
        return
    reserve = usd_per_h * 1e6 * CLEAN_STOP_S / 3600
    if record.spent_microusd + reserve >= record.budget_microusd:
        left = format_money(max(0, record.budget_microusd - record.spent_microusd) / 1e6)
        raise AdjustRefusedError(
            f"{left} of the cap is left: no room for a clean stop at {format_money(usd_per_h)}/h",
            hint=f"planner extend {record.run_id} --budget +...",
            code="adjust.cap",
        )
