"""Settings: flags > `PLANNER_*` > `./planner.toml [settings]` > the user's file > defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.config.locations import config_file
from planner.config.settingsmodel import SettingsTable, UiTable
from planner.config.tomlfile import KeyPath, TomlFile, nearest, read_toml
from planner.config.validation import validate
from planner.core.errors import ConfigError

PROJECT_FILE = "planner.toml"
DEFAULT = "default"

_ENVIRONMENT_PREFIX = "PLANNER_UI_"
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective settings, and where each came from.

    Attributes:
        ui: `[ui]`.
        keymap: Keys by name of action.
        sources: By dotted name (`ui.theme`): `flag`, the variable, `file:line`, or `default`.
    """

    ui: UiTable
    keymap: Mapping[str, str]
    sources: Mapping[str, str]

    def rows(self) -> tuple[tuple[str, Any, str], ...]:
        """Name, value and source of every setting, in the order of the documentation."""
        ui = [(f"ui.{name}", getattr(self.ui, name)) for name in UiTable.model_fields]
        keys = [(f"keymap.{name}", key) for name, key in sorted(self.keymap.items())]
        return tuple((name, value, self.sources.get(name, DEFAULT)) for name, value in ui + keys)


def load_settings(
    config_path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The effective settings.

    Args:
        config_path: The user's file as given by a flag, which must exist; None takes the usual
            one, which need not.
        overrides: Values of flags by dotted name (`ui.theme`); None values do not count.
        folder: Where `planner.toml` is looked for; None takes the current folder.
        environ: Environment; None takes this process's.

    Raises:
        ConfigError: A file or variable is wrong: names file and line, or the variable.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def put(found: Mapping[str, Any], source: Mapping[str, str]) -> None:
        values.update(found)
        sources.update(source)

    user = config_path or config_file()
    if config_path is not None or user.is_file():
        put(*_from_file(read_toml(user, what="settings file"), ()))
    project = (folder or Path()) / PROJECT_FILE
    if project.is_file():
        put(*_from_file(read_toml(project, what="job file"), ("settings",)))
    put(*_from_environment(os.environ if environ is None else environ))
    flags = {name: value for name, value in (overrides or {}).items() if value is not None}
    put(flags, dict.fromkeys(flags, "flag"))
    table = SettingsTable.model_validate(_nested(values))
    return Settings(ui=table.ui, keymap=table.keymap, sources=sources)


def settings_schema() -> dict[str, Any]:
    """JSON Schema of a settings file."""
    schema = SettingsTable.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _from_file(file: TomlFile, at: KeyPath) -> tuple[dict[str, Any], dict[str, str]]:
    data: Any = file.data
    for part in at:
        data = data.get(part, {})
    table = validate(SettingsTable, data, file, at=at)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for group, entries in table.model_dump(exclude_unset=True).items():
        for name, value in entries.items():
            values[f"{group}.{name}"] = value
            sources[f"{group}.{name}"] = f"{file.path}:{file.line((*at, group, name))}"
    return values, sources


def _from_environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for variable, text in environ.items():
        if not variable.startswith(_ENVIRONMENT_PREFIX):
            continue
        name = variable.removeprefix(_ENVIRONMENT_PREFIX).lower()
        if name not in UiTable.model_fields:
            known = [f"{_ENVIRONMENT_PREFIX}{field.upper()}" for field in UiTable.model_fields]
            near = nearest(name, UiTable.model_fields)
            meant = f"; did you mean {_ENVIRONMENT_PREFIX}{near.upper()}?" if near else ""
            raise ConfigError(
                f"unknown environment variable {variable}{meant}", hint=f"known: {', '.join(known)}"
            )
        values[f"ui.{name}"] = _typed(variable, name, text)
        sources[f"ui.{name}"] = f"environment {variable}"
    return values, sources


def _typed(variable: str, name: str, text: str) -> Any:
    """The text of a variable as the setting's own type, checked."""
    value: Any = text
    if UiTable.model_fields[name].annotation is bool:
        if text.lower() not in _TRUE | _FALSE:
            raise ConfigError(f'{variable}: "{text}" is not true or false', hint="write 1 or 0")
        value = text.lower() in _TRUE
    try:
        return getattr(UiTable.model_validate({name: value}), name)
    except ValueError as exc:
        from pydantic import ValidationError

        reason = exc.errors()[0]["msg"] if isinstance(exc, ValidationError) else str(exc)
        raise ConfigError(f"{variable}: {reason}") from exc


def _nested(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    for dotted, value in values.items():
        group, name = dotted.split(".", 1)
        nested.setdefault(group, {})[name] = value
    return nested
