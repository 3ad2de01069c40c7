"""The example of a language model: tried with its replicas spread both ways, and run as chosen."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.realruns import ROOT, Work

pytestmark = pytest.mark.torch

EPOCHS = 1
FEWER = (
    ("epochs = 12", f"epochs = {EPOCHS}\nworkers = [2]"),
    ("micro_batches = [8, 32]", "micro_batches = [16, 32]"),
    ("steps = 20", "steps = 6"),
    ("warmup = 5", "warmup = 1"),
    ("train.py", "train.py --text some.txt"),
)
"""What makes the example one of seconds."""


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    folder = tmp_path / "gpt"
    shutil.copytree(ROOT / "examples/gpt", folder)
    (folder / "some.txt").write_bytes((ROOT / "LICENSE").read_bytes()[:10_000])
    text = (folder / "job.toml").read_text()
    for line, shorter in FEWER:
        assert line in text
        text = text.replace(line, shorter, 1)
    (folder / "job.toml").write_text(text)
    work = Work(folder)
    yield work
    work.end_all()


def last_loss(text: str) -> float:
    found = re.findall(rf"epoch {EPOCHS}/{EPOCHS} loss (\S+)", text)
    assert found, text
    return float(found[-1])


@pytest.mark.timeout(300)  # a minute, on a machine that may be shared
def test_replicas_are_tried_both_ways_and_run_as_chosen(work: Work) -> None:
    estimate = work.json("estimate", "job.toml")
    assert {probe["state"] for probe in estimate["probes"]} == {"ok"}
    assert {probe["knobs"]["global_batch"] for probe in estimate["probes"]} == {32}
    tried = {(p["knobs"]["tensor_parallel"], p["knobs"]["micro_batch"]) for p in estimate["probes"]}
    assert {(1, 16), (2, 32)} <= tried
    knobs = {option["id"]: option["knobs"] for option in estimate["options"]}
    assert {k["tensor_parallel"] for k in knobs.values()} == {1, 2}
    for told in knobs.values():
        replicas = 2 // told["tensor_parallel"]
        assert replicas * told["micro_batch"] * told["accumulation"] == told["global_batch"] == 32

    shared = next(o for o in estimate["options"] if o["knobs"] == knobs_of(2, 32, like=knobs))
    assert shared["evidence"] == "probe"
    run = work.json("run", "job.toml", "--option", shared["id"], "--no-probe", "--yes")
    assert (run["state"], run["option_id"]) == ("done", shared["id"])

    alone = subprocess.run(
        [sys.executable, "train.py", "--text", "some.txt", "--epochs", str(EPOCHS)],
        cwd=work.path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert last_loss(work.planner("logs", run["run_id"])) == pytest.approx(
        last_loss(alone.stdout), rel=1e-3
    ), "two workers that share a replica train what one would"
    assert work.processes() == []


def knobs_of(
    tensor: int, micro_batch: int, *, like: dict[str, dict[str, object]]
) -> dict[str, object]:
    """The knobs of that kind among those that are offered."""
    wanted = {"tensor_parallel": tensor, "micro_batch": micro_batch}
    (found,) = (k for k in like.values() if wanted.items() <= k.items())
    return found
