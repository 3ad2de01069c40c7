"""One call of planner: its global options, its services, its settings."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from planner.config.settings import Settings
    from planner.services.api import Services


@dataclass(slots=True, kw_only=True)
class Invocation:
    """What was said before the command's name, and the command after `--`.

    `arguments` are all of planner's own, as they were typed.
    """

    arguments: tuple[str, ...] = ()
    command: tuple[str, ...] | None = None
    config: Path | None = None
    state_dir: Path | None = None
    ascii: bool = False

    def line(self, *more: str) -> str:
        """The whole command line with `more` added to planner's own part, to be typed again."""
        from planner.core.redact import redact

        command = () if self.command is None else ("--", *self.command)
        return redact(shlex.join(("planner", *self.arguments, *more, *command)))

    def state_folder(self) -> Path:
        """The state directory."""
        from planner.config.locations import state_dir

        return state_dir(self.state_dir)

    def services(self) -> Services:
        """The live services on the state directory."""
        return open_services(self.state_dir)

    def settings(self) -> Settings:
        """The effective settings.

        Raises:
            ConfigError: A settings file is wrong.
        """
        from planner.config.settings import load_settings

        return load_settings(self.config)


def open_services(state_dir_given: Path | None) -> Services:
    """The services that commands talk to. Tests put their own here."""
    from planner.config.locations import state_dir
    from planner.services.live import LiveServices

    return LiveServices(state_dir(state_dir_given))


def of(context: typer.Context) -> Invocation:
    """The invocation that a command belongs to."""
    invocation: Invocation = context.find_root().obj
    return invocation
