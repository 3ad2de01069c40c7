"""`attach`: the one call that joins a script to planner."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from planner.sdk.environment import read_environment
from planner.sdk.errors import SdkError
from planner.sdk.feed import shuffles
from planner.sdk.job import Job, TrainingJob
from planner.sdk.order import step_bounds
from planner.sdk.state import Parts


def attach(
    *,
    epochs: int,
    model: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    scaler: Any = None,
    state: Mapping[str, Any] | None = None,
    save: Callable[[Path], object] | None = None,
    load: Callable[[Path], object] | None = None,
) -> Job:
    """Join this script to planner; a pass-through when planner did not start it.

    Call it after init_process_group() and after wrapping the model, before the loop. When there is
    a checkpoint to go on from, everything given here is loaded from it.

    Args:
        epochs: Passes over the data in all, those before a resume included.
        model: The torch module, wrapped in DistributedDataParallel if it is.
        optimizer: The one torch optimiser.
        scheduler: Its learning-rate scheduler, stepped in or after the loop over batches.
        scaler: A torch gradient scaler.
        state: Other objects to keep, by name; each with state_dict and load_state_dict.
        save: Saves model, optimiser, scheduler and scaler into the folder it is given, instead of
            planner. Called by rank 0 only.
        load: Loads what `save` saved from the folder it is given. Called by every worker.

    Raises:
        SdkError: planner's environment and the script do not fit together.
    """
    if (save is None) != (load is None):
        raise SdkError("attach() needs save= and load= together: one without the other loses state")
    env = read_environment()
    if env is None:
        return Job(epochs)
    shim = sys.modules.get("planner.sdk.shim")
    if shim is not None:
        shim.step_aside()
    parts = Parts(
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=scaler,
        extra=state,
        save=save,
        load=load,
    )
    return TrainingJob(env, parts, epochs)


def steps_per_epoch(loader: Any) -> int:
    """How often a schedule that is stepped with the optimiser is stepped in one epoch.

    Without planner this is `len(loader)`. Under planner a step may take several micro-batches, and
    the number stays the same whatever becomes of workers and global batch.
    """
    env = read_environment()
    if env is None or env.global_batch is None or shuffles(loader) is None:
        return len(loader)
    batch = env.schedule_batch or env.global_batch
    bounds = step_bounds(len(loader.dataset), batch, 1, drop_last=loader.drop_last)
    return sum(1 for _ in bounds)
