"""Keeps the state of training: where it stands, saving it, going on from it."""

from __future__ import annotations

import time
from typing import Any

from planner.sdk import randomness
from planner.sdk.checkpoint import CheckpointFolder
from planner.sdk.courier import Courier
from planner.sdk.distributed import Workers
from planner.sdk.environment import WorkerEnv
from planner.sdk.errors import SdkError, tell
from planner.sdk.state import (
    Parts,
    Position,
    Random,
    apply_states,
    check_loadable,
    read_position,
    unloadable,
    write_state,
)


class Keeper:
    """The position of training and its checkpoints. Every worker calls the same at the same step.

    Attributes:
        at: Where training stands.
        resumed: What it went on from, as the `attached` event says it; None at a fresh start.
    """

    def __init__(self, env: WorkerEnv, parts: Parts, workers: Workers, courier: Courier) -> None:
        self.at = Position(seed=env.seed)
        self.resumed: dict[str, Any] | None = None
        self.saved_at_s = time.monotonic()
        self._parts = parts
        self._workers = workers
        self._courier = courier
        self._folder: CheckpointFolder | None = None
        if env.checkpoint_dir is not None:
            self._folder = CheckpointFolder(env.checkpoint_dir, check_loadable)
        self._saved: Position | None = None
        self._rng: Random | None = None  # what is still to be restored
        self._epoch_start = b""
        if self._folder is not None and env.probe_steps is None:
            self._resume(self._folder)

    def begin(self, *, planned: bool, dataset_samples: int | None) -> None:
        """The loader is known.

        Raises:
            SdkError: It is not the one that the checkpoint was made with.
        """
        if self.resumed is not None and self.at.dataset_samples != dataset_samples:
            raise SdkError(
                f"the data set has {dataset_samples} samples, but the checkpoint was made with "
                f"{self.at.dataset_samples}: start a new run for it"
            )
        if self.resumed is not None and self.at.planned != planned:
            raise SdkError("the loader is of another kind than the checkpoint was made with")
        self.at = self.at._replace(planned=planned, dataset_samples=dataset_samples)

    def advance(self, position: int, samples: int) -> None:
        """One more step is done."""
        at = self.at
        self.at = Position(  # `_replace` takes twice as long, and this is done at every step
            at.epoch,
            position,
            at.step + 1,
            at.samples + samples,
            at.seed,
            at.planned,
            at.dataset_samples,
        )

    def mark_epoch_start(self) -> None:
        """Remember the random state that a loader's own order is about to be drawn from."""
        if not self.at.planned:
            self._epoch_start = randomness.capture()

    def restore_random(self, *, at_epoch_start: bool) -> None:
        """Restore what the checkpoint holds, once: the states must be those of that boundary.

        A loader draws from them when it is started; in the middle of an epoch that happened before
        the checkpoint, so they are restored after it.
        """
        if self._rng is None:
            return
        if at_epoch_start and self.at.position > 0:
            if not self.at.planned:
                self._restore(self._rng.epoch_start)
            return
        self._restore(self._rng.now)
        self._rng = None

    def save(self, reason: str, *, random: bytes | None = None) -> bool:
        """Write a checkpoint of this boundary; whether it is on the disk.

        `random` is this worker's random state at the boundary, if it is not that of now.

        A failure is reported and leaves the checkpoints before it as they were.
        """
        if self._folder is None:
            return False
        if self._saved == self.at:
            return True
        started_s = time.perf_counter()
        rng = Random(
            now=tuple(self._workers.collect(random or randomness.capture())),
            epoch_start=tuple(self._workers.collect(self._epoch_start)),
        )
        failed = 0
        if self._workers.leads:
            failed = int(not self._write(self._folder, rng, reason, started_s))
        failed = self._workers.highest([failed])[0]
        self.saved_at_s = time.monotonic()
        if failed:
            return False
        self._saved = self.at
        return True

    def _write(self, folder: CheckpointFolder, rng: Random, reason: str, started_s: float) -> bool:
        at = self.at
        try:
            written = folder.write(at.step, lambda path: write_state(path, self._parts, at, rng))
        except Exception as error:
            text = f"{type(error).__name__}: {error}" + self._blamed(error)
            tell(f"checkpoint at step {at.step} failed ({text}); those before it are untouched")
            self._courier.say("checkpoint_failed", at_once=True, step=at.step, error=text)
            return False
        self._courier.say(
            "checkpoint",
            at_once=True,
            path=str(written.path),
            step=at.step,
            epoch=at.epoch,
            samples=at.samples,
            bytes=written.size_bytes,
            sha256=written.sha256,
            duration_s=round(time.perf_counter() - started_s, 4),
            reason=reason,
        )
        return True

    def _blamed(self, error: Exception) -> str:
        """Which of the script's values made `error`, where it is one of them."""
        if isinstance(error, OSError):
            return ""
        try:
            found = unloadable(self._parts)
        except Exception:  # a state_dict that raises is what `error` tells already
            return ""
        return f": {found}; a state_dict must hold tensors and plain values" if found else ""

    def _resume(self, folder: CheckpointFolder) -> None:
        newest = folder.newest_good() if self._workers.leads else None
        name = self._workers.from_leader(newest.name if newest is not None else "")
        if not name:
            return
        path = folder.root / name
        self.at, self._rng = read_position(path)
        apply_states(path, self._parts)
        self._saved = self.at
        self.resumed = {
            "step": self.at.step,
            "epoch": self.at.epoch,
            "position": self.at.position,
            "path": str(path),
        }
        if self._workers.leads:
            tell(f"going on from {name}: epoch {self.at.epoch}, step {self.at.step}")

    def _restore(self, states: tuple[bytes, ...]) -> None:
        rank = self._workers.rank
        if len(states) == self._workers.count:
            randomness.restore(states[rank])
        else:
            randomness.reseed((self.at.seed * 1_000_003 + self.at.step * 1009 + rank) % 2**31)
