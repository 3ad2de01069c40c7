"""The digits example: its data, and a probe of its script with two workers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.sdkbench import Bench, events

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"


def prepare(out: Path) -> dict[str, bytes]:
    script = EXAMPLE / "prepare.py"
    subprocess.run([sys.executable, str(script), "--out", str(out)], check=True)
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.png"))}


@pytest.mark.torch
def test_the_data_is_written_once_whole_and_by_class_and_the_script_trains_on_it(
    bench: Bench,
) -> None:
    data = bench.root / "data"
    images = prepare(data)
    assert len(images) == 1797
    splits = Counter(name.split("/")[0] for name in images)
    assert splits == {"train": 1259, "val": 269, "test": 269}
    classes = Counter(tuple(name.split("/")[:2]) for name in images)
    assert all(24 <= count <= 30 for (split, _), count in classes.items() if split != "train")
    written = (data / "train/0").stat().st_mtime_ns
    assert prepare(data) == images
    assert (data / "train/0").stat().st_mtime_ns == written, "not written again"
    shutil.rmtree(data / "val/3")
    assert prepare(data) == images, "what was lost is back, the same"

    script = bench.script(
        "import runpy, sys\n"
        f"sys.argv = ['train.py', '--data', {str(data)!r}, '--epochs', '3']\n"
        f"runpy.run_path({str(EXAMPLE / 'train.py')!r}, run_name='__main__')"
    )
    shape = {"PLANNER_GLOBAL_BATCH": 16, "PLANNER_MICRO_BATCH": 4, "PLANNER_PROBE_STEPS": 2}
    done = bench.run(script, workers=2, **shape)
    assert [d.returncode for d in done] == [0, 0], done[0].stderr
    assert "val_accuracy" in done[0].stdout
    assert events(bench.events_path(), "probe_finished")[0]["steps"] == 2
    assert events(bench.events_path(), "checkpoint")[0]["bytes"] > 80_000_000
