"""A simulated launch in files: what was launched, and how far it is.

`fake.json` is written once for each unit. `fake-state.json` in the first one's folder holds the
job with all its units. It is overwritten in place at every step forward, since it must keep up
with a clock that runs thousands of times faster than time.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields
from pathlib import Path

from planner.core.errors import RunnerError
from runners.fakejob import Job
from runners.fakeorder import Order
from runners.fakestate import State

ORDER_NAME, STATE_NAME = "fake.json", "fake-state.json"
_STATE_FIELDS = tuple(field.name for field in fields(State))


class Files:
    """Jobs by attempt folder, read anew only when another instance wrote them since."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._seen: dict[str, bytes] = {}

    def exists(self, folder: str) -> bool:
        """Whether something was launched there."""
        return os.path.exists(f"{folder}/{ORDER_NAME}")

    def create(self, order: Order) -> None:
        """Write down a launch."""
        path = Path(order.attempt_dir, ORDER_NAME)
        for kept in (self._jobs, self._seen):
            kept.pop(order.attempt_dir, None)
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps(asdict(order)))
        beside.rename(path)

    def load(self, folder: str) -> Job:
        """The job, as it was left.

        Raises:
            RunnerError: Nothing was launched there.
        """
        try:
            fd = os.open(f"{folder}/{STATE_NAME}", os.O_RDONLY)
        except FileNotFoundError:
            return Job(self.order(folder))
        try:
            raw = os.read(fd, 1 << 24)
        finally:
            os.close(fd)
        if folder not in self._jobs:
            self._jobs[folder] = Job(self.order(folder))
        job = self._jobs[folder]
        if raw != self._seen.get(folder):
            job.restore(State(**dict(zip(_STATE_FIELDS, json.loads(raw), strict=True))))
            self._seen[folder] = raw
        return job

    def save(self, job: Job) -> None:
        """Write down how far it is."""
        folder, state = job.order.attempt_dir, job.state
        text = json.dumps([getattr(state, name) for name in _STATE_FIELDS]).encode() + b"\n"
        # Blanks over the rest of a longer one: one write, and never half of two states.
        raw = text.ljust(len(self._seen.get(folder, b"")))
        fd = os.open(f"{folder}/{STATE_NAME}", os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(fd, raw, 0)
        finally:
            os.close(fd)
        self._jobs[folder], self._seen[folder] = job, raw

    def order(self, folder: str) -> Order:
        """What was launched there.

        Raises:
            RunnerError: Nothing was launched there.
        """
        try:
            return Order(**json.loads(Path(folder, ORDER_NAME).read_bytes()))
        except FileNotFoundError as error:
            raise RunnerError(
                f"there is no simulated job in {folder}", hint="was its folder removed?"
            ) from error
