"""What the next probe would buy, what it would cost, and when probing stops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from planner.core.probevalue import Answer

ProbeReason = Literal[
    "worth",
    "not_worth",
    "settled",
    "cap",
    "stopped",
    "all_tried",
    "unmeasured",
]
"""Why a probe is made, or why none is: it saves more than it costs; it costs more than it saves;
the pick hardly depends on it; it does not fit into the caps; probing was stopped; every
configuration was tried; nothing is measured yet."""

SETTLED_SHARE = 0.005
"""The pick is settled when its expected regret is below this share of what it takes,"""
SETTLED_CHANCE = 0.01
"""or when the best probe changes it less often than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextProbe:
    """The probe that would save most for its price, and what was decided about it.

    Attributes:
        option_id: The option whose configuration it tries; None where there is no option yet, or
            nothing is left to try.
        reason: Why it is made, or is not.
        time_s: What it is expected to take.
        cost_usd: What it is expected to cost.
        saves_usd: Regret that it is expected to save, where the decision is about money.
        saves_s: The same, where it is about time.
        p_change: Chance that the pick is another one after it.
    """

    option_id: str | None
    reason: ProbeReason
    time_s: float = 0.0
    cost_usd: float = 0.0
    saves_usd: float | None = None
    saves_s: float | None = None
    p_change: float | None = None


def verdict(answer: Answer) -> ProbeReason:
    """The stop rule, on the probe that saves most for its price."""
    if answer.regret < SETTLED_SHARE * answer.takes or answer.p_change < SETTLED_CHANCE:
        return "settled"
    return "worth" if answer.saves > answer.price else "not_worth"
