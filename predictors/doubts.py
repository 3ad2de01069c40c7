"""What a reader should know of the probes behind an estimate, and of how far it goes beyond them.

Plain values: what planner says of them is in `planner.services.estimating.estimatewarnings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from planner.core.types import Knobs, ProbeResult, ResourceConfig
from predictors import features
from predictors.gpus import peak_of
from predictors.misfit import octaves_outside
from predictors.step_time import StepTimeRegressor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

Config = tuple[ResourceConfig, Knobs]

_FAR_OCTAVES = 2.0
_TORN = 2.0
"""The misfit over what it is expected to be, from which probes contradict each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubts:
    """Of one estimate.

    Attributes:
        single: Whether there is but one measured probe.
        only_batch: The one micro-batch that was probed, where others are asked for.
        slowed: Probes that are not believed, as the others have them much faster.
        disagreeing: Probes of which nobody can tell which ones are right.
        bad_times: Probes that report times which are no positive numbers; these do not count.
        unknown_gpus: Asked GPU types of which nobody knows how they compare with what was probed:
            neither from other jobs nor by data sheets.
        far: Indices of configurations more than two doublings outside what was probed on their
            kind of machine, over replicas per node, nodes and micro-batch together.
    """

    single: bool = False
    only_batch: int | None = None
    slowed: tuple[ProbeResult, ...] = ()
    disagreeing: tuple[ProbeResult, ...] = ()
    bad_times: tuple[ProbeResult, ...] = ()
    unknown_gpus: tuple[str, ...] = ()
    far: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What a law of steps on one kind of machine makes of the probes that it was fitted to.

    Attributes:
        probes: In the order of its rows.
        slowed: Those that are not believed.
        torn: Those that contradict others that are believed.
    """

    probes: Sequence[ProbeResult]
    slowed: Mask
    torn: Mask


def suspicious(model: StepTimeRegressor) -> tuple[Mask, Mask]:
    """`slowed` and `torn` of the rows of a fitted law of steps."""
    doubt = model.doubt_
    torn = np.any(doubt.share > 0.5) or model.misfit_sigma_ > _TORN * model.misfit_sigma
    return doubt.wild, ~doubt.wild & bool(torn)


def doubts_of(
    probes: Sequence[ProbeResult],
    laws: Mapping[str, Fitted],
    configs: Sequence[Config],
    *,
    base: str,
    compared: Sequence[str] = (),
) -> Doubts:
    """Look at the probes and at what is asked.

    Args:
        probes: All of the job.
        laws: Of each kind of machine (`features.machine_key`) with measured ones.
        configs: What is asked for.
        base: The kind of machine that others are carried over from.
        compared: Kinds of machines that other jobs were measured on as well as on `base`.
    """
    good = [p for p in probes if features.is_measured(p)]
    slowed: list[ProbeResult] = []
    disagreeing: list[ProbeResult] = []
    for law in laws.values():
        slowed += [p for p, wild in zip(law.probes, law.slowed, strict=True) if wild]
        disagreeing += [p for p, torn in zip(law.probes, law.torn, strict=True) if torn]
    batches = {p.knobs.micro_batch for p in good}
    others = {k.micro_batch for _, k in configs} - batches
    gpus = {r.gpu: features.machine_key(r) for r, _ in configs if r.gpu}
    known = {*laws, *compared}
    sheets = peak_of(base) is not None
    unknown = [g for g, key in gpus.items() if key not in known and not (sheets and peak_of(g))]
    return Doubts(
        single=len(good) == 1,
        only_batch=batches.pop() if len(good) > 1 and len(batches) == 1 and others else None,
        slowed=tuple(slowed),
        disagreeing=tuple(disagreeing),
        bad_times=tuple(p for p in probes if p.state == "ok" and _has_bad_times(p)),
        unknown_gpus=tuple(unknown),
        far=tuple(_far(laws, configs, base)),
    )


def _has_bad_times(probe: ProbeResult) -> bool:
    return len(features.steady_s(probe)) < len(probe.step_time_s) or any(
        value is not None and not (isfinite(value) and value >= 0)
        for value in (probe.loader_wait_s, probe.start_s, probe.tail_s, probe.checkpoint_s)
    )


def _far(laws: Mapping[str, Fitted], configs: Sequence[Config], base: str) -> list[int]:
    groups: dict[str, list[int]] = {}
    for i, (resources, _) in enumerate(configs):
        key = features.machine_key(resources)
        groups.setdefault(key if key in laws else base, []).append(i)
    far: list[int] = []
    for key, rows in groups.items():
        here = features.by_replica(features.config_table([configs[i] for i in rows]))
        probed = features.by_replica(features.probe_table(laws[key].probes))
        away = octaves_outside(here, probed) > _FAR_OCTAVES
        far += [i for i, beyond in zip(rows, away, strict=True) if beyond]
    return sorted(far)
