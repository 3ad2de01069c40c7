"""Which probes are evidence."""

from __future__ import annotations

from collections.abc import Sequence

from planner.core.errors import EvidenceError
from planner.core.types import ProbeResult
from predictors.features import is_measured

_NO_EVIDENCE_HINT = (
    "see why under `probes[].error` (--json) or in the probe's log; correct the command or the"
    " data, or allow smaller micro-batches, and estimate again"
)
_NOTHING_MEASURED_HINT = "planner estimate without --no-probe measures it, in a few short trials"


def measured(probes: Sequence[ProbeResult]) -> list[ProbeResult]:
    """The probes that measured steps.

    Raises:
        EvidenceError: There is none.
    """
    good = [p for p in probes if is_measured(p)]
    if not good:
        hint = _NO_EVIDENCE_HINT if probes else _NOTHING_MEASURED_HINT
        raise EvidenceError(_no_evidence(probes), hint=hint)
    return good


def _no_evidence(probes: Sequence[ProbeResult]) -> str:
    if not probes:
        return "nothing has been measured for this job here"
    reasons = dict.fromkeys(f"{p.state}: {p.error or 'no reason given'}" for p in probes)
    shown = "; ".join(list(reasons)[:3])
    return f"none of {len(probes)} probes ended well ({shown})"


def unique(probes: Sequence[ProbeResult]) -> tuple[ProbeResult, ...]:
    """Probes without repetition: the same trial listed twice is not twice the evidence."""
    seen: dict[tuple[str, str, object], ProbeResult] = {}
    for probe in probes:
        seen.setdefault((probe.fingerprint, probe.id, probe.measured_at), probe)
    return tuple(seen.values())
