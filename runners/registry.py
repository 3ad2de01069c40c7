"""Runners by name: the entry-point group `planner.runners`, so that others can add their own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from planner.core.errors import EnvironmentFault, UsageError
from runners.base import Runner

GROUP = "planner.runners"
BUILT_IN: Mapping[str, str] = {
    "fake": "runners.fake:FakeRunner",
    "local": "runners.local:LocalRunner",
}
"""Also in pyproject.toml; used when planner runs from a checkout that was never installed."""


def runner_names() -> tuple[str, ...]:
    """Names of all runners, sorted. Imports none of them."""
    return tuple(sorted(_found()))


def get_runner(name: str) -> Runner:
    """A new runner of that name.

    Raises:
        UsageError: There is none of that name; the hint has the nearest one.
        EnvironmentFault: It is known but cannot be loaded.
    """
    found = _found()
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        meant = f"Did you mean {near[0]!r}? " if near else ""
        raise UsageError(
            f"there is no runner called {name!r}",
            hint=f"{meant}Known are: {', '.join(sorted(found))}.",
            code="usage.runner",
        )
    try:
        runner = found[name].load()()
    except (ImportError, AttributeError) as error:
        raise EnvironmentFault(
            f"runner {name!r} ({found[name].value}) cannot be loaded: {error}",
            hint="install what it needs, or reinstall train-planner",
            code="environment.runner_load",
        ) from error
    if not isinstance(runner, Runner):
        raise EnvironmentFault(
            f"runner {name!r} ({found[name].value}) lacks methods of the runner protocol",
            hint="it may have been made for another version of planner",
            code="environment.runner_load",
        )
    return runner


def _found() -> dict[str, EntryPoint]:
    built_in = {n: EntryPoint(n, value, GROUP) for n, value in BUILT_IN.items()}
    return built_in | {point.name: point for point in entry_points(group=GROUP)}
