"""The SDK needs nothing but Python, and does nothing without planner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import planner.sdk as sdk
from planner.sdk.environment import read_environment

LOADED = """
import json, sys
import planner.sdk, planner.sdk.shim
print(json.dumps(sorted(name for name in sys.modules if not name.startswith("_"))))
"""


def test_importing_the_sdk_loads_the_standard_library_only(stage: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-c", LOADED],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(stage)},
        capture_output=True,
        text=True,
        check=True,
    )
    others = {
        name
        for name in json.loads(done.stdout)
        if name.split(".")[0] not in sys.stdlib_module_names and not name.startswith("planner.sdk")
    }
    assert others == {"planner", "sitecustomize"} & others, "nothing but the SDK itself"
    assert "planner" in others


def test_without_planner_the_loops_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLANNER_EVENTS", raising=False)
    loader = [[1], [2]]
    job = sdk.attach(epochs=2, model=object(), optimizer=object())
    seen = [(epoch, batches) for epoch, batches in job.epochs(loader)]
    assert seen == [(0, loader), (1, loader)]
    assert all(batches is loader for _, batches in seen), "the script's own loader, untouched"
    assert job.log(loss=0.5) is None
    assert not job.probing
    assert job.gradients_ready()
    assert sdk.steps_per_epoch(loader) == 2


def test_save_without_load_is_refused() -> None:
    with pytest.raises(sdk.SdkError, match="together"):
        sdk.attach(epochs=1, save=lambda folder: None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PLANNER_GLOBAL_BATCH", "many"),
        ("PLANNER_MICRO_BATCH", "0"),
        ("PLANNER_LOADER_WORKERS", "-1"),
        ("PLANNER_CHECKPOINT_INTERVAL_S", "-5"),
        ("PLANNER_CHECKPOINT_INTERVAL_S", "soon"),
    ],
)
def test_a_variable_that_is_no_such_number_is_named(name: str, value: str) -> None:
    with pytest.raises(sdk.SdkError, match=name):
        read_environment({"PLANNER_EVENTS": "events", name: value})
