"""The digits example from end to end: estimated, run, looked at, as docs/ and README say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.realruns import ROOT, Work

pytestmark = pytest.mark.torch

EPOCHS = 6  # of the example's 12: half the time, and enough for 98 % on the test images
PROBE_STEPS = 15  # of 30
MICRO_BATCHES = [32, 64]  # not smaller ones too, which take twice as long where there is no GPU


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    """A copy of the example without its data, which it writes itself."""
    folder = tmp_path / "digits"
    shutil.copytree(ROOT / "examples/digits", folder, ignore=shutil.ignore_patterns("data"))
    job = folder / "job.toml"
    text = job.read_text()
    for line, shorter in (
        ("epochs = 12", f"epochs = {EPOCHS}"),
        ("steps = 30", f"steps = {PROBE_STEPS}"),
        ("[probe]", f"micro_batches = {MICRO_BATCHES}\n\n[probe]"),
    ):
        assert line in text
        text = text.replace(line, shorter)
    job.write_text(text)
    work = Work(folder)
    yield work
    work.end_all()


def assert_valid(document: Any, name: str) -> None:
    schema = json.loads((ROOT / f"planner/wire/schemas/{name}.v1.json").read_text())
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
    assert errors == []


@pytest.mark.timeout(600)  # minutes of training, on a machine that may be shared
def test_digits_from_estimate_to_report(work: Work) -> None:
    subprocess.run([sys.executable, "prepare.py"], cwd=work.path, check=True)
    estimate = work.json("estimate", "job.toml", "--deadline", "10m")
    assert_valid(estimate, "estimate")
    assert {probe["state"] for probe in estimate["probes"]} == {"ok"}
    picked = estimate["recommendation"]["option_id"]

    goal = ("--deadline", "10m", "--budget", "1")
    run = work.json("run", "job.toml", *goal, "--yes")
    assert_valid(run, "run")
    assert (run["state"], run["option_id"]) == ("done", picked)
    assert run["estimate_id"] == estimate["estimate_id"], "what was shown is what is run"
    assert run["metrics"]["test_accuracy"] >= 0.95
    assert work.processes() == []

    report = json.loads(work.state.run(run["run_id"]).report.read_text())
    for measured, real in (("time_s", report["total_s"]), ("cost_usd", report["spent_usd"])):
        assert report[measured]["real"] == real > 0
        assert report[measured]["interval"]["lo"] < report[measured]["interval"]["hi"]
        assert isinstance(report[measured]["within"], bool)
    assert report["work"]["epochs"] == run["progress"]["epochs"] == EPOCHS

    status = work.json("status")
    assert_valid(status, "runs")
    assert [row["run_id"] for row in status["runs"]] == [run["run_id"]]
    compared = work.json("compare", estimate["estimate_id"], "@last")
    assert_valid(compared, "comparison")
    assert work.processes() == []
