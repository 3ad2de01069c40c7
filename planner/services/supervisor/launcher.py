"""Starting workers: the first unit of an attempt, and those that join it later."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.core.adjust import InForce, pass_samples, planned
from planner.core.errors import PriceMovedError, RunnerError, StoreError
from planner.core.job import JobSpec
from planner.core.plan import Plan
from planner.core.types import Offer, PriceQuote, ResourceConfig
from planner.core.units import format_money
from planner.services.jobenv import render_argv, worker_env
from planner.services.runs.pricepin import check_price, place_of, quote
from planner.services.supervisor.attempt import Attempt
from planner.services.supervisor.book import LoopSettings, RunBook
from planner.services.supervisor.controlfile import ControlFile
from planner.services.supervisor.units import Unit, release
from planner.store.files import save, store_error
from planner.store.layout import AttemptDir, RunDir, UnitDir, make_folder
from runners.base import LaunchSpec, Runner

Stage = Callable[[Path], None]
"""Puts the SDK into a folder; see `runners.staging.stage_sdk`."""
RunnerOf = Callable[[str], Runner]
"""A runner by its name."""


def checkpoint_dir(job: JobSpec, run: RunDir) -> Path:
    """Where the run's checkpoints are: the job's own template, or the run's folder."""
    if job.checkpoint_dir is None:
        return run.checkpoints
    return Path(job.workdir) / job.checkpoint_dir.replace("{run_id}", run.run_id)


class Launcher:
    """Starts the units of one run."""

    def __init__(
        self,
        book: RunBook,
        runner_of: RunnerOf,
        control: ControlFile,
        settings: LoopSettings,
        stage: Stage,
    ) -> None:
        self._book = book
        self._runner_of = runner_of
        self._control = control
        self._settings = settings
        self._stage = stage

    def price(self, now: InForce) -> PriceQuote:
        """The price of what is in force, not above what was agreed to.

        Raises:
            PriceMovedError: It is dearer.
        """
        price = self.quote(now.resources) or now.price
        if now == replace(planned(self._book.plan), price=now.price):
            check_price(self._book.plan.option, price, now.max_usd_per_h)
        else:
            require_price(price.usd_per_h, now.max_usd_per_h)
        return price

    def quote(self, resources: ResourceConfig) -> PriceQuote | None:
        """What these cost now; None where that cannot be told.

        Whether they can be had at all is for the launch to say.
        """
        place = place_of(self._book.plan.job, resources)
        try:
            return quote(self._runner_of(resources.runner), place, resources)
        except RunnerError:
            return None

    def launch(self, number: int, now: InForce, price: PriceQuote, tail_s: float) -> Attempt:
        """Start attempt `number`; its handle is on the disk before anything else happens.

        Args:
            number: From 1.
            now: What it starts with.
            price: What is paid from now on.
            tail_s: How long an epoch's evaluation may take, which is heard out at a stop.

        Raises:
            RunnerError: Nothing was started.
            UsageError: The command or the environment cannot be made.
            StoreError: The attempt's folder cannot be written.
        """
        book, clock = self._book, self._book.clock
        folder = book.run.attempt(number)
        make_folder(folder.path)
        spec = self._spec(folder, folder, now, tail_s, first=0)
        self._control.start(now.knobs.checkpoint_interval_s)
        self._stage(Path(spec.stage_dir))
        launched_at, launched_s = clock.now(), clock.monotonic_s()
        runner = self._runner_of(now.resources.runner)
        book.meter.hold(price.usd_per_h, launched_s)
        try:
            handle = runner.launch(spec)
        except BaseException:
            book.meter.release(clock.monotonic_s())
            raise
        size = spec.resources.workers
        unit = Unit(folder, handle, runner, 0, size, price.usd_per_h, launched_at, launched_s)
        try:
            save(folder.handle, handle)
        except StoreError:
            release(book, unit)
            book.meter.release(clock.monotonic_s())
            raise
        acquired: dict[str, Any] = {"attempt": number, "runner": handle.runner, "key": handle.key}
        acquired |= {"usd_per_h": price.usd_per_h, "source": price.source}
        # As of when it was held, since that is from when it costs.
        book.emit("resource.acquired", acquired, at=launched_at)
        return Attempt(folder, [unit], launched_at, launched_s)

    def grow(self, attempt: Attempt, now: InForce, offer: Offer, size: int) -> Unit:
        """Start workers that join an attempt; the unit is part of it from here on.

        Args:
            attempt: Whose workers go on undisturbed.
            now: What they start with: what is in force.
            offer: What is started, and its price.
            size: How many workers there are to be once they have joined.

        Raises:
            RunnerError: Nothing was started.
            StoreError: The unit's folder cannot be written; nothing runs.
        """
        book, clock = self._book, self._book.clock
        shape, usd_per_h = offer.resources, offer.price.usd_per_h
        first = attempt.next_worker
        folder = attempt.folder.unit(first)
        make_folder(folder.path)
        spec = self._spec(attempt.folder, folder, replace(now, resources=shape), 0.0, first=first)
        spec = replace(spec, env={**spec.env, "WORLD_SIZE": str(size)})
        runner = self._runner_of(shape.runner)
        launched_at, launched_s = clock.now(), clock.monotonic_s()
        spent = book.spent_microusd()
        book.meter.hold(attempt.usd_per_h + usd_per_h, launched_s)
        try:
            handle = runner.grow(attempt.beside.handle, spec)
        except BaseException:
            book.meter.hold(attempt.usd_per_h, clock.monotonic_s())
            raise
        unit = Unit(
            folder, handle, runner, first, shape.workers, usd_per_h, launched_at, launched_s
        )
        try:
            save(folder.handle, handle)
        except StoreError:
            release(book, unit)
            book.meter.hold(attempt.usd_per_h, clock.monotonic_s())
            raise
        attempt.units.append(unit)
        attempt.joining.update(unit.workers)
        acquired = {"attempt": attempt.folder.number, "unit": first, "workers": list(unit.workers)}
        acquired |= {"runner": handle.runner, "key": handle.key, "spent_microusd": spent}
        book.emit("resource.acquired", acquired | {"usd_per_h": attempt.usd_per_h}, at=launched_at)
        return unit

    def _spec(
        self, attempt: AttemptDir, folder: UnitDir, now: InForce, tail_s: float, *, first: int
    ) -> LaunchSpec:
        run, plan, number = self._book.run, self._book.plan, attempt.number
        checkpoints = make_folder(checkpoint_dir(plan.job, run))
        key = f"{run.run_id}/{number}/{first}" if first else f"{run.run_id}/{number}"
        return LaunchSpec(
            run_id=run.run_id,
            attempt=number,
            idempotency_key=key,
            argv=_argv(plan, now, run, checkpoints),
            workdir=plan.job.workdir,
            env=_env(plan, now, run, checkpoints, number),
            resources=now.resources,
            place=place_of(plan.job, now.resources),
            attempt_dir=str(folder.path),
            stage_dir=str(make_folder(run.stage)),
            stop_grace_s=self._settings.stop_grace_s + 2 * tail_s,
            first_worker=first,
            crew_dir=str(_private(attempt.crew)),
        )


