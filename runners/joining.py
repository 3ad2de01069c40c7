"""What every runner that grows asks of a launch that joins another."""

from __future__ import annotations

from planner.core.errors import RunnerError
from runners.base import LaunchSpec


def wanted_size(spec: LaunchSpec) -> int:
    """How many workers the job is to have with those of this launch: the caller's `WORLD_SIZE`.

    Raises:
        RunnerError: The caller does not say.
    """
    text = spec.env.get("WORLD_SIZE", "")
    if not text.isdigit() or int(text) < 1:
        raise RunnerError(
            f"workers that join have to be told how many there will be, not WORLD_SIZE={text!r}",
            hint="the caller puts the wanted number into the launch's environment",
        )
    return int(text)
