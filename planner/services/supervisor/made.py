"""A change that was made: what it took, from what the job said of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from planner.core.adjust import Adjustment, How, InForce, pass_samples
from planner.services.supervisor.attempt import Attempt
from planner.services.supervisor.book import RunBook
from planner.store.codec import to_json
from planner.store.fields import as_list, as_number, as_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A change that was made, and what it took. None where it cannot be told."""

    reason: Literal["asked", "lost", "replaced"]
    how: How
    step: int
    workers: int
    in_force: InForce
    usd_per_h: float
    lost: tuple[int, ...] = ()
    downtime_s: float | None = None
    stall_s: float | None = None
    step_time_s: float | None = None
    redone_samples: int | None = None
    lost_samples: int | None = None

    @property
    def text(self) -> str:
        """What it took, in words."""
        took = [] if self.how == "in_flight" else ["by checkpoint and relaunch"]
        if self.stall_s is not None:
            usual = "" if self.step_time_s is None else f" (step {self.step_time_s:.2f} s)"
            took.append(f"stall {self.stall_s:.2f} s{usual}")
        if self.downtime_s is not None:
            took.append(f"request to first step {self.downtime_s:.1f} s")
        took.append(f"{self.lost_samples or 0} samples lost")
        if self.redone_samples:
            took.append(f"{self.redone_samples} computed again")
        return f"done at step {self.step}: {', '.join(took)}"


def made_of(
    event: Mapping[str, Any],
    target: InForce,
    attempt: Attempt,
    book: RunBook,
    request: Adjustment | None,
) -> Made:
    """What an `adjusted` event says; what it does not say is as it was wanted.

    Args:
        event: Keys that are missing or odd are passed over.
        target: What was wanted.
        attempt: Whose workers it is about.
        book: The run's.
        request: What was asked for; None where nobody asked.
    """
    step = as_whole(event.get("step"))
    in_force = said_in_force(event, target)
    crew = in_force.crew or attempt.workers
    return Made(
        reason="lost" if event.get("reason") == "lost" else "asked",
        how="in_flight",
        step=book.record.step if step is None else step,
        workers=len(crew),
        in_force=replace(in_force, crew=crew),
        usd_per_h=book.meter.usd_per_h,
        lost=tuple(w for w in as_list(event.get("lost")) if isinstance(w, int)),
        downtime_s=_said_downtime_s(event, book, request),
        stall_s=as_number(event.get("stall_s")),
        step_time_s=as_number(event.get("step_time_s")),
        redone_samples=as_whole(event.get("redone_samples")) or 0,
        lost_samples=as_whole(event.get("lost_samples")) or 0,
    )


def said_in_force(event: Mapping[str, Any], target: InForce) -> InForce:
    """What is in force by an `adjusted` event; what it does not say is as in `target`."""
    before = target.knobs
    knobs = replace(
        before,
        global_batch=_said(event, "global_batch", before.global_batch),
        micro_batch=_said(event, "micro_batch", before.micro_batch),
        accumulation=_said(event, "accumulation", before.accumulation),
        loader_workers=_said(event, "loader_workers", before.loader_workers),
    )
    lr_scale, memory = as_number(event.get("lr_scale")), event.get("memory")
    crew = tuple(w for w in as_list(event.get("crew")) if isinstance(w, int))
    return replace(
        target,
        knobs=knobs,
        memory="low" if memory == "low" else "normal" if memory == "normal" else target.memory,
        lr_scale=target.lr_scale if lr_scale is None else lr_scale,
        crew=crew,
    )


def unmet(wanted: Mapping[str, Any], told: InForce, lost: Collection[int]) -> list[str]:
    """What is not in force although it is wanted, by its key in the control file.

    Args:
        wanted: The control file's `adjust`.
        told: What the job says is in force; a crew that is empty was not told.
        lost: Workers that were lost meanwhile: nobody can have them.
    """
    knobs, workers = told.knobs, len(told.crew) or told.workers
    # It bounds the samples of a pass from above: bounds beyond a worker's share are the same.
    bound = replace(knobs, micro_batch=wanted.get("micro_batch", knobs.micro_batch))
    crew = set(wanted.get("crew", told.crew)) - set(lost)
    is_so = {
        "crew": not told.crew or set(told.crew) == crew,
        "micro_batch": pass_samples(bound, workers) == pass_samples(knobs, workers),
        "loader_workers": wanted.get("loader_workers") in (None, knobs.loader_workers),
        "memory": wanted.get("memory") in (None, told.memory),
        "global_batch": wanted.get("global_batch") in (None, knobs.global_batch),
    }
    return [name for name, so in is_so.items() if not so]


def _said(event: Mapping[str, Any], name: str, default: int) -> int:
    said = as_whole(event.get(name))
    return default if said is None else said


def _said_downtime_s(
    event: Mapping[str, Any], book: RunBook, request: Adjustment | None
) -> float | None:
    """From the request to the first step under the change, by the job's own clock."""
    if request is None:
        return None
    t = as_number(event.get("first_step_t"))
    said_t = as_number(event.get("t")) if t is None else t
    return downtime_s(book, request, told_at(said_t, book.clock.now()))


def told_at(t: float | None, now: datetime) -> datetime:
    """The moment that a worker tells of as Unix time; now where it tells none.

    Its clock may be another machine's: it is believed only where it can be right.
    """
    return now if t is None else min(now, datetime.fromtimestamp(t, UTC))


def downtime_s(book: RunBook, change: Adjustment, at: datetime) -> float | None:
    """From the request to a moment, without the time in which nobody worked on the run."""
    if change.asked_at is None:
        return None
    idle_s = book.record.idle_s - change.idle_s
    return max(0.0, (at - change.asked_at).total_seconds() - idle_s)


def emit_made(book: RunBook, decision_id: str | None, made: Made) -> None:
    """Write down that a change was made: this is in force from now on. Raises `StoreError`."""
    knobs = made.in_force.knobs
    book.emit(
        "run.adjusted",
        {
            "attempt": book.record.attempt,
            "id": decision_id,
            "reason": made.reason,
            "how": made.how,
            "workers": made.workers,
            "crew": list(made.in_force.crew),
            "lost": list(made.lost),
            "global_batch": knobs.global_batch,
            "micro_batch": knobs.micro_batch,
            "accumulation": knobs.accumulation,
            "loader_workers": knobs.loader_workers,
            "memory": made.in_force.memory,
            "lr_scale": made.in_force.lr_scale,
            "checkpoint_interval_s": knobs.checkpoint_interval_s,
            "step": made.step,
            "downtime_s": _rounded(made.downtime_s),
            "stall_s": _rounded(made.stall_s),
            "step_time_s": _rounded(made.step_time_s),
            "redone_samples": made.redone_samples,
            "lost_samples": made.lost_samples,
            "usd_per_h": made.usd_per_h,
            "spent_microusd": book.spent_microusd(),
            "text": made.text,
            "in_force": to_json(made.in_force),
        },
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
