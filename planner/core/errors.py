"""The one exception tree, and the exit code that each branch ends a command with.

An error says what happened, to what, and what to do next: `text` and `hint`. `code` is stable and
machine-readable; it is what `--json` prints and what documentation refers to.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command. Frozen: numbers are never reused."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    INFEASIBLE = 3
    ENVIRONMENT = 4
    PROBE = 5
    RUN_FAILED = 6
    BUDGET_STOP = 7
    LATE = 8
    STALE = 9
    NOT_CONFIRMED = 10
    PRICE_MOVED = 11
    CLEANUP = 12
    INTERRUPT = 130
    TERM = 143


class PlannerError(Exception):
    """Base of every error that planner raises on purpose.

    Args:
        text: What happened, and to what, in one sentence.
        hint: What to do next; None when there is nothing sensible to advise.
        code: Stable dotted identifier; each class has a default.
    """

    default_code = "internal"
    exit_code = ExitCode.INTERNAL

    def __init__(self, text: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint
        self.code = code or self.default_code

    def __str__(self) -> str:
        return self.text


class UsageError(PlannerError):
    """A flag, a value, a job file or a settings file is wrong. Nothing was changed."""

    default_code = "usage"
    exit_code = ExitCode.USAGE


class UnitError(UsageError):
    """A duration, a time, an amount of money or a size could not be understood."""

    default_code = "usage.unit"


class ConfigError(UsageError):
    """A job or settings file is wrong; the text names file, line, key and nearest valid key."""

    default_code = "usage.config"


class DataError(UsageError):
    """The data set is missing, empty, unreadable or unfit; the text names the file or folder."""

    default_code = "usage.data"


class NotFoundError(UsageError):
    """No run, option or estimate goes by that name."""

    default_code = "usage.not_found"


class TransitionError(UsageError):
    """A run was asked to make a move that its state does not allow."""

    default_code = "run.transition"


class InfeasibleError(PlannerError):
    """No option meets the goal at the confidence that was asked for."""

    default_code = "infeasible"
    exit_code = ExitCode.INFEASIBLE


class EnvironmentFault(PlannerError):
    """Something outside planner is unusable: disk, permissions, scheduler, credentials, driver."""

    default_code = "environment"
    exit_code = ExitCode.ENVIRONMENT


class RunnerError(EnvironmentFault):
    """A runner could not start, reach or stop something."""

    default_code = "environment.runner"


class StoreError(EnvironmentFault):
    """The state directory cannot be read or written."""

    default_code = "environment.store"


class EvidenceError(PlannerError):
    """There is too little evidence for a prediction, for example because every probe failed."""

    default_code = "probe"
    exit_code = ExitCode.PROBE


class BudgetStopError(PlannerError):
    """The run was stopped by its cap; the checkpoint is kept and everything was released."""

    default_code = "run.budget"
    exit_code = ExitCode.BUDGET_STOP


class NotConfirmedError(PlannerError):
    """A confirmation was refused, or was needed and could not be asked for."""

    default_code = "not_confirmed"
    exit_code = ExitCode.NOT_CONFIRMED


class PriceMovedError(PlannerError):
    """The price rose above the accepted maximum between plan and launch."""

    default_code = "price.moved"
    exit_code = ExitCode.PRICE_MOVED


class CleanupError(PlannerError):
    """Something may still be running or billing; the text lists it with how to remove it."""

    default_code = "cleanup"
    exit_code = ExitCode.CLEANUP
