"""Whatever is registered as a runner is held to the contract."""

from __future__ import annotations

import importlib

import pytest
from runner_contract import RunnerContract

from planner.core.errors import EnvironmentFault, UsageError
from runners import registry
from runners.base import Runner


@pytest.mark.parametrize("name", registry.runner_names())
def test_every_registered_runner_is_held_to_the_contract(name: str) -> None:
    module = importlib.import_module(f"test_{name}_runner")
    held = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, RunnerContract)
        if getattr(value, "name", None) == name
    ]
    assert held, f"tests/contract/test_{name}_runner.py needs a subclass of RunnerContract"


@pytest.mark.parametrize("name", registry.runner_names())
def test_every_registered_runner_can_be_made_by_name(name: str) -> None:
    runner = registry.get_runner(name)
    assert isinstance(runner, Runner)
    assert runner.capabilities().name == name


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="'locl'") as caught:
        registry.get_runner("locl")
    assert "'local'" in (caught.value.hint or "")


def test_names_need_no_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda **_: ())
    assert registry.runner_names() == ("fake", "local")
    assert registry.get_runner("fake").capabilities().name == "fake"


def test_the_built_in_table_says_what_the_distribution_says() -> None:
    import tomllib
    from pathlib import Path

    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())
    assert project["project"]["entry-points"][registry.GROUP] == registry.BUILT_IN


@pytest.mark.parametrize("value", ["no_such_module:Runner", "runners.fake:Nothing"])
def test_a_runner_that_cannot_be_loaded_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    from importlib.metadata import EntryPoint

    point = EntryPoint("broken", value, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda **_: (point,))
    assert "broken" in registry.runner_names()  # known by name; not imported for that
    with pytest.raises(EnvironmentFault, match="broken"):
        registry.get_runner("broken")


def test_a_class_that_is_no_runner_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    point = EntryPoint("half", "builtins:dict", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda **_: (point,))
    with pytest.raises(EnvironmentFault, match="lacks methods"):
        registry.get_runner("half")


def test_asking_for_names_imports_no_runner() -> None:
    import subprocess
    import sys

    code = (
        "import sys, runners.registry as r; r.runner_names();"
        "bad = {'runners.local', 'runners.fake', 'psutil', 'pynvml'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
