"""From a command line to a job: which flags are knobs, what the job is called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from planner.config import command, paths
from planner.core.errors import ConfigError, UsageError

# Flags of training scripts, by what they mean. The first name of a line is the placeholder.
_FLAGS = {
    "data": ("--data", "--data-path", "--data-dir", "--data-root", "--dataset-dir", "--root"),
    "epochs": ("--epochs", "--num-epochs", "--max-epochs", "--num-train-epochs"),
    "micro_batch": ("--batch-size", "--train-batch-size", "--batch", "-b"),
    "loader_workers": ("--workers", "--num-workers", "--loader-workers", "-j"),
    "seed": ("--seed",),
}
_MEANING = {name: placeholder for placeholder, names in _FLAGS.items() for name in names}
_LAUNCHERS = ("torchrun", "accelerate", "deepspeed", "mpirun", "mpiexec", "srun")
_PLAIN_NAMES = ("train", "main", "run", "trainer", "finetune", "__main__")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """A command line with the values of known flags taken out and placeholders put in.

    Attributes:
        command: The template.
        flags: Flag that each placeholder came from.
        numbers: Whole numbers by placeholder.
        data: The data set as it was written.
    """

    command: tuple[str, ...]
    flags: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    data: str | None = None


def recognise(argv: Sequence[str]) -> Recognised:
    """Find the flags that planner knows, written `--flag value` or `--flag=value`.

    Raises:
        UsageError: Empty, with a launcher of its own, with a secret, or an unknown placeholder.
    """
    _refuse(argv)
    found = Recognised(command=())
    template: list[str] = []
    data: str | None = None
    waiting: str | None = None
    for argument in argv:
        flag, equals, joined = argument.partition("=")
        if waiting is not None:
            head, value, meaning = "", argument, _MEANING[_spelled(waiting)]
        elif equals and _spelled(flag) in _MEANING:
            head, value, meaning = f"{flag}=", joined, _MEANING[_spelled(flag)]
        else:
            waiting = argument if _spelled(argument) in _MEANING else None
            template.append(argument)
            continue
        source, waiting = waiting or flag, None
        if meaning in found.flags or not _take(found, meaning, value):
            template.append(argument)
            continue
        found.flags[meaning] = source
        data = value if meaning == "data" else data
        template.append(f"{head}{{{meaning}}}")
    return Recognised(command=tuple(template), flags=found.flags, numbers=found.numbers, data=data)


def job_name(argv: Sequence[str], folder: Path) -> str:
    """A name for the job: the script's, or its folder's when the script is called `train`."""
    named = next((argument for argument in argv if argument.endswith(".py")), None)
    script = command.script_path(argv, folder) or folder / (named or argv[0])
    stem, parent = script.stem, script.parent.name
    if stem.lower() in _PLAIN_NAMES and paths.safe_name(parent):
        stem = parent
    return paths.safe_name(stem) or "job"


def _take(found: Recognised, meaning: str, value: str) -> bool:
    """Whether the value fits what the flag means; numbers are kept."""
    if meaning == "data":
        return bool(value) and "{" not in value and not value.startswith("-")
    if not (value.isascii() and value.isdigit()):
        return False
    number = int(value)
    if number < 1 and meaning in ("epochs", "micro_batch"):
        return False
    found.numbers[meaning] = number
    return True


def _spelled(flag: str) -> str:
    return flag.replace("_", "-") if flag.startswith("--") else flag


def _refuse(argv: Sequence[str]) -> None:
    if not argv or not argv[0]:
        raise UsageError("there is no command", hint="planner init -- python train.py --data data")
    launcher = os.path.basename(argv[0])
    if launcher in _LAUNCHERS:
        raise UsageError(
            f"planner starts the workers itself, and {launcher} would start them once more",
            hint="give the command of one worker: python train.py ...",
        )
    try:
        command.check_secrets(argv)
    except ConfigError as exc:
        raise ConfigError(f"the command: {exc.text}", hint=exc.hint, code=exc.code) from exc
