"""A training run of the SDK in a test: its files, its control file, its real processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .nursery import Child, Nursery

Process = subprocess.Popen[str] | Child


def events(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """What a worker said, all of it or one kind."""
    said = [json.loads(line) for line in path.read_text().splitlines()]
    return [event for event in said if kind in (None, event["type"])]


class Bench:
    """One run's files, and the processes that work on it.

    Attributes:
        nursery: Where they are forked; None starts them as on any machine, which takes seconds
            where they import torch.
    """

    def __init__(self, root: Path, stage: Path, nursery: Nursery | None = None) -> None:
        self.nursery = nursery
        self.root = root
        self.stage = stage
        self.checkpoints = root / "checkpoints"
        self.control = root / "control.json"
        self.attempt = 0

    def order(self, **said: object) -> None:
        """Write the control file as planner does."""
        beside = self.control.with_suffix(".new")
        beside.write_text(json.dumps(said))
        beside.rename(self.control)

    def environment(self, rank: int = 0, **variables: object) -> dict[str, str]:
        """planner's variables for one worker; those given go before the usual ones."""
        usual = {
            "PLANNER_EVENTS": self.events_path(rank),
            "PLANNER_CONTROL": self.control,
            "PLANNER_CHECKPOINT_DIR": self.checkpoints,
            "PLANNER_CREW_DIR": self.root / f"crew-{self.attempt}",
            "RANK": rank,
        }
        return {name: str(value) for name, value in (usual | variables).items()}

    def events_path(self, rank: int = 0) -> Path:
        return self.root / f"events-{self.attempt}-{rank}.ndjson"

    def script(self, text: str) -> Path:
        path = self.root / "train.py"
        path.write_text(textwrap.dedent(text))
        return path

    def start(
        self,
        script: Path,
        *,
        workers: int = 1,
        **variables: object,
    ) -> list[Process]:
        """Start every worker as a real process; the next attempt of this run."""
        self.attempt += 1
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        basic = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        shared: dict[str, object] = {
            "PYTHONPATH": self.stage,
            "OMP_NUM_THREADS": 1,
            "WORLD_SIZE": workers,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        return [
            self._start(script, rank, basic | self.environment(rank, **(shared | variables)))
            for rank in range(workers)
        ]

    def _start(self, script: Path, rank: int, env: dict[str, str]) -> Process:
        if self.nursery is not None:
            out, err = (self.root / f"{name}-{self.attempt}-{rank}.txt" for name in ("out", "err"))
            return self.nursery.start(script, env, out, err)
        return subprocess.Popen(
            [sys.executable, str(script)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, processes: Sequence[Process]) -> list[subprocess.CompletedProcess[str]]:
        """Wait for all of them; none is left running."""
        done = []
        try:
            for process in processes:
                out, err = process.communicate(timeout=100)
                done.append(subprocess.CompletedProcess([], process.returncode, out, err))
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        return done

    def run(self, script: Path, **options: Any) -> list[subprocess.CompletedProcess[str]]:
        return self.finish(self.start(script, **options))