def require_price(usd_per_h: float, max_usd_per_h: float) -> None:
    """Raise `PriceMovedError` when a changed shape is dearer than what was agreed to for it."""
    if usd_per_h > max_usd_per_h + 1e-6:
        raise PriceMovedError(
            f"it now costs {format_money(usd_per_h)}/h, more than the"
            f" {format_money(max_usd_per_h)}/h that was agreed to",
            hint="ask for it again to see the new price",
        )


def _private(folder: Path) -> Path:
    """A folder that only its owner may enter. Raises `StoreError`."""
    try:
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        os.chmod(folder, 0o700)
    except OSError as error:
        raise store_error(error, "make the folder", folder) from error
    return folder


def _argv(plan: Plan, now: InForce, run: RunDir, checkpoints: Path) -> tuple[str, ...]:
    micro_batch = pass_samples(now.knobs, now.workers)
    return render_argv(
        plan.job,
        resources=now.resources,
        knobs=replace(now.knobs, micro_batch=micro_batch),
        run_id=run.run_id,
        data=plan.job.data,
        checkpoint_dir=str(checkpoints),
        output_dir=str(run.output),
    )


def _env(
    plan: Plan, now: InForce, run: RunDir, checkpoints: Path, number: int
) -> Mapping[str, str]:
    env = worker_env(
        plan.job,
        resources=now.resources,
        knobs=now.knobs,
        run_id=run.run_id,
        attempt=number,
        control=str(run.control),
        checkpoint_dir=str(checkpoints),
        output_dir=str(run.output),
    )
    if now.memory != "normal":
        env["PLANNER_MEMORY"] = now.memory
    if now.lr_scale != 1.0:
        env["PLANNER_LR_SCALE"] = repr(now.lr_scale)
    if now.schedule_batch is not None:
        env["PLANNER_SCHEDULE_BATCH"] = str(now.schedule_batch)
    if now.knobs.loader_workers != plan.option.knobs.loader_workers:
        env["PLANNER_LOADER_WORKERS"] = str(now.knobs.loader_workers)
    return env
