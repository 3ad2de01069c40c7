"""The option that is recommended, and what would have to change for another to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """The pick becomes `to` when `variable` goes beyond `value`.

    `deadline_s` is that of a deadline which is stated when the estimate is made, probes kept: what
    probing took is no part of it, nor of the times of the options.
    """

    to: str
    variable: str
    op: Literal["<", ">"]
    value: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The pick, the rule that made it, one sentence, and what would change it."""

    option_id: str | None
    rule: str
    text: str
    flips: tuple[Flip, ...] = ()
