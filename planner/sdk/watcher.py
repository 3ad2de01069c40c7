"""What tier 0 makes of the optimiser steps and loader fetches it sees."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from planner.sdk.courier import Courier
from planner.sdk.environment import WorkerEnv, read_environment
from planner.sdk.errors import EXIT_FINISHED, SdkError
from planner.sdk.feed import length
from planner.sdk.memory import device_description, state_bytes
from planner.sdk.state import Position
from planner.sdk.stopwatch import Stopwatch


class Watcher:
    """Counts the steps of the first optimiser that is used, and says what it sees."""

    def __init__(self) -> None:
        env = read_environment()
        if env is None:
            raise SdkError("PLANNER_EVENTS went away")
        self._env: WorkerEnv = env
        self._courier: Courier | None = None
        self._stopwatch = Stopwatch(None)
        self._optimizer: Any = None
        self._loader: Any = None
        self._batches: Any = None  # the training loader's current iterator
        self._wait_s = 0.0
        self._at = Position(planned=False)
        self._tail = False

    def loader_begins(self, loader: Any, batches: Any) -> None:
        """A loader was iterated. With gradients on it is the training one: an epoch starts."""
        if not _gradients_on():
            return
        if self._tail:
            self._tail = False
            self._stopwatch.epoch_ends(self._at.epoch, self._at.step)
            self._at = self._at._replace(epoch=self._at.epoch + 1)
        self._loader, self._batches = loader, batches
        self._stopwatch.epoch_begins()
        self._stopwatch.steps_begin()

    def fetch(self, batches: Any, real: Callable[[Any], Any]) -> Any:
        """One batch, the wait for it counted when it is a training batch."""
        if batches is not self._batches:
            return real(batches)
        asked_s = time.perf_counter()
        try:
            return real(batches)
        except StopIteration:
            self._batches = None
            if self._at.step:
                self._tail = True
                self._stopwatch.batches_end(self._at)
            raise
        finally:
            self._wait_s += time.perf_counter() - asked_s

    def step_done(self, optimizer: Any) -> None:
        """An optimiser stepped.

        Raises:
            SystemExit: 0 after the last step of a probe.
        """
        if self._optimizer is None:
            self._optimizer = optimizer
            self._attached(optimizer)
        if optimizer is not self._optimizer or self._courier is None:
            return  # a second optimiser of the same step
        at = self._at
        self._at = at._replace(step=at.step + 1, samples=at.samples + self._global_batch())
        self._stopwatch.step_done(self._wait_s, self._at)
        self._wait_s = 0.0
        if self._env.probe_steps is not None and self._at.step >= self._env.probe_steps:
            self._end_probe(self._courier)

    def _attached(self, optimizer: Any) -> None:
        device = _device_of(optimizer)
        leads = self._env.rank == 0
        self._courier = Courier(self._env.events, device=device, speaks=leads)
        loader = self._loader
        name, memory_bytes = device_description(device)
        self._courier.say(
            "attached",
            at_once=True,
            tier=0,
            rank=self._env.rank,
            world_size=self._env.world_size,
            pid=os.getpid(),
            device=name,
            device_memory_bytes=memory_bytes,
            samples=length(getattr(loader, "dataset", None)),
            epochs=None,
            global_batch=self._global_batch() or None,
            micro_batch=getattr(loader, "batch_size", None),
            accumulation=None,
            loader_workers=getattr(loader, "num_workers", None),
            steps_per_epoch=length(loader),
            resumed=None,
        )
        self._stopwatch.report_to(self._courier if leads else None)
        atexit.register(lambda: self._stopwatch.say(self._at))

    def _global_batch(self) -> int:
        """Samples of a step over all workers, as far as the loader tells; else 0."""
        replicas = max(self._env.world_size // self._env.replica_workers, 1)
        return (getattr(self._loader, "batch_size", None) or 0) * replicas

    def _end_probe(self, courier: Courier) -> None:
        self._stopwatch.say(self._at)
        courier.say_memory()
        if self._env.rank == 0:
            held = state_bytes(None, self._optimizer)
            courier.say("probe_finished", steps=self._at.step, **held)
        courier.close()
        distributed: Any = sys.modules["torch"].distributed
        if distributed.is_available() and distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()
        raise SystemExit(EXIT_FINISHED)


def _gradients_on() -> bool:
    torch: Any = sys.modules.get("torch")
    return bool(torch is not None and torch.is_grad_enabled())


def _device_of(optimizer: Any) -> Any:
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    parameter = next(parameters, None)
    return None if parameter is None else parameter.device
