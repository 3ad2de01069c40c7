"""What the reader should know of the evidence behind the options, each under a stable code."""

from __future__ import annotations

from collections.abc import Sequence

from planner.core.types import Knobs, ProbeResult, ResourceConfig, Warning_
from planner.services.estimating.estimatewarnings import shape_text
from predictors.doubts import Doubts

_AGAIN = "Estimate again with --fresh on a quiet machine."
_MORE = (
    "Let planner probe more (without --no-probe, or with higher caps in [probe]), or name the"
    " configuration that counts in [job]."
)


def doubt_warnings(
    doubts: Doubts, configs: Sequence[tuple[ResourceConfig, Knobs]]
) -> tuple[Warning_, ...]:
    """What is doubtful of the probes, and of options that they say little about."""
    return (
        *_of_probes(doubts, len(configs)),
        *_of_options(doubts, [configs[i] for i in doubts.far]),
    )


def _of_probes(doubts: Doubts, configs: int) -> list[Warning_]:
    found = []
    if doubts.bad_times:
        text = (
            f"Times of {_shapes(doubts.bad_times)} that are negative, zero or no numbers do not"
            " count."
        )
        hint = "Check the clock that the script reports times from."
        found.append(Warning_(code="probe.bad_times", text=text, hint=hint))
    if doubts.single:
        text = "Everything rests on one probe, which nothing confirms" + (
            "."
            if configs == 1
            else ": how times change with workers and micro-batch is taken from other jobs."
        )
        hint = "planner estimate --fresh tries it again." if configs == 1 else _MORE
        found.append(Warning_(code="probe.only_one", text=text, hint=hint))
    if doubts.only_batch is not None:
        text = (
            f"All probes had a micro-batch of {doubts.only_batch}: options with others rest on how"
            " other jobs' times change with it."
        )
        found.append(Warning_(code="probe.one_batch", text=text, hint=_MORE))
    if doubts.slowed:
        text = (
            f"Steps of {_shapes(doubts.slowed)} took much longer than the other probes explain, and"
            " hardly count; intervals are wider for it."
        )
        found.append(Warning_(code="probe.outlier", text=text, hint=_AGAIN))
    if doubts.disagreeing:
        text = (
            f"The probes of {_shapes(doubts.disagreeing)} contradict each other: intervals of all"
            " options that rest on them are wider for it."
        )
        found.append(Warning_(code="probe.disagree", text=text, hint=_AGAIN))
    return found


def _of_options(doubts: Doubts, far: Sequence[tuple[ResourceConfig, Knobs]]) -> list[Warning_]:
    found = []
    if doubts.unknown_gpus:
        text = (
            f"Nobody knows how {' and '.join(doubts.unknown_gpus)} compares with what was probed:"
            " times there may be off by a factor of 5 either way."
        )
        hint = "One probe there, or of another job on both types, beats the guess."
        found.append(Warning_(code="machine.unknown_gpu", text=text, hint=hint))
    if far:
        workers = max(r.workers for r, _ in far)
        batches = sorted({k.micro_batch for _, k in far})
        shown = f"{batches[0]}" if len(batches) == 1 else f"{batches[0]} to {batches[-1]}"
        count = "1 option is" if len(far) == 1 else f"{len(far)} options are"
        text = (
            f"{count} far from everything that was probed (up to {workers} workers, micro-batches"
            f" of {shown}): their times are extrapolated."
        )
        found.append(Warning_(code="model.far_from_probes", text=text, hint=_MORE))
    return found


def _shapes(probes: Sequence[ProbeResult]) -> str:
    shown = list(dict.fromkeys(map(shape_text, probes)))
    return ", ".join(shown[:-1]) + " and " * (len(shown) > 1) + shown[-1]
