"""Where planner keeps things: the state directory and the user's settings file."""

from __future__ import annotations

import os
from pathlib import Path

_APP = "train-planner"


def state_dir(override: Path | None = None) -> Path:
    """The state directory, absolute: the flag, else `PLANNER_STATE_DIR`, else the user's own.

    It is not made here.
    """
    chosen = override or _from_environment("PLANNER_STATE_DIR")
    if chosen is None:
        from platformdirs import user_state_path

        chosen = user_state_path(_APP, appauthor=False)
    return Path(os.path.abspath(chosen.expanduser()))


def config_file() -> Path:
    """The user's settings file, absolute: `PLANNER_CONFIG`, else `config.toml` in its usual place.

    It need not exist.
    """
    chosen = _from_environment("PLANNER_CONFIG")
    if chosen is None:
        from platformdirs import user_config_path

        chosen = user_config_path(_APP, appauthor=False) / "config.toml"
    return Path(os.path.abspath(chosen.expanduser()))


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name, "")
    return Path(value) if value else None
