"""Make the demo's recording from real runs: `python -m planner.demo.record STATE_DIR RUN_ID...`.

The first run is the one that the demo plays; its estimate and probes come with it, the others are
the demo's history. A run that is still going is followed to its end, so that each line of its
output gets the time at which it appeared; of a run that has ended these times are not known, and
its lines are spread evenly over it.

Nothing that names the machine or its folders is kept.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from math import floor, isfinite, log10
from pathlib import Path
from typing import Any, TypeVar

from planner import __version__
from planner.core.clock import Clock, SystemClock
from planner.core.events import Event
from planner.core.plan import Plan
from planner.demo.recording import (
    BUNDLED,
    RecordedLine,
    RecordedRun,
    Recording,
    Source,
    recording_text,
)
from planner.services.api import LogLine, Services
from planner.services.live import LiveServices
from planner.store.codec import from_json, to_json
from planner.store.files import load
from planner.store.layout import StateDir

T = TypeVar("T")

MOST_EVENTS = 160
"""Most `run.progress` and most `run.metric` events kept of a run: enough for any sparkline."""
DIGITS = 5
"""Significant digits kept of every number that is not whole."""
CHECKS = ("python", "cpu", "gpu", "state.space", "state.disk", "leftovers")
"""Checks that say nothing about whose machine it was."""
_POLL_S = 0.25


def record(
    state_dir: Path,
    run_ids: Sequence[str],
    *,
    clock: Clock | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Recording:
    """The recording of these runs.

    Raises:
        PlannerError: A run, its estimate or its journal is not there.
    """
    clock = clock or SystemClock()
    services = LiveServices(state_dir, clock)
    state = StateDir(state_dir)
    runs = [_run(services, state, services.resolve(run_id), clock, say) for run_id in run_ids]
    estimate = services.load_estimate(runs[0].plan.estimate_id)
    began = min(run.plan.created_at for run in runs)
    recording = Recording(
        source=Source(
            recorded_on=began.date().isoformat(),
            machine=processor(),
            command=f"planner run {_job_file(runs[0].plan)}",
            planner_version=__version__,
        ),
        job=estimate.job,
        checks=tuple(check for check in services.doctor() if check.id in CHECKS),
        estimate=estimate,
        runs=tuple(runs),
    )
    return _cleaned(recording, state_dir, Path(estimate.job.workdir))


def _job_file(plan: Plan) -> str:
    source = plan.job.source
    return "JOB.toml" if source is None else "/".join(Path(source).parts[-3:])


# ---- one run -----------------------------------------------------------------------------------


def _run(
    services: Services, state: StateDir, run_id: str, clock: Clock, say: Callable[[str], None]
) -> RecordedRun:
    plan = load(Plan, state.run(run_id).plan)
    log = _follow(services, run_id, plan, clock, say)
    return RecordedRun(
        plan=plan,
        events=_thinned(services.events(run_id)),
        log=tuple(log),
        report=services.report(run_id),
    )


def _follow(
    services: Services, run_id: str, plan: Plan, clock: Clock, say: Callable[[str], None]
) -> list[RecordedLine]:
    """The run's output with times, once the run has ended."""
    page = services.logs(run_id)
    known = list(page.lines)
    timed = _spread(known, plan, services.view(run_id).elapsed_s)
    if services.view(run_id).summary.ended_at is None:
        say(f"following {run_id} to its end")
    while services.view(run_id).summary.ended_at is None:
        clock.sleep(_POLL_S)
        page = services.logs(run_id, page.cursor)
        timed += [_line(line, plan, clock.now()) for line in page.lines]
    timed += [_line(line, plan, clock.now()) for line in services.logs(run_id, page.cursor).lines]
    return sorted(timed, key=lambda line: line.at_s)


def _line(line: LogLine, plan: Plan, seen_at: datetime) -> RecordedLine:
    at_s = ((line.at or seen_at) - plan.created_at).total_seconds()
    return RecordedLine(
        at_s=round(max(at_s, 0.0), 2), source=line.source, rank=line.rank, text=line.text
    )


def _spread(lines: Sequence[LogLine], plan: Plan, elapsed_s: float) -> list[RecordedLine]:
    """Lines that carry no time, evenly over the time so far; the others at theirs."""
    untimed = [line for line in lines if line.at is None]
    found = [_line(line, plan, plan.created_at) for line in lines if line.at is not None]
    for index, line in enumerate(untimed, 1):
        at_s = round(elapsed_s * index / (len(untimed) + 1), 2)
        found.append(RecordedLine(at_s=at_s, source=line.source, rank=line.rank, text=line.text))
    return found


def _thinned(events: Sequence[Event]) -> tuple[Event, ...]:
    """At most `MOST_EVENTS` of the frequent kinds, the first and the last among them."""
    kept = {event.seq for event in events}
    for kind in ("run.progress", "run.metric"):
        frequent = [event.seq for event in events if event.type == kind]
        step = max(len(frequent) / MOST_EVENTS, 1.0)
        chosen = {frequent[int(index * step)] for index in range(int(len(frequent) / step))}
        kept -= set(frequent) - chosen - set(frequent[-1:])
    return tuple(event for event in events if event.seq in kept)


# ---- what must not stay in it ------------------------------------------------------------------


def _cleaned(recording: Recording, state_dir: Path, workdir: Path) -> Recording:
    """Without folders of the machine, and with no more digits than can be seen."""
    places = {
        str(state_dir.resolve()): "STATE",
        str(workdir): ".",
        sys.prefix: "VENV",
        sys.base_prefix: "PYTHON",
        str(Path.home()): "HOME",
    }
    longest_first = sorted(places.items(), key=lambda place: -len(place[0]))

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            for path, name in longest_first:
                value = value.replace(path, name)
            return _FOREIGN_PATH.sub(r"\1PATH/\2", value)
        if isinstance(value, Mapping):
            return {clean(key): clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return rounded(value) if isinstance(value, float) else value

    data = clean(to_json(recording))
    return from_json(Recording, data)


_FOREIGN_PATH = re.compile(r"(^|[\s'\"=:(])/(?:[^\s/'\"]+/)+([^\s/'\"]*)")
"""An absolute path, of which only the last part is kept."""


def rounded(value: float) -> float:
    """The value with `DIGITS` significant digits."""
    if value == 0 or not isfinite(value):
        return value
    return round(value, DIGITS - 1 - floor(log10(abs(value))))


def processor() -> str:
    """The processor's name as the system tells it, and how many cores there are."""
    import os

    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = match.group(1).strip() if match else "unknown processor"
    return f"{os.cpu_count()} cores of {name}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the recording; says where to."""
    parser = argparse.ArgumentParser(prog="python -m planner.demo.record", description=__doc__)
    parser.add_argument("state_dir", type=Path, help="state directory that the runs are in")
    parser.add_argument("run_id", nargs="+", help="runs; the first is the one to be played")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="file to write")
    given = parser.parse_args(argv)
    recording = record(given.state_dir, given.run_id, say=lambda text: print(text, file=sys.stderr))
    text = recording_text(recording)
    given.out.write_text(text, encoding="utf-8")
    print(f"{given.out}: {len(recording.runs)} runs, {len(text) / 1000:.0f} kB", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
