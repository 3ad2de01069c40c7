"""What a run has come to: its journal, replayed into one value.

`RunRecord.apply` is the only place that gives events their meaning for readers. It never raises on
an event: keys that are missing or unknown leave the record as it is, since journals outlive
versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from planner.core.errors import StoreError
from planner.core.events import Event
from planner.core.plan import Decision
from planner.core.types import RunState
from planner.store.adjusted import AdjustLog
from planner.store.codec import from_json
from planner.store.fields import as_list, as_mapping, as_number, as_time, as_whole, keep
from planner.store.series import SeriesBuffer

_PROGRESS_SERIES = ("samples_per_s", "cpu", "gpu", "memory_bytes", "loader_wait")
_RESTING = frozenset(
    {RunState.PAUSED, RunState.DONE, RunState.FAILED, RunState.STOPPED_BY_CAP, RunState.CANCELLED}
)
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint the job reported."""

    at: datetime
    step: int
    epoch: int | None = None
    samples: int | None = None
    path: str | None = None
    bytes: int | None = None
    duration_s: float | None = None
    reason: str | None = None


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """A run as its journal tells it.

    Attributes:
        last_seq: Number of the last event applied, -1 before the first.
        gaps: Numbers that were missing.
        idle_s: Time in which the run neither held nor waited for anything: paused, ended and
            continued later, or without a supervisor.
        attempt: The current launch, counted from 1; 0 before the first.
        holding: Whether resources are held, as far as the journal knows.
        released_at: Until when they were last held: as the event says, since nobody may have
            watched.
        spent_at: Until when spend is counted: the time of the last event that carries money.
        ended_at: When it came to rest: as the event says, since nobody may have watched.
        reached_step: How far the attempts before this one came, until it says where it goes on.
        reached_samples: The same in samples.
        samples_redone: Samples that were computed a second time.
        stop_reason: Why the run was last asked to stop.
        times_s: Where the time of all ended attempts went, by name.
        command_ids: Requests already carried out.
        peak_memory_bytes: Largest peak of any worker so far.
        adjust: What was changed, and what is in force.
    """

    run_id: str = ""
    name: str = ""
    state: RunState = RunState.PLANNED
    last_seq: int = -1
    gaps: int = 0
    last_at: datetime | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    idle_since: datetime | None = None
    idle_s: float = 0.0
    attempt: int = 0
    released_attempt: int = 0
    holding: bool = False
    released_at: datetime | None = None
    acquired_at: datetime | None = None
    usd_per_h: float = 0.0
    price_source: str | None = None
    spent_microusd: int = 0
    spent_at: datetime | None = None
    held_s: float = 0.0
    budget_microusd: int | None = None
    deadline_at: datetime | None = None
    step: int = 0
    reached_step: int = 0
    reached_samples: int = 0
    attempt_first_step: int | None = None
    steps_total: int | None = None
    epoch: int = 0
    epochs: float | None = None
    samples: int = 0
    progress: float = 0.0
    samples_per_s: float | None = None
    loader_wait: float | None = None
    eta_quantiles: tuple[float, ...] | None = None
    p_deadline: float | None = None
    p_budget: float | None = None
    peak_memory_bytes: int | None = None
    checkpoint: Checkpoint | None = None
    checkpoints: int = 0
    checkpoint_bytes: int = 0
    checkpoint_failures: int = 0
    interruptions: int = 0
    steps_redone: int = 0
    samples_redone: int = 0
    stop_reason: str | None = None
    reason: str | None = None
    failure_log: tuple[str, ...] = ()
    exit_codes: tuple[int | None, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, tuple[float, float]] = field(default_factory=dict)
    times_s: dict[str, float] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    series: dict[str, SeriesBuffer] = field(default_factory=dict)
    command_ids: set[str] = field(default_factory=set)
    adjust: AdjustLog = field(default_factory=AdjustLog)

    @classmethod
    def replay(cls, events: Iterable[Event]) -> RunRecord:
        """The record that these events, in order, make."""
        record = cls()
        for event in events:
            record.apply(event)
        return record

    @property
    def ended(self) -> bool:
        """Whether the run rests in an end state or is paused: nobody works on it."""
        return self.state in _RESTING

    def total_s(self, now: datetime) -> float | None:
        """Time since the run was agreed to, idle time left out; None before it was created."""
        if self.created_at is None:
            return None
        end = self.idle_since or now
        return max(0.0, (end - self.created_at).total_seconds() - self.idle_s)

    def apply(self, event: Event) -> None:
        """Take one event in. Events already applied are passed over."""
        if event.seq <= self.last_seq:
            return
        self.gaps += event.seq - self.last_seq - 1
        self.last_seq = event.seq
        self.last_at = event.ts
        data = event.data
        self._take_state(event)
        handler = _HANDLERS.get(event.type)
        if handler is not None:
            handler(self, event, data)

    def _take_state(self, event: Event) -> None:
        try:
            state = RunState(event.data.get("state", self.state))
        except ValueError:
            return
        if state is self.state:
            return
        was_resting, self.state = self.ended, state
        if self.ended and not was_resting:
            self.idle_since = self.ended_at = as_time(event.data.get("ended_at")) or event.ts
        elif was_resting and not self.ended:
            if self.idle_since is not None:
                self.idle_s += (event.ts - self.idle_since).total_seconds()
            self.idle_since = self.ended_at = self.reason = self.stop_reason = None
            self.failure_log = ()

    def _created(self, event: Event, data: Mapping[str, Any]) -> None:
        self.run_id = event.run_id or self.run_id
        self.created_at = event.ts
        self.name = str(data.get("name", self.name))
        self.budget_microusd = as_whole(data.get("budget_microusd"))
        self.deadline_at = as_time(data.get("deadline_at"))

    def _provisioning(self, event: Event, data: Mapping[str, Any]) -> None:
        attempt = as_whole(data.get("attempt")) or self.attempt
        if attempt != self.attempt:
            self._go_back()
            self.adjust.attempt()
        self.attempt = attempt
        self.attempt_first_step = None
        self.acquired_at = None
        self.spent_at = event.ts

    def _go_back(self) -> None:
        """A new attempt is as far as the checkpoint that it goes on from."""
        self.reached_step = max(self.reached_step, self.step)
        self.reached_samples = max(self.reached_samples, self.samples)
        self._stand_at(self.checkpoint or Checkpoint(at=_NEVER, step=0, epoch=0, samples=0))

    def _stand_at(self, kept: Checkpoint) -> None:
        self.step = kept.step
        self.epoch = keep(kept.epoch, self.epoch)
        self.samples = keep(kept.samples, self.samples)
        self.progress = self._fraction()

    def _fraction(self) -> float:
        return min(1.0, self.step / self.steps_total) if self.steps_total else 0.0

    def _acquired(self, event: Event, data: Mapping[str, Any]) -> None:
        self._price(event, data)
        if "unit" in data:
            self._money(event, data)
            return
        self.holding = True
        self.acquired_at = self.spent_at = event.ts

    def _price(self, _event: Event, data: Mapping[str, Any]) -> None:
        self.usd_per_h = as_number(data.get("usd_per_h")) or 0.0
        self.price_source = data.get("source", self.price_source)

    def _released(self, event: Event, data: Mapping[str, Any]) -> None:
        if "unit" in data:
            self._price(event, data)
            self._money(event, data)
            return
        self.holding = False
        self.released_attempt = as_whole(data.get("attempt")) or self.released_attempt
        self.released_at = as_time(data.get("ended_at")) or event.ts
        self._money(event, data)
        self.held_s += as_number(data.get("held_s")) or 0.0
        for name, value in as_mapping(data.get("times_s")).items():
            if (seconds := as_number(value)) is not None:
                self.times_s[name] = self.times_s.get(name, 0.0) + seconds

    def _money(self, event: Event, data: Mapping[str, Any]) -> None:
        spent = as_whole(data.get("spent_microusd"))
        if spent is not None:
            self.spent_at = event.ts
            self.spent_microusd = max(self.spent_microusd, spent)

    def _started(self, event: Event, _data: Mapping[str, Any]) -> None:
        self.started_at = self.started_at or event.ts
        self.reason = None

    def _resumed(self, _event: Event, data: Mapping[str, Any]) -> None:
        step = as_whole(data.get("step")) or 0
        self.steps_redone += max(0, self.reached_step - step)
        self.samples_redone += max(0, self.reached_samples - self.samples)
        self.reached_step = self.reached_samples = 0
        self.step = self.attempt_first_step = step
        self.epoch = keep(as_whole(data.get("epoch")), self.epoch)
        self.progress = self._fraction()

    def _progress(self, event: Event, data: Mapping[str, Any]) -> None:
        self._money(event, data)
        self.adjust.told(data)
        self.step = keep(as_whole(data.get("step")), self.step)
        self.epoch = keep(as_whole(data.get("epoch")), self.epoch)
        self.samples = keep(as_whole(data.get("samples")), self.samples)
        self.steps_total = keep(as_whole(data.get("steps_total")), self.steps_total)
        self.epochs = keep(as_number(data.get("epochs")), self.epochs)
        self.progress = keep(as_number(data.get("progress")), self.progress)
        self.samples_per_s = as_number(data.get("samples_per_s"))
        self.loader_wait = as_number(data.get("loader_wait"))
        self.p_deadline = as_number(data.get("p_deadline"))
        self.p_budget = as_number(data.get("p_budget"))
        peak = as_whole(data.get("peak_memory_bytes"))
        if peak is not None:
            self.peak_memory_bytes = max(peak, self.peak_memory_bytes or 0)
        eta = data.get("eta_s")
        numbers = [as_number(value) for value in eta] if isinstance(eta, list) else []
        known = tuple(value for value in numbers if value is not None)
        self.eta_quantiles = known if known and len(known) == len(numbers) else None
        for name in _PROGRESS_SERIES:
            self._point(name, event.ts, data.get(name))

    def _point(self, name: str, at: datetime, value: object) -> None:
        number = as_number(value)
        if number is not None and self.started_at is not None:
            buffer = self.series.setdefault(name, SeriesBuffer())
            buffer.add((at - self.started_at).total_seconds(), number)

    def _metric(self, event: Event, data: Mapping[str, Any]) -> None:
        for name, value in as_mapping(data.get("values")).items():
            number = as_number(value)
            if number is None:
                continue
            self.metrics[name] = number
            low, high = self.best.get(name, (number, number))
            self.best[name] = (min(low, number), max(high, number))
            self._point(name, event.ts, number)

    def _checkpoint(self, event: Event, data: Mapping[str, Any]) -> None:
        self.checkpoints += 1
        self.adjust.lost = 0
        self.checkpoint_bytes += as_whole(data.get("bytes")) or 0
        self.checkpoint = Checkpoint(
            at=event.ts,
            step=as_whole(data.get("step")) or 0,
            epoch=as_whole(data.get("epoch")),
            samples=as_whole(data.get("samples")),
            path=data.get("path"),
            bytes=as_whole(data.get("bytes")),
            duration_s=as_number(data.get("duration_s")),
            reason=data.get("reason"),
        )
        if self.checkpoint.step > self.step:
            self._stand_at(self.checkpoint)

    def _interrupted(self, _event: Event, data: Mapping[str, Any]) -> None:
        self.interruptions += data.get("cause") != "adjusted"
        self.reason = data.get("reason", self.reason)
        self._unattended(_event, data)

    def _unattended(self, _event: Event, data: Mapping[str, Any]) -> None:
        self.idle_s += as_number(data.get("unattended_s")) or 0.0

    def _stopping(self, _event: Event, data: Mapping[str, Any]) -> None:
        self.stop_reason = data.get("reason", self.stop_reason)

    def _finished(self, event: Event, data: Mapping[str, Any]) -> None:
        self._money(event, data)
        self.reason = data.get("reason")
        self.failure_log = tuple(str(line) for line in as_list(data.get("log")))
        self.exit_codes = tuple(as_whole(code) for code in as_list(data.get("exit_codes")))
        self.step = keep(as_whole(data.get("step")), self.step)
        self.progress = keep(as_number(data.get("progress")), self.progress)
        self.eta_quantiles = None

    def _command(self, event: Event, data: Mapping[str, Any]) -> None:
        if isinstance(data.get("id"), str) and data["id"] not in self.command_ids:
            self.command_ids.add(data["id"])
            self.adjust.command(event, self.idle_s)

    def _adjusted(self, event: Event, data: Mapping[str, Any]) -> None:
        self._money(event, data)
        self._price(event, data)
        if data.get("how") == "in_flight":  # those of a relaunch are known from where it goes on
            self.samples_redone += as_whole(data.get("redone_samples")) or 0
        self.adjust.adjusted(event)

    def _worker_lost(self, _event: Event, _data: Mapping[str, Any]) -> None:
        self.adjust.lost += 1

    def _extended(self, data: Mapping[str, Any]) -> None:
        if "budget_microusd" in data:
            self.budget_microusd = as_whole(data["budget_microusd"])
            self.p_budget = None  # it was the chance to keep the limit before
        if "deadline_at" in data:
            self.deadline_at = as_time(data["deadline_at"])
            self.p_deadline = None

    def _decision(self, event: Event, data: Mapping[str, Any]) -> None:
        self._extended(data)
        self.adjust.decision(event)
        try:
            decision = from_json(Decision, data)
        except StoreError:
            return
        self.decisions[decision.id] = decision

    def _warning(self, _event: Event, data: Mapping[str, Any]) -> None:
        text = data.get("text")
        if data.get("code") == "checkpoint.failed":
            self.checkpoint_failures += 1
        if isinstance(text, str) and text not in self.warnings:
            self.warnings.append(text)


_HANDLERS = {
    "run.created": RunRecord._created,
    "run.provisioning": RunRecord._provisioning,
    "resource.acquired": RunRecord._acquired,
    "resource.released": RunRecord._released,
    "run.started": RunRecord._started,
    "run.resumed": RunRecord._resumed,
    "run.progress": RunRecord._progress,
    "run.metric": RunRecord._metric,
    "run.checkpoint": RunRecord._checkpoint,
    "run.interrupted": RunRecord._interrupted,
    "run.adjusted": RunRecord._adjusted,
    "run.worker_lost": RunRecord._worker_lost,
    "run.unattended": RunRecord._unattended,
    "run.stopping": RunRecord._stopping,
    "run.paused": RunRecord._finished,
    "run.finished": RunRecord._finished,
    "command.received": RunRecord._command,
    "decision.applied": RunRecord._decision,
    "decision.measured": RunRecord._decision,
    "guard.warning": RunRecord._warning,
    "guard.stop": RunRecord._warning,
    "resource.leaked": RunRecord._warning,
}
