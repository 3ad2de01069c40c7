"""From flags to a job and a goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast, get_args

from planner.cli.invocation import Invocation
from planner.core.errors import UsageError
from planner.core.job import Goal, JobSpec, Place, Prefer
from planner.core.units import parse_deadline, parse_duration_s, parse_money_usd
from planner.services.api import EstimateRequest

DEFAULT_JOB_FILE = "planner.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalFlags:
    """Goal options as they were typed; None leaves the job file's."""

    deadline: str | None = None
    budget: str | None = None
    confidence: float | None = None
    prefer: str | None = None

    @property
    def given(self) -> bool:
        """Whether any was typed."""
        return any(
            v is not None for v in (self.deadline, self.budget, self.confidence, self.prefer)
        )


def read_job(invocation: Invocation, job: Path | None, where: str | None = None) -> JobSpec:
    """The job of a file, or of the command after `--`.

    Raises:
        UsageError: Neither was given, or both.
        ConfigError: The file is wrong.
    """
    if invocation.command is not None and job is not None:
        raise UsageError(
            "both a job file and a command were given", hint="give one of them, not both"
        )
    if invocation.command is not None:
        if not invocation.command:
            raise UsageError("there is no command after --", hint="-- python train.py ...")
        from planner.config.jobfile import job_from_command

        spec = job_from_command(invocation.command, Path.cwd())
    else:
        path = job or Path(DEFAULT_JOB_FILE)
        if job is None and not path.is_file():
            raise UsageError(
                f"no job file was named, and there is no {DEFAULT_JOB_FILE} here",
                hint="planner init -- python train.py ... writes one",
            )
        from planner.config.jobfile import load_job

        spec = load_job(path, datetime.now(UTC))
    return spec if where is None else replace(spec, places=_only(spec.places, where))


def goal_of(base: Goal, flags: GoalFlags) -> Goal:
    """The job's goal with what was typed put over it.

    Raises:
        UnitError: A value was not understood, or the deadline has passed.
    """
    goal = base
    if flags.deadline is not None:
        seconds, at = parse_deadline(flags.deadline, datetime.now(UTC))
        goal = replace(goal, deadline_s=seconds, deadline_at=at)
    if flags.budget is not None:
        goal = replace(goal, budget_usd=parse_money_usd(flags.budget))
    if flags.confidence is not None:
        goal = replace(goal, confidence=flags.confidence)
    if flags.prefer is not None:
        if flags.prefer not in get_args(Prefer):
            raise UsageError(f'--prefer "{flags.prefer}" is not known', hint="cost, time or risk")
        goal = replace(goal, prefer=cast(Prefer, flags.prefer))
    return goal


def request_of(
    job: JobSpec,
    goal: Goal,
    *,
    no_probe: bool = False,
    fresh: bool = False,
    max_cost: str | None = None,
    max_time: str | None = None,
) -> EstimateRequest:
    """One call of the estimator.

    Raises:
        UnitError: A cap was not understood.
    """
    if no_probe and fresh:
        raise UsageError(
            "--no-probe uses kept results, --fresh ignores them", hint="give one of them, not both"
        )
    return EstimateRequest(
        job=job,
        goal=goal,
        probe=not no_probe,
        fresh=fresh,
        max_probe_cost_usd=None if max_cost is None else parse_money_usd(max_cost, allow_zero=True),
        max_probe_time_s=None if max_time is None else parse_duration_s(max_time),
    )


def _only(places: Sequence[Place], where: str) -> tuple[Place, ...]:
    """The places named as `runner` or `runner:pool`, comma separated."""
    known = [f"{place.runner}:{place.pool}" for place in places]
    chosen: list[Place] = []
    for name in (part.strip() for part in where.split(",")):
        found = [
            place
            for place, full in zip(places, known, strict=True)
            if name in (place.runner, full) and place not in chosen
        ]
        if not found:
            raise UsageError(
                f'the job has no place "{name}"', hint=f"it has: {', '.join(known) or 'none'}"
            )
        chosen += found
    return tuple(chosen)
