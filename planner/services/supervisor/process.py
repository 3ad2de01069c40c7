"""The supervisor process: one for each run, in a session of its own, until the run rests.

    python -m planner.services.supervisor.process --state-dir DIR --run RUN

It holds the run's lock for as long as it lives and is the only writer of its journal. SIGTERM and
SIGINT mean: stop with a checkpoint, release everything, pause. Closing the terminal means nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from pathlib import Path

from planner.core.clock import Clock, SystemClock
from planner.core.errors import PlannerError
from planner.core.plan import Plan
from planner.core.redact import redact
from planner.services.runs.crowding import crowding
from planner.services.runs.runlock import SupervisedError, held, sign_in, sign_out
from planner.services.supervisor.book import LoopSettings
from planner.services.supervisor.loop import RunLoop
from planner.store.codec import datetime_text
from planner.store.files import load
from planner.store.journal import Journal
from planner.store.layout import RunDir, StateDir
from runners.registry import get_runner
from runners.staging import stage_sdk

_LOCK_WAIT_S = 5.0


def supervise(
    state: StateDir,
    run_id: str,
    *,
    clock: Clock | None = None,
    settings: LoopSettings | None = None,
) -> int:
    """Carry a run until it rests; the exit status of this process.

    Raises:
        PlannerError: The run cannot be read, or something else looks after it.
    """
    run, clock = state.run(run_id), clock or SystemClock()
    with held(run, _LOCK_WAIT_S):
        sign_in(run)
        try:
            return _carry(state, run, clock, settings)
        finally:
            sign_out(run)


def _carry(state_dir: StateDir, run: RunDir, clock: Clock, settings: LoopSettings | None) -> int:
    plan = load(Plan, run.plan)
    journal = Journal(run.journal, run.run_id, clock)
    try:
        loop = RunLoop(
            run=run,
            plan=plan,
            runner=get_runner(plan.option.resources.runner),
            journal=journal,
            clock=clock,
            stage=stage_sdk,
            settings=settings,
            crowding=lambda: crowding(state_dir, plan),
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.ask_to_stop())
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _log(clock, f"supervisor {os.getpid()} of {run.run_id} starts")
        state = loop.run()
        _log(clock, f"{run.run_id} is {state}")
    finally:
        journal.close()
    return 0


def _log(clock: Clock, text: str) -> None:
    """One line in the supervisor's own log, which is this process's standard error."""
    sys.stderr.write(f"{datetime_text(clock.now())} {redact(text)}\n")
    sys.stderr.flush()


def main(argv: list[str] | None = None) -> int:
    """The process's entry; its exit status."""
    parser = argparse.ArgumentParser(prog="planner-supervisor", description="Look after one run.")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--run", required=True)
    args = parser.parse_args(argv)
    # Quantiles need no threads, and each thread of a numerics library costs memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    clock = SystemClock()
    try:
        return supervise(StateDir(args.state_dir), args.run, clock=clock)
    except SupervisedError as error:
        _log(clock, error.text)
        return 0
    except PlannerError as error:
        _log(clock, f"{error.text} ({error.hint})")
        return int(error.exit_code)
    except Exception:
        _log(clock, traceback.format_exc())
        return 1


if __name__ == "__main__":
    sys.exit(main())
