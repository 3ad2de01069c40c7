"""Launches of the fake runner for tests, on a clock that stands still until told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.core.clock import ManualClock
from planner.core.job import Place
from planner.core.types import ResourceConfig
from runners.base import Handle, LaunchSpec
from runners.fake import FakeRunner

SHORT = {"samples": 400, "epochs": 2, "start_s": 1.0, "seed": 3}
LONG = {"samples": 100_000, "epochs": 90}


def fake_spec(tmp_path: Path, settings: dict[str, Any], **changes: Any) -> LaunchSpec:
    (tmp_path / "attempt").mkdir(exist_ok=True)
    spec = LaunchSpec(
        run_id=f"r-{tmp_path.name}",
        attempt=1,
        idempotency_key="key-1",
        argv=("python", "train.py"),
        workdir=str(tmp_path),
        env={
            "PLANNER_GLOBAL_BATCH": "128",
            "PLANNER_MICRO_BATCH": "64",
            "PLANNER_CONTROL": str(tmp_path / "control.json"),
            "PLANNER_CHECKPOINT_DIR": str(tmp_path / "checkpoints"),
            "PLANNER_CHECKPOINT_INTERVAL_S": "600",
        },
        resources=ResourceConfig(
            runner="fake",
            pool="gpu",
            market="local",
            gpu="FakeGPU-16G",
            gpus_per_node=changes.get("workers", 1),
            workers_per_node=changes.pop("workers", 1),
        ),
        place=Place(runner="fake", pool="gpu", settings=settings),
        attempt_dir=str(tmp_path / "attempt"),
        stage_dir=str(tmp_path),
        stop_grace_s=10.0,
        crew_dir=str(tmp_path / "crew"),
    )
    return replace(spec, **changes)


class Simulated:
    """A launched simulation, its units, and what they said."""

    def __init__(self, tmp_path: Path, settings: dict[str, Any], **changes: Any) -> None:
        self.clock = ManualClock()
        self.runner = FakeRunner(self.clock)
        self.tmp_path = tmp_path
        self.folder = tmp_path / "attempt"
        self.settings = settings
        self.handle = self.runner.launch(fake_spec(tmp_path, settings, **changes))
        self.seq = 0

    def run(self, every_s: float = 1.0, at_most_s: float = 1e6) -> int | None:
        """Its first worker's exit code, once the first unit ended or that time is over."""
        waited_s = 0.0
        while self.runner.poll(self.handle).running and waited_s < at_most_s:
            self.clock.sleep(every_s)
            waited_s += every_s
        return self.runner.poll(self.handle).exit_codes[0]

    def grow(self, number: int, *, workers: int = 1, size: int = 2, **settings: Any) -> Handle:
        """A unit beside the first one."""
        folder = self.folder / f"units/{number}"
        folder.mkdir(parents=True)
        spec = fake_spec(
            self.tmp_path,
            {**self.settings, **settings},
            workers=workers,
            attempt_dir=str(folder),
            idempotency_key=f"unit-{number}",
            first_worker=number,
        )
        spec = replace(spec, env={**spec.env, "WORLD_SIZE": str(size)})
        return self.runner.grow(self.handle, spec)

    def ask(self, id_: str, **wanted: Any) -> None:
        """Put a wish into the control file; it is read at the next look."""
        self.control(adjust={"id": id_, **wanted})

    def control(self, **said: Any) -> None:
        """Write the control file anew."""
        self.seq += 1
        (self.tmp_path / "control.json").write_text(json.dumps({"seq": self.seq, **said}))

    def events(self, kind: str, rank: int = 0) -> list[dict[str, Any]]:
        """What a worker said of one type, by its number."""
        return [event for event in self.said(rank) if event["type"] == kind]

    def said(self, number: int) -> list[dict[str, Any]]:
        """All that a worker said, by its number."""
        (path,) = self.folder.rglob(f"events-{number}.ndjson")
        return [json.loads(line) for line in path.read_text().splitlines()]

    def all_events(self, kind: str) -> list[dict[str, Any]]:
        """What all workers said of one type, in order of time."""
        texts = (path.read_text() for path in self.folder.rglob("events-*.ndjson"))
        events = (json.loads(line) for text in texts for line in text.splitlines())
        return sorted((e for e in events if e["type"] == kind), key=lambda e: float(e["t"]))
