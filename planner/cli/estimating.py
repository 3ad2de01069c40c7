"""One estimate, ended in good order by Ctrl-C or SIGTERM; and what is said of one in vain."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from planner.cli import diagnostics
from planner.cli.progress import Words
from planner.core.errors import EvidenceError
from planner.core.events import EventSink
from planner.core.types import EstimateResult
from planner.services.api import EstimateRequest, Services


def make_estimate(
    services: Services, request: EstimateRequest, on_event: EventSink
) -> EstimateResult:
    """Estimate. An interrupt stops the probes first, then ends the command.

    Raises:
        KeyboardInterrupt: After Ctrl-C; probes that had ended are kept.
        diagnostics.Terminated: After SIGTERM, likewise.
    """
    stop = threading.Event()
    with _asked_to_stop(stop) as received:
        result = services.estimate(request, on_event, stop)
    if received:
        diagnostics.status("")
        raise received[0]
    return result


def no_evidence(result: EstimateResult, told_to: EventSink | None = None) -> EvidenceError:
    """Why an estimate has no option, and what to do, without reasons that `told_to` has told."""
    text = result.recommendation.text
    if isinstance(told_to, Words) and told_to.reasons:
        text = "No option can be offered: no probe ended well."
    return EvidenceError(text, hint=_what_to_do(result))


def tell_warnings(result: EstimateResult, told_to: EventSink | None = None) -> None:
    """Tell what to bear in mind with these options; not again why a probe failed.

    Args:
        result: Without options, only what is not about its probes: why these failed is an error.
        told_to: Where its probes were told, if they were made now.
    """
    told = told_to.reasons if isinstance(told_to, Words) else {}
    for warning in result.warnings:
        of_probes = not result.options and warning.code.startswith("probe.")
        if not of_probes and not any(reason in warning.text for reason in told):
            diagnostics.warn(warning.text, warning.hint)


def _what_to_do(result: EstimateResult) -> str | None:
    if not result.probes:
        hints = [warning.hint for warning in result.warnings if warning.code == "probe.all_failed"]
        return next(iter(hints), None)
    if all(probe.state == "skipped" for probe in result.probes):
        return "raise --max-probe-time or --max-probe-cost"
    if diagnostics.verbosity():
        return "correct the command or the data, and estimate again"
    return "planner estimate -v shows what the probes printed"


@contextmanager
def _asked_to_stop(stop: threading.Event) -> Iterator[list[BaseException]]:
    """Turn the first signal into a request to stop; a second one ends the command at once."""
    received: list[BaseException] = []
    kinds: dict[int, type[BaseException]] = {
        signal.SIGINT: KeyboardInterrupt,
        signal.SIGTERM: diagnostics.Terminated,
    }

    def handle(number: int, _frame: object) -> None:
        if received:
            raise kinds[number]
        received.append(kinds[number]())
        stop.set()
        diagnostics.say("stopping the probes ...")

    before = {number: signal.signal(number, handle) for number in kinds}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
