"""Try configurations out: short real launches on a slice, one after another.

They run one at a time since two probes on one machine would measure each other. Each ends with a
`ProbeResult`, whatever happens to it.

Events, all of them with `id` and `index` (from 1):

- `probe.queued`: `resources`, `knobs`, `usd_per_h`.
- `probe.started`: `steps_total`.
- `probe.progress`, at most twice a second: `phase` (`starting`, `warm-up`, `measuring`, `ending`),
  `step`, `steps_total`, `step_time_s`, `samples_per_s`, `loader_wait_fraction`, `memory_bytes`,
  `gpu_utilisation`, `elapsed_s`, `cost_usd`.
- `probe.finished`: `probe`, the `ProbeResult` as JSON, and whether it is `reused`. A reused one
  has no other events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from planner.core.clock import Clock
from planner.core.events import EventSink
from planner.core.job import JobSpec, ProbeSettings
from planner.core.types import ProbeResult
from planner.core.units import format_duration, format_money
from planner.services.api import Cancel
from planner.services.estimating.candidates import Trial
from planner.services.estimating.probeattempt import Attempt
from planner.services.estimating.probestore import probe_id
from planner.services.estimating.slicing import Slice
from planner.store.codec import to_json
from planner.store.layout import StateDir

FIRST_PROBE_S = 30.0
"""How long a probe is said to take before one was made."""


@dataclass(slots=True, kw_only=True)
class Prober:
    """Runs probes of one job within one allowance of money and time.

    Attributes:
        job: The job; its `probe` settings hold steps and caps.
        fingerprint: What the results are evidence about.
        slice_for: The data for a probe with a given global batch (0: not known yet).
        samples: Training samples of the whole data set; None leaves it to the job to say.
        state: Where attempts live while they run.
        clock: Time.
        on_event: Told of every step.
        cancel: Ends the probing early; what was measured until then counts.
    """

    job: JobSpec
    fingerprint: str
    slice_for: Callable[[int], Slice]
    samples: int | None
    state: StateDir
    clock: Clock
    on_event: EventSink
    cancel: Cancel | None = None
    spent_usd: float = 0.0
    spent_s: float = 0.0
    _walls_s: list[float] = field(default_factory=list)
    _stillborn: list[str] = field(default_factory=list)
    _count: int = 0

    @property
    def settings(self) -> ProbeSettings:
        """Steps and caps."""
        return self.job.probe

    def run(self, trials: Sequence[Trial]) -> tuple[ProbeResult, ...]:
        """Probe these configurations in order; one result each.

        Raises:
            UsageError: The command or the environment cannot be made for any probe.
            CleanupError: A probe's processes could not be ended.
            StoreError: The state directory cannot be written.
        """
        queue = []
        for trial in trials:
            self._count += 1
            key = probe_id(self.fingerprint, trial.resources, trial.knobs)
            queue.append((key, self._count, trial))
            self.on_event(
                "probe.queued",
                {
                    "id": key,
                    "index": self._count,
                    "resources": to_json(trial.resources),
                    "knobs": to_json(trial.knobs),
                    "usd_per_h": trial.offer.price.usd_per_h,
                },
            )
        return tuple(self._one(key, index, trial) for key, index, trial in queue)

    def reuse(self, kept: ProbeResult) -> None:
        """Tell of a kept result that takes the place of a probe."""
        self._count += 1
        self.on_event(
            "probe.finished",
            {"id": kept.id, "index": self._count, "reused": True, "probe": to_json(kept)},
        )

    def _one(self, key: str, index: int, trial: Trial) -> ProbeResult:
        reason = self._reason_to_skip(trial)
        if reason is None:
            result = self._attempt(key, index, trial).run()
            self.spent_s += result.wall_s
            self.spent_usd += result.cost_usd
            self._learn_from(result)
        else:
            result = ProbeResult(
                id=key,
                fingerprint=self.fingerprint,
                resources=trial.resources,
                knobs=trial.knobs,
                state="skipped",
                measured_at=self.clock.now(),
                error=reason,
            )
        self.on_event(
            "probe.finished",
            {"id": key, "index": index, "reused": False, "probe": to_json(result)},
        )
        return result

    def _attempt(self, key: str, index: int, trial: Trial) -> Attempt:
        allowance_s = self.settings.max_time_s - self.spent_s
        limit = f"time cap of {format_duration(self.settings.max_time_s)}"
        rate = trial.offer.price.usd_per_h
        if rate > 0:
            affordable_s = (self.settings.max_cost_usd - self.spent_usd) / rate * 3600
            if affordable_s < allowance_s:
                allowance_s = affordable_s
                limit = f"cost cap of {format_money(self.settings.max_cost_usd)}"
        return Attempt(
            job=self.job,
            trial=trial,
            key=key,
            index=index,
            fingerprint=self.fingerprint,
            data=self.slice_for(trial.knobs.global_batch),
            samples=self.samples,
            folder=self.state.probes / "work",
            clock=self.clock,
            on_event=self.on_event,
            cancel=self.cancel,
            allowance_s=allowance_s,
            limit_text=f"stopped at the probe {limit}",
        )

    def _learn_from(self, result: ProbeResult) -> None:
        if result.state == "ok":
            self._walls_s.append(result.wall_s)
        if result.state == "failed" and result.start_s is None:
            self._stillborn.append(result.error or "")
        else:
            self._stillborn.clear()

    @property
    def stopped(self) -> bool:
        """Whether probing was stopped, or ends since probes fail alike before their first step."""
        return self._reason_to_stop() is not None

    def affords(self, trial: Trial, expected_s: float) -> bool:
        """Whether a probe that takes so long, or as long as usual, fits into the caps."""
        return self._beyond_cap(trial, max(expected_s, self._usual_s())) is None

    def _usual_s(self) -> float:
        return fmean(self._walls_s) if self._walls_s else 0.0

    def _reason_to_skip(self, trial: Trial) -> str | None:
        return self._reason_to_stop() or self._beyond_cap(trial, self._usual_s())

    def _reason_to_stop(self) -> str | None:
        if self.cancel is not None and self.cancel.is_set():
            return "not tried: probing was stopped"
        if len(self._stillborn) >= 2 and self._stillborn[-1] == self._stillborn[-2]:
            return f"not tried: the probes before it failed alike: {self._stillborn[-1]}"
        return None

    def _beyond_cap(self, trial: Trial, expected_s: float) -> str | None:
        if self.spent_s + expected_s >= self.settings.max_time_s:
            cap = format_duration(self.settings.max_time_s)
            return f"not tried: does not fit into the probe time cap of {cap}"
        rate = trial.offer.price.usd_per_h
        if rate > 0 and self.spent_usd + rate * expected_s / 3600 >= self.settings.max_cost_usd:
            cap = format_money(self.settings.max_cost_usd)
            return f"not tried: does not fit into the probe cost cap of {cap}"
        return None
