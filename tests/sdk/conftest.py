"""How these tests start workers: in this process, or as real processes with planner's variables."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.nursery import Nursery
from support.sdkbench import Bench

import planner.sdk
from planner.sdk.courier import Courier

SDK = Path(planner.sdk.__file__).parent


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """`attach` takes SIGTERM and SIGUSR1; give them back after each test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def couriers_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker's courier works until its process ends; in this one they would add up."""
    made: list[Courier] = []
    begin = Courier.__init__

    def begun(courier: Courier, *args: Any, **kwargs: Any) -> None:
        begin(courier, *args, **kwargs)
        made.append(courier)

    monkeypatch.setattr(Courier, "__init__", begun)
    yield
    for courier in made:
        courier.close()


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SDK as runners stage it: alone, without the rest of planner."""
    folder = tmp_path_factory.mktemp("stage")
    shutil.copytree(SDK, folder / "planner" / "sdk", ignore=shutil.ignore_patterns("_stage"))
    (folder / "planner" / "__init__.py").touch()
    shutil.copy(SDK / "_stage" / "sitecustomize.py", folder)
    return folder


@pytest.fixture(scope="session")
def nursery(stage: Path) -> Iterator[Nursery]:
    """Where workers are forked that would each take seconds to import torch."""
    made = Nursery(stage)
    yield made
    made.close()


@pytest.fixture
def bench(tmp_path: Path, stage: Path) -> Bench:
    return Bench(tmp_path, stage)


@pytest.fixture
def forking(bench: Bench, nursery: Nursery) -> Bench:
    """`bench`, with its workers forked in the nursery."""
    bench.nursery = nursery
    return bench


@pytest.fixture
def here(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make this process a worker of `bench`; each call is the next attempt."""

    def enter(**variables: object) -> None:
        bench.attempt += 1
        for name, value in bench.environment(**variables).items():
            monkeypatch.setenv(name, value)

    return enter
