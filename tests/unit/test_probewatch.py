"""What a probe's watch makes of the events of the workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.services.estimating.probewatch import ProbeWatch


def watch_of(folder: Path, *events: dict[str, Any]) -> ProbeWatch:
    lines = [json.dumps(event) + "\n" for event in events]
    (folder / "events-0.ndjson").write_text("".join(lines))
    watch = ProbeWatch(folder, 1)
    watch.read()
    return watch


def steps(t: float, *times: float) -> dict[str, Any]:
    return {"t": t, "type": "steps", "step_time_s": list(times), "wait_s": [0.0] * len(times)}


def passes(folder: Path, **stall: float) -> ProbeWatch:
    """Three passes over 20 samples, 8 a step: each ends with half a step, then an evaluation."""
    return watch_of(
        folder,
        {"t": 5.0, "type": "attached", "samples": 20, "global_batch": 8, "steps_per_epoch": 3},
        steps(8.0, 2.0, 1.0, 0.5),
        {"t": 9.0, "type": "epoch", "tail_s": 0.9},
        steps(11.0, 1.0, 1.0, 0.5),
        {"t": 12.0, "type": "epoch", "tail_s": 1.1},
        steps(14.0, 1.0, 1.0, 0.5),
        {"t": 14.1, "type": "checkpoint", "duration_s": 0.1, **stall, "bytes": 10},
        {"t": 14.1, "type": "probe_finished"},
    )


def test_each_evaluation_and_each_shorter_step_of_a_probe_is_accounted_for(tmp_path: Path) -> None:
    watch = passes(tmp_path)
    assert watch.full_steps()[0] == [2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert watch.first_step_at == 4.5
    # 16 s of wall time: 4.5 starting, 8.5 in steps, 2 in evaluations, 0.1 in the checkpoint, and
    # the first step took a second longer than the others.
    rest_s = watch.rest_s(16.0, 4.5, dropped=1)
    assert rest_s == pytest.approx(16.0 - 4.5 - 8.5 - 2.0 - 0.1 + 1.0)


def test_a_checkpoint_takes_as_long_as_training_stands_still_for_it(tmp_path: Path) -> None:
    assert passes(tmp_path).checkpoints_s == [0.1]  # of a job that does not tell the two apart
    assert passes(tmp_path, stall_s=0.09).checkpoints_s == [0.09]


def test_a_warm_up_faster_than_the_steady_state_gives_no_time_back(tmp_path: Path) -> None:
    watch = watch_of(tmp_path, steps(8.0, 0.5, 0.5, 1.0, 1.0))
    assert watch.rest_s(9.0, 5.0, dropped=2) == pytest.approx(1.0)
    assert watch.rest_s(9.0, 5.0, dropped=0) == pytest.approx(1.0)


def test_clocks_that_disagree_never_make_the_rest_negative(tmp_path: Path) -> None:
    assert passes(tmp_path).rest_s(10.0, 4.5, dropped=0) == 0.0


def test_what_training_keeps_is_told_at_the_end_of_a_probe(tmp_path: Path) -> None:
    told = {"model_bytes": 40, "gradient_bytes": 40, "optimizer_bytes": None}
    watch = watch_of(
        tmp_path,
        {"t": 1.0, "type": "memory", "peak_device_bytes": 90, "reserved_device_bytes": 100},
        {"t": 2.0, "type": "memory", "peak_device_bytes": 95, "reserved_device_bytes": 98},
        {"t": 3.0, "type": "probe_finished", **told},
    )
    assert (watch.peak_device_bytes, watch.reserved_device_bytes) == (95, 100)
    found = (watch.model_bytes, watch.gradient_bytes, watch.optimizer_bytes)
    assert found == (40, 40, None)


def test_a_job_that_does_not_tell_what_it_keeps_is_watched_all_the_same(tmp_path: Path) -> None:
    assert passes(tmp_path).model_bytes is None
