"""What was fitted on published measurements and comes with the package, as small JSON files."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data"


@cache
def machines() -> dict[str, Any]:
    """The prior of `predictors.machines.MachineRegressor`."""
    return _read("machines")


@cache
def scale_out() -> dict[str, Any]:
    """The prior of `predictors.scale_out.ScaleOutRegressor`."""
    return _read("scale_out")


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found
