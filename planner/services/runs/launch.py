"""From a yes to a running supervisor: the run's folder, its plan, and a process that owns it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path

from filelock import FileLock, Timeout

import planner
from planner.core.clock import Clock
from planner.core.errors import NotFoundError, RunnerError, StoreError
from planner.core.plan import Plan
from planner.core.types import EstimateResult, Option
from planner.core.units import to_microusd
from planner.services.api import LaunchRequest
from planner.services.failure import log_lines, tail
from planner.services.runs.joining import Asked, require_same
from planner.services.runs.pricepin import check_price, place_of, quote
from planner.services.runs.report import option_text
from planner.services.runs.runlock import held, supervisor_pid
from planner.services.runs.runview import with_limits
from planner.store.codec import datetime_text
from planner.store.files import load, save, store_error
from planner.store.journal import Journal, read_events
from planner.store.layout import RunDir, StateDir, check_id
from planner.store.record import RunRecord
from runners.registry import get_runner

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_NAME_LOCK_WAIT_S = 60.0
_START_WAIT_S = 30.0


def launch(state: StateDir, request: LaunchRequest, clock: Clock) -> str:
    """Start a run that nothing but its supervisor owns; its id.

    A run of the same name whose supervisor lives is not started twice: its id is returned. Two
    launches at the same moment wait for each other, so that exactly one starts it.

    Raises:
        UsageError: A run of that name goes on which does not keep to what is asked for.
        PriceMovedError: The option is dearer now than was agreed to.
        RunnerError: It is not offered any more, or the supervisor did not start.
        NotFoundError: The estimate has no such option.
        StoreError: The state directory cannot be written.
    """
    option = chosen(request.estimate, request.option_id)
    name = request.name or request.estimate.job.name
    check_id(name)
    state.require_writable()
    lock = FileLock(state.locks / f"name-{name}.lock")
    try:
        with lock.acquire(timeout=_NAME_LOCK_WAIT_S, poll_interval=0.05):
            running = alive_run(state, name)
            if running is not None:
                _require_same(state.run(running), request, option)
                return running
            _pin_price(request, option)
            run = _create(state, request, option, name, clock)
            start_supervisor(state, run)
    except Timeout as error:
        raise StoreError(
            f"another planner has been starting {name} for too long", hint="planner status"
        ) from error
    return run.run_id


def chosen(estimate: EstimateResult, option_id: str) -> Option:
    """The option of that id. Raises `NotFoundError`."""
    option = estimate.option(option_id)
    if option is None:
        known = ", ".join(o.id for o in estimate.options[:5])
        raise NotFoundError(
            f"estimate {estimate.id} has no option {option_id}", hint=f"it has: {known}"
        )
    return option


def alive_run(state: StateDir, name: str) -> str | None:
    """The id of the run of that name whose supervisor lives, if there is one."""
    for run_id in state.run_ids():
        run = state.run(run_id)
        if supervisor_pid(run) is None:
            continue
        record = RunRecord.replay(read_events(run.journal))
        if record.name == name and not record.ended:
            return run_id
    return None


def _require_same(run: RunDir, request: LaunchRequest, option: Option) -> None:
    """A run that somebody else started meanwhile must keep to what was agreed to here."""
    record = RunRecord.replay(read_events(run.journal))
    plan = with_limits(load(Plan, run.plan), record)
    estimate = request.estimate
    require_same(
        plan,
        Asked(
            goal=estimate.goal,
            option_id=option.id,
            fingerprint=estimate.work.fingerprint,
            max_usd_per_h=request.max_usd_per_h,
        ),
    )


def _pin_price(request: LaunchRequest, option: Option) -> None:
    """What was shown is what is bought: asked again now, and not a cent above it."""
    place = place_of(request.estimate.job, option.resources)
    price = quote(get_runner(option.resources.runner), place, option.resources)
    check_price(option, price, agreed_usd_per_h(request, option))


def agreed_usd_per_h(request: LaunchRequest, option: Option) -> float:
    """The highest price the user accepted: the one that was shown unless another was said."""
    limit = request.max_usd_per_h
    return option.price.usd_per_h if limit is None else limit


def _create(
    state: StateDir, request: LaunchRequest, option: Option, name: str, clock: Clock
) -> RunDir:
    """The run's folder with its plan and the first line of its journal."""
    estimate = request.estimate
    run = _new_folder(state)
    budget_usd = estimate.goal.budget_usd
    plan = Plan(
        run_id=run.run_id,
        name=name,
        job=estimate.job,
        option=option,
        work=estimate.work,
        goal=estimate.goal,
        estimate_id=estimate.id,
        created_at=clock.now(),
        max_usd_per_h=agreed_usd_per_h(request, option),
        budget_microusd=None if budget_usd is None else to_microusd(budget_usd),
        controller=request.controller,
        retries=estimate.job.retries if request.retries is None else request.retries,
    )
    run.create()
    save(run.plan, plan)
    with held(run):
        journal = Journal(run.journal, run.run_id, clock)
        deadline_at = plan.goal.deadline_at
        created = {
            "state": "planned",
            "name": name,
            "job": plan.job.name,
            "estimate_id": estimate.id,
            "option_id": option.id,
            "option": option_text(option),
            "fingerprint": plan.work.fingerprint,
            "budget_microusd": plan.budget_microusd,
            "deadline_at": None if deadline_at is None else datetime_text(deadline_at),
            "controller": plan.controller,
        }
        try:
            journal.append("run.created", created)
            journal.require_written()
        finally:
            journal.close()
    return run


def _new_folder(state: StateDir) -> RunDir:
    """A folder under an id that nobody has. Raises `StoreError`."""
    folder = state.runs
    for length in (4, 4, 4, 5, 6, 8, 10):
        run_id = "r-" + "".join(secrets.choice(_ALPHABET) for _ in range(length))
        try:
            (folder / run_id).mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise StoreError(
                f"cannot make {folder / run_id}: {error.strerror}", hint="check --state-dir"
            ) from error
        return state.run(run_id)
    raise StoreError(f"no free run id in {folder}", hint="planner clean --older-than 30d")


def start_supervisor(state: StateDir, run: RunDir) -> None:
    """Start the run's supervisor, detached, and wait until it has taken the run over.

    Taken over means that it has written to the journal: who looks then sees a run at work, not
    the state that it rested in before.

    Raises:
        RunnerError: It ended or did not get that far; the text has its last words.
        StoreError: The run's folder cannot be written.
    """
    before_bytes = run.journal.stat().st_size
    root = Path(planner.__file__).parents[1]
    command = [sys.executable, "-m", "planner.services.supervisor.process"]
    command += ["--state-dir", str(state.path.absolute()), "--run", run.run_id]
    try:
        log = open(run.supervisor_log, "ab")  # noqa: SIM115
    except OSError as error:
        raise store_error(error, "write", run.supervisor_log) from error
    with log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=root,
            env=dict(os.environ),
        )
    # Whoever starts it may live long (the app does) and must not leave a zombie behind.
    threading.Thread(target=process.wait, daemon=True).start()
    until_s = time.monotonic() + _START_WAIT_S
    while process.returncode is None and time.monotonic() < until_s:
        if run.journal.stat().st_size > before_bytes:
            return
        time.sleep(0.02)
    if process.returncode == 0 or supervisor_pid(run) is not None:
        return
    lines = log_lines(tail(run.supervisor_log), 3)
    raise RunnerError(
        f"the supervisor of {run.run_id} did not start: {' '.join(lines) or 'it said nothing'}",
        hint=f"see {run.supervisor_log}, then planner resume {run.run_id}",
        code="environment.supervisor",
    )
