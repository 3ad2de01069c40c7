"""The simulated job is changed while it runs: docs/adjust.md, kept by the fake runner."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from simulated import LONG, Simulated, fake_spec

from runners.base import Handle, Signal
from runners.fake import FakeRunner

STEADY = {**LONG, "jitter": 0.0}
"""128 samples a step, 64 at once: two passes for one worker."""
ADJUSTED_KEYS = {
    *(
        "t",
        "type",
        "id",
        "reason",
        "step",
        "epoch",
        "position",
        "samples",
        "generation",
        "crew",
        "lost",
    ),
    *("global_batch", "micro_batch", "accumulation", "loader_workers", "memory", "lr_scale"),
    *(
        "steps_per_epoch",
        "first_step_t",
        "stall_s",
        "step_time_s",
        "redone_samples",
        "lost_samples",
    ),
}


def step_times(job: Simulated) -> list[float]:
    return [t for event in job.all_events("steps") for t in event["step_time_s"]]


def settled(job: Simulated, **settings: Any) -> Handle:
    """A second worker that is ready."""
    unit = job.grow(1, **settings)
    job.run(at_most_s=10)
    return unit


# ---- joining


def test_a_worker_that_joins_says_so_and_waits(tmp_path: Path) -> None:
    job = Simulated(tmp_path, STEADY)
    job.run(at_most_s=10)
    unit = job.grow(1, size=2)
    job.run(at_most_s=10)
    attached, ready = job.said(1)
    assert (attached["type"], ready["type"]) == ("attached", "ready")
    assert (attached["rank"], attached["worker"], attached["joins"]) == (1, 1, True)
    assert (attached["world_size"], ready["worker"]) == (2, 1)
    assert attached["levers"] == [
        *("workers", "micro_batch", "loader_workers", "memory", "global_batch")
    ]
    assert job.runner.poll(unit).running
    assert job.runner.measure(unit)[0].gpu_utilisation == 0.0
    (first,) = job.events("attached")
    assert (first["worker"], first["joins"], first["levers"]) == (0, False, attached["levers"])


def test_a_crew_grows_at_a_step_boundary(tmp_path: Path) -> None:
    job = Simulated(tmp_path, STEADY, workers=1)
    job.run(at_most_s=20)
    unit = settled(job)
    job.ask("d1", crew=[0, 1])
    job.run(at_most_s=10)
    (adjusted,) = job.events("adjusted")
    assert set(adjusted) == ADJUSTED_KEYS
    assert (adjusted["id"], adjusted["reason"], adjusted["crew"]) == ("d1", "asked", [0, 1])
    assert (adjusted["micro_batch"], adjusted["accumulation"]) == (64, 1)
    assert (adjusted["lost"], adjusted["redone_samples"], adjusted["lost_samples"]) == ([], 0, 0)
    assert adjusted["samples"] == adjusted["step"] * 128
    assert adjusted["first_step_t"] == pytest.approx(adjusted["t"])
    job.run(at_most_s=10)
    before_s, after_s = step_times(job)[10], step_times(job)[-1]
    assert adjusted["step_time_s"] == pytest.approx(before_s)
    assert after_s < before_s
    assert adjusted["stall_s"] == pytest.approx(0.1 + after_s)
    assert job.events("memory", 1)
    assert job.runner.measure(unit)[0].gpu_utilisation > 0  # type: ignore[operator]
    assert not job.events("steps", 1)


def test_steps_are_counted_on_over_a_change(tmp_path: Path) -> None:
    job = Simulated(tmp_path, {**STEADY, "samples": 6400, "epochs": 3})
    job.run(at_most_s=5)
    settled(job)
    job.ask("d1", crew=[0, 1])
    job.run(at_most_s=3)
    job.ask("d2", crew=[1], micro_batch=32)
    assert job.run() == 0  # the first one left, the other finishes
    job.clock.sleep(60)
    job.runner.poll(job.handle)
    assert len(step_times(job)) == 150
    assert job.all_events("finished")[0]["samples"] == 3 * 6400
    assert [e["epoch"] for e in job.all_events("epoch")] == [0, 1, 2]


def test_training_goes_on_until_those_that_join_are_ready(tmp_path: Path) -> None:
    job = Simulated(tmp_path, STEADY)
    job.run(at_most_s=10)
    job.grow(1, start_s=30.0)
    job.ask("d1", crew=[0, 1])
    job.run(at_most_s=25)
    assert not job.events("adjusted")
    done = job.events("steps")[-1]["step"]
    job.run(at_most_s=25)
    (adjusted,) = job.events("adjusted")
    assert adjusted["step"] > done
    assert adjusted["t"] > job.events("ready", 1)[0]["t"]


def test_a_wish_is_answered_once_and_the_newest_one_counts(tmp_path: Path) -> None:
    job = Simulated(tmp_path, STEADY)
    job.run(at_most_s=10)
    job.grow(1, start_s=30.0)
    job.ask("d1", crew=[0, 1])
    job.run(at_most_s=10)
    job.ask("d2", micro_batch=32)  # d1 is no longer wanted
    job.run(at_most_s=10)
    job.control(checkpoint=1, adjust={"id": "d2", "micro_batch": 32})
    job.run(at_most_s=40)
    assert [e["id"] for e in job.events("adjusted")] == ["d2"]
    assert job.events("checkpoint")
    job.ask("d3", crew=[0, 1])
    job.control()  # nothing is wanted any more, before anybody looked
    job.run(at_most_s=10)
    assert len(job.events("adjusted")) == 1


# ---- leaving


def test_those_that_leave_exit_with_0_and_the_next_one_leads(tmp_path: Path) -> None:
    job = Simulated(tmp_path, STEADY, workers=2)
    job.run(at_most_s=10)
    unit = job.grow(2)
    job.run(at_most_s=10)
    job.ask("d1", crew=[1, 2])
    job.run(at_most_s=10)
    status = job.runner.poll(job.handle)
    assert status.running and status.exit_codes == (0, None)
    assert status.workers[0].ended_t is not None
    (left,) = job.events("left")
    assert (left["worker"], job.said(0)[-1]) == (0, left)
    (adjusted,) = job.events("adjusted", 1)
    assert (adjusted["crew"], adjusted["generation"]) == ([1, 2], 1)
    assert left["step"] == adjusted["step"]
    assert [m.rank for m in job.runner.measure(job.handle)] == [1]
    job.ask("d2", crew=[2])
    job.run(at_most_s=10)
    assert job.runner.poll(job.handle).exit_codes == (0, 0)
    job.runner.release(job.handle)
    job.control(checkpoint=1)
    job.clock.sleep(10)
    assert job.runner.poll(unit).running
    assert job.events("adjusted", 2)[0]["generation"] == 2
    assert job.events("steps", 2) and job.events("checkpoint", 2) and job.events("control", 2)
    assert job.events("steps", 1)[-1]["step"] < job.events("steps", 2)[0]["step"]
    job.runner.release(unit)
    assert job.runner.poll(unit).exit_codes == (75,)


def test_new_workers_take_over_from_all_that_trained(tmp_path: Path) -> None:
    job = Simulated(tmp_path, {**STEADY, "samples": 12_800, "epochs": 2}, workers=2)
    job.run(at_most_s=5)
    unit = job.grow(2, workers=2)
    job.ask("d1", crew=[3, 2])
    assert job.run(at_most_s=20) == 0
    assert job.runner.poll(job.handle).exit_codes == (0, 0)
    assert [job.said(n)[-1]["type"] for n in (0, 1)] == ["left", "left"]
    assert job.events("adjusted", 3)[0]["crew"] == [3, 2]
    job.clock.sleep(100)
    assert job.runner.poll(unit).exit_codes == (0, 0)
    assert job.events("finished", 3)[0]["samples"] == 25_600
    assert len(step_times(job)) == 200


def test_those_that_stay_come_first_in_their_order(tmp_path: Path) -> None:
    job = Simulated(tmp_path, STEADY, workers=2)
    job.grow(2)
    job.run(at_most_s=10)
    job.ask("d1", crew=[2, 1, 0])
    job.run(at_most_s=10)
    job.ask("d2", crew=[2, 0, 1])
    job.run(at_most_s=10)
    assert [(e["crew"], e["generation"]) for e in job.events("adjusted")] == [([0, 1, 2], 1)] * 2


def test_to_stop_one_unit_stops_the_crew(tmp_path: Path) -> None:
    job = Simulated(tmp_path, STEADY)
    unit = settled(job)
    job.ask("d1", crew=[0, 1])
    job.run(at_most_s=5)
    job.runner.signal(unit, Signal.STOP)
    assert job.run() == 75
    assert job.runner.poll(unit).exit_codes == (75,)
    assert len(job.all_events("stopping")) == 2


# ---- knobs


def test_a_micro_batch_is_told_as_it_was_asked_for_whatever_a_workers_share_is(
    tmp_path: Path,
) -> None:
    job = Simulated(tmp_path, STEADY, workers=2)
    job.run(at_most_s=10)
    job.ask("d1", micro_batch=96)
    job.run(at_most_s=10)
    (adjusted,) = job.events("adjusted")
    assert (adjusted["micro_batch"], adjusted["accumulation"]) == (96, 1)


def test_knobs_are_turned_between_two_steps(tmp_path: Path) -> None:
    job = Simulated(tmp_path, {**STEADY, "sync_s": 0.0})
    job.run(at_most_s=10)
    first_bytes = job.runner.measure(job.handle)[0].gpu_memory_bytes
    job.ask("d1", micro_batch=32, loader_workers=4)
    job.run(at_most_s=10)
    job.ask("d2", memory="low")
    job.run(at_most_s=10)
    low_bytes = job.runner.measure(job.handle)[0].gpu_memory_bytes
    job.ask("d3", memory="normal", micro_batch=64)
    job.run(at_most_s=10)
    shapes = [
        (e["micro_batch"], e["accumulation"], e["loader_workers"], e["memory"], e["global_batch"])
        for e in job.events("adjusted")
    ]
    assert shapes == [
        (32, 4, 4, "normal", 128),
        (32, 4, 4, "low", 128),
        (64, 2, 4, "normal", 128),
    ]
    first, normal, low = (e["step_time_s"] for e in job.events("adjusted"))
    assert normal != first and low == pytest.approx(1.3 * normal)
    assert (first_bytes, low_bytes) == (900_000_000 + 64 * 12_000_000, 900_000_000 + 32 * 6_000_000)
    assert {e["generation"] for e in job.events("adjusted")} == {0}
    assert job.runner.measure(job.handle)[0].gpu_memory_bytes == first_bytes


@pytest.mark.parametrize(
    ("rule", "scale"), [(None, 2.0), ("linear", 2.0), ("sqrt", 2**0.5), ("none", 1.0)]
)
def test_a_global_batch_is_changed_with_its_learning_rate(
    tmp_path: Path, rule: str | None, scale: float
) -> None:
    job = Simulated(tmp_path, {**STEADY, "samples": 25_600, "epochs": 2})
    job.run(at_most_s=10)
    job.ask("d1", global_batch=256, **({"lr_rule": rule} if rule else {}))
    job.run(at_most_s=10)
    (adjusted,) = job.events("adjusted")
    assert (adjusted["global_batch"], adjusted["accumulation"]) == (256, 4)
    assert adjusted["lr_scale"] == pytest.approx(scale)
    assert job.run() == 0
    before = adjusted["step"]
    assert adjusted["samples"] == before * 128
    left = 25_600 - before * 128
    assert len(step_times(job)) == before + -(-left // 256) + 100
    assert job.events("finished")[0]["samples"] == 51_200


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"crew": [0, 7]}, "no worker 7"),
        ({"crew": []}, "needs a worker"),
        ({"crew": [0, 0]}, "twice"),
        ({"crew": [0, 3]}, "worker 3 has ended"),
        ({"global_batch": 1}, "too small for 2 workers"),
        ({"crew": [0, 1, 2], "global_batch": 2}, "too small for 3 workers"),
        ({"micro_batch": 0}, "micro-batch"),
        ({"loader_workers": -1}, "loader"),
        ({"memory": "high"}, "'high'"),
        ({"global_batch": 256, "lr_rule": "cubic"}, "'cubic'"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_changes(
    tmp_path: Path, wanted: dict[str, Any], said: str
) -> None:
    job = Simulated(tmp_path, STEADY, workers=2)
    job.run(at_most_s=10)
    job.grow(2)
    job.runner.signal(job.grow(3), Signal.KILL)
    job.run(at_most_s=10)
    job.ask("d1", **wanted)
    job.run(at_most_s=10)
    (refused,) = job.events("adjust_refused")
    assert refused["id"] == "d1" and said in refused["reason"]
    assert not job.events("adjusted")
    assert job.runner.poll(job.handle).exit_codes == (None, None)
    job.ask("d2", crew=[0, 1, 2])
    job.run(at_most_s=10)
    assert job.events("adjusted")[0]["id"] == "d2"


@pytest.mark.parametrize(
    ("settings", "changes", "wanted"),
    [
        ({"levers": ("micro_batch",)}, {}, {"memory": "low"}),
        ({"levers": ()}, {}, {"micro_batch": 16}),
        ({}, {"crew_dir": None}, {"crew": [0, 1]}),
    ],
)
def test_a_lever_that_is_not_there_is_refused(
    tmp_path: Path, settings: dict[str, Any], changes: dict[str, Any], wanted: dict[str, Any]
) -> None:
    job = Simulated(tmp_path, {**STEADY, **settings}, **changes)
    settled(job)
    job.ask("d1", **wanted)
    job.run(at_most_s=10)
    assert "cannot change" in job.events("adjust_refused")[0]["reason"]


# ---- what goes wrong


def test_the_others_go_on_when_a_worker_is_lost(tmp_path: Path) -> None:
    job = Simulated(tmp_path, {**STEADY, "faults": ("lost@50",)}, workers=2)
    job.run(at_most_s=30)
    status = job.runner.poll(job.handle)
    assert status.running and status.exit_codes == (None, -9)
    (adjusted,) = job.events("adjusted")
    assert (adjusted["id"], adjusted["reason"], adjusted["lost"]) == (None, "lost", [1])
    assert (adjusted["step"], adjusted["crew"]) == (49, [0])
    assert (adjusted["redone_samples"], adjusted["lost_samples"]) == (128, 0)
    assert adjusted["accumulation"] == 2
    steps = job.events("steps")
    assert sum(len(e["step_time_s"]) for e in steps) == steps[-1]["step"] > 50


def test_a_job_of_one_worker_ends_when_it_is_lost(tmp_path: Path) -> None:
    job = Simulated(tmp_path, {**STEADY, "faults": ("lost@50",)})
    assert job.run(at_most_s=60) == -9
    assert job.events("steps")[-1]["step"] == 49


def test_a_killed_leader_is_followed_by_the_next(tmp_path: Path) -> None:
    job = Simulated(tmp_path, STEADY, workers=3)
    job.run(at_most_s=10)
    job.runner.shrink(job.handle, [0])
    job.run(at_most_s=10)
    (adjusted,) = job.events("adjusted", 1)
    assert (adjusted["lost"], adjusted["crew"], adjusted["reason"]) == ([0], [1, 2], "lost")
    assert adjusted["t"] > job.runner.poll(job.handle).workers[0].ended_t
    assert job.events("steps", 1)
    job.runner.signal(job.handle, Signal.KILL)
    assert job.runner.poll(job.handle).exit_codes == (-9, -9, -9)


def test_a_worker_that_joins_in_place_of_a_lost_one(tmp_path: Path) -> None:
    job = Simulated(tmp_path, {**STEADY, "faults": ("lost@50",)}, workers=2)
    job.run(at_most_s=30)
    unit = job.grow(2)
    job.ask("d1", crew=[0, 2])
    job.run(at_most_s=30)
    assert [e["crew"] for e in job.events("adjusted")] == [[0], [0, 2]]
    assert [e["generation"] for e in job.events("adjusted")] == [1, 2]
    assert job.runner.poll(unit).running


def test_a_worker_that_crashes_while_it_joins_disturbs_nobody(tmp_path: Path) -> None:
    job = Simulated(tmp_path, {**STEADY, "faults": ("join_crash@1",)})
    unit = settled(job)
    assert job.runner.poll(unit).exit_codes == (1,)
    assert "joining" in (job.folder / "units/1/worker-1.err").read_text()
    job.ask("d1", crew=[0, 1])
    job.run(at_most_s=10)
    assert job.events("adjust_refused")[0]["reason"] == "worker 1 has ended"
    job.grow(2)  # the fault is the other's alone
    job.ask("d2", crew=[0, 2])
    job.run(at_most_s=10)
    assert job.events("adjusted")[0]["crew"] == [0, 2]


def test_a_worker_that_never_gets_ready_is_waited_for(tmp_path: Path) -> None:
    job = Simulated(tmp_path, {**STEADY, "faults": ("never_ready",)})
    unit = settled(job)
    job.ask("d1", crew=[0, 1])
    job.run(at_most_s=300)
    assert [e["type"] for e in job.said(1)] == ["attached"]
    assert not job.events("adjusted") and not job.events("adjust_refused")
    job.runner.release(unit)
    assert job.runner.poll(unit).exit_codes == (75,)
    assert job.run(at_most_s=1) is None


# ---- files


@pytest.mark.parametrize("every_s", [0.25, 5.0])
def test_any_later_instance_goes_on_with_all_units(tmp_path: Path, every_s: float) -> None:
    told, times = [], []
    for anew in (False, True):
        (tmp_path / str(anew)).mkdir()
        job = Simulated(tmp_path / str(anew), {**LONG, "faults": ("lost@300",)})
        job.grow(1)
        job.ask("d1", crew=[0, 1], micro_batch=32)
        for _ in range(int(60 / every_s)):
            if anew:
                job.runner = FakeRunner(job.clock)
            job.run(every_s, at_most_s=every_s)
        told.append([(e["step"], e["crew"], e["stall_s"]) for e in job.events("adjusted")])
        times.append(step_times(job))
    assert len(told[0]) == 2
    assert told[0] == told[1] and times[0] == times[1]


def test_a_job_resumes_in_another_shape(tmp_path: Path) -> None:
    settings = {**STEADY, "samples": 12_800, "epochs": 2}
    job = Simulated(tmp_path, settings, workers=2)
    job.run(at_most_s=5)
    job.ask("d1", crew=[0], global_batch=64)
    job.run(at_most_s=5)
    job.runner.signal(job.handle, Signal.STOP)
    assert job.run() == 75
    (stopped,) = job.events("checkpoint")
    os.rename(tmp_path / "attempt", tmp_path / "attempt-1")
    (tmp_path / "control.json").unlink()
    spec = fake_spec(tmp_path, settings)
    more = {"PLANNER_GLOBAL_BATCH": "256", "PLANNER_MEMORY": "low", "PLANNER_LR_SCALE": "2.0"}
    again = Simulated(
        tmp_path, settings, attempt=2, idempotency_key="key-2", env={**spec.env, **more}, workers=4
    )
    again.run(at_most_s=5)
    position = json.loads((Path(stopped["path"]) / "state.json").read_text())["position"]
    assert stopped["samples"] == position
    assert again.events("attached")[0]["resumed"]["position"] == position
    again.ask("d2", micro_batch=32)
    again.run(at_most_s=2)
    (adjusted,) = again.events("adjusted")
    assert (adjusted["memory"], adjusted["lr_scale"], adjusted["global_batch"]) == ("low", 2.0, 256)
    assert again.run() == 0
    assert again.events("finished")[0]["samples"] == 25_600
