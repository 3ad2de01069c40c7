"""Keeps the state of training: where it stands, saving it, going on from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.sdk import randomness
from planner.sdk.checkpoint import AnotherLeads, CheckpointFolder
from planner.sdk.courier import Courier
from planner.sdk.crew.group import GroupBroken
from planner.sdk.distributed import Workers
from planner.sdk.environment import WorkerEnv
from planner.sdk.errors import SdkError, tell
from planner.sdk.state import (
    Parts,
    Position,
    Random,
    Snapshots,
    States,
    apply_states,
    check_loadable,
    parameter_bytes,
    read_position,
    states_of,
    unloadable,
    write_state,
)

SLOW_WRITE_S = 0.05
"""A checkpoint that takes longer than this is written while training goes on."""

LARGE_BYTES = 16 << 20
"""Parameters of this size are taken to be slow to write, until it was measured: a checkpoint is
flushed, hashed twice and read back, which takes 50 ms or more for them on a usual disk."""

_NOTHING, _HERE, _IN_BACKGROUND = range(3)  # what a call of `save` has to write, and where


@dataclass(slots=True)
class _Write:
    """One checkpoint on its way to the disk.

    Attributes:
        states: What it holds, as far as that was asked for; copies when training goes on.
        stall_s: How long training stood still for it; None when it does until the end.
    """

    folder: CheckpointFolder
    at: Position
    rng: Random
    reason: str
    started_s: float
    states: States | None = None
    stall_s: float | None = None


class Keeper:
    """The position of training and its checkpoints. Every worker calls the same at the same step.

    Attributes:
        at: Where training stands.
        resumed: What it went on from, as the `attached` event says it; None at a fresh start.
        saved_at_s: When training last went on after a checkpoint, on the monotonic clock.
        in_background: Whether a slow checkpoint may be written while training goes on. It takes
            host memory for a copy of all states, which is kept for the next one.
    """

    def __init__(
        self,
        env: WorkerEnv,
        parts: Parts,
        workers: Workers,
        courier: Courier,
        *,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        """Load the newest good checkpoint, if there is one.

        `may_write` is asked right before a checkpoint takes its place, maybe in another thread:
        False when another worker leads by now.
        """
        self.at = Position(seed=env.seed)
        self.resumed: dict[str, Any] | None = None
        self.saved_at_s = time.monotonic()
        self.in_background = True
        self._parts = parts
        self._workers = workers
        self._courier = courier
        self._folder: CheckpointFolder | None = None
        if env.checkpoint_dir is not None:
            self._folder = CheckpointFolder(env.checkpoint_dir, check_loadable, may_write)
        self._saved: Position | None = None
        self._writer: threading.Thread | None = None
        self._snapshots = Snapshots()
        self._last_write_s: float | None = None
        self._rng: Random | None = None  # what is still to be restored
        self._epoch_start = b""
        if self._folder is not None and env.probe_steps is None and not env.joins:
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
            at.lr_scale,
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

    @property
    def writing(self) -> bool:
        """Whether this worker is writing a checkpoint while training goes on."""
        return self._writer is not None and self._writer.is_alive()

    def flush(self) -> None:
        """Wait for the checkpoint that is being written, if one is."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def save(self, reason: str, *, random: bytes | None = None) -> bool:
        """Write a checkpoint of this boundary; False when it could not be.

        One for the reason `interval` or `request` that is slow to write may not be on the disk yet
        when this returns: the leader copies the states and writes them while training goes on.

        `random` is this worker's random state at the boundary, if it is not that of now.

        A failure is reported and leaves the checkpoints before it as they were.
        """
        if self._folder is None:
            return False
        started_s = time.perf_counter()
        # The leader alone knows how its last write went, so all do what it says.
        plan = self._plan(reason) if self._workers.leads else self._follow()
        plan = self._workers.highest([plan])[0]
        if plan == _NOTHING:
            return True
        rng = Random(
            now=tuple(self._workers.collect(random or randomness.capture())),
            epoch_start=tuple(self._workers.collect(self._epoch_start)),
        )
        write = _Write(self._folder, self.at, rng, reason, started_s)
        good = True
        if self._workers.leads:
            good = self._start(write) if plan == _IN_BACKGROUND else self._write(write)
        if plan == _HERE:  # how one in the background went is known when nobody waits for it
            good = not self._workers.highest([int(not good)])[0]
            if good:
                self._saved = self.at
        self.saved_at_s = time.monotonic()
        return good

    def _follow(self) -> int:
        """Keep nothing that only a leader needs; the lowest plan, which any other outdoes."""
        self.flush()  # this worker may have led until now
        self._snapshots.drop()
        return _NOTHING

    def _plan(self, reason: str) -> int:
        self.flush()
        if self._saved == self.at:
            return _NOTHING
        if not self.in_background:
            self._snapshots.drop()
        possible = self.in_background and self._parts.save is None
        if not possible or reason not in ("interval", "request"):
            return _HERE
        if self._last_write_s is None:
            slow = parameter_bytes(self._parts) >= LARGE_BYTES
        else:
            slow = self._last_write_s > SLOW_WRITE_S
        return _IN_BACKGROUND if slow else _HERE

    def _start(self, write: _Write) -> bool:
        """Copy the states and leave them to a thread; False when they could not be copied.

        The interpreter waits for the thread at its end, however that comes about.
        """
        try:
            write.states = self._snapshots.take(self._parts)
            writer = threading.Thread(target=self._write, args=(write,), name="planner-checkpoint")
            write.stall_s = time.perf_counter() - write.started_s
            writer.start()
        except Exception as error:
            self._say_failed(write, error)
            return False
        self._writer = writer
        return True

    def _write(self, write: _Write) -> bool:
        began_s = time.perf_counter()
        try:
            written = write.folder.write(write.at.step, lambda path: self._fill(path, write))
        except Exception as error:
            self._say_failed(write, error)
            return False
        now_s = time.perf_counter()
        self._last_write_s = now_s - began_s
        self._saved = write.at
        duration_s = now_s - write.started_s
        self._courier.say(
            "checkpoint",
            at_once=True,
            path=str(written.path),
            step=write.at.step,
            epoch=write.at.epoch,
            samples=write.at.samples,
            bytes=written.size_bytes,
            sha256=written.sha256,
            duration_s=round(duration_s, 4),
            stall_s=round(duration_s if write.stall_s is None else write.stall_s, 4),
            reason=write.reason,
        )
        return True

    def _fill(self, folder: Path, write: _Write) -> None:
        if write.states is None:
            write.states = states_of(self._parts)
        write_state(folder, write.states, write.at, write.rng)
        if self._parts.save is not None:
            self._parts.save(folder)

    def _say_failed(self, write: _Write, error: Exception) -> None:
        step, text = write.at.step, f"{type(error).__name__}: {error}" + _blamed(write, error)
        tell(f"checkpoint at step {step} failed ({text}); those before it are untouched")
        self._courier.say("checkpoint_failed", at_once=True, step=step, error=text)

    def _resume(self, folder: CheckpointFolder) -> None:
        name = self._newest_name(folder)
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

    def _newest_name(self, folder: CheckpointFolder) -> str:
        """The checkpoint that the leader chose; empty when there is none to load."""
        while True:
            newest = folder.newest_good() if self._workers.leads else None
            try:
                return self._workers.from_leader(newest.name if newest is not None else "")
            except GroupBroken:
                further = self._workers.meet_again()
            if further is not None:  # they have loaded it already, and handed it over
                self.at = Position.of(further.position)
                return ""

    def _restore(self, states: tuple[bytes, ...]) -> None:
        rank = self._workers.rank
        if len(states) == self._workers.count:
            randomness.restore(states[rank])
        else:
            randomness.reseed((self.at.seed * 1_000_003 + self.at.step * 1009 + rank) % 2**31)


def _blamed(write: _Write, error: Exception) -> str:
    """Which of the script's values made `error`, where it is one of them."""
    if isinstance(error, (OSError, AnotherLeads)) or write.states is None:
        return ""
    found = unloadable(write.states)
    return f": {found}; a state_dict must hold tensors and plain values" if found else ""
