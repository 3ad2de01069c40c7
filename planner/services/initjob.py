"""A job file from a command line, with what was guessed marked as such."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import tomlkit
from tomlkit.items import Table

from planner.config.commandline import Recognised, recognise
from planner.config.jobfile import job_from_command
from planner.core.job import JobSpec

_PLAIN_ARGUMENT = re.compile(r"[A-Za-z0-9@%+=:,./_{}-]+")


def job_file_text(argv: Sequence[str], cwd: Path) -> str:
    """The text of a job file for this command. Looks at the script; runs nothing.

    Raises:
        UsageError: Empty, with a secret, with an unknown placeholder, or a launcher of its own.
    """
    job = job_from_command(argv, cwd)
    found = recognise(argv)
    document = tomlkit.document()
    document.add(tomlkit.comment("A job for planner. Every key: docs/job-file.md."))
    document.add(tomlkit.comment("Next: planner estimate THIS_FILE --deadline 6h --budget 40"))
    document.add(tomlkit.nl())
    document.add("job", _job_table(job, found, cwd))
    document.add(tomlkit.nl())
    document.add("probe", _probe_table(job))
    document.add(tomlkit.nl())
    document.add("goal", _goal_table())
    document.add(tomlkit.nl())
    document.add("where", _places())
    return tomlkit.dumps(document)


def _job_table(job: JobSpec, found: Recognised, cwd: Path) -> Table:
    table = tomlkit.table()
    table.add("name", tomlkit.string(job.name).comment("guessed from the command"))
    table.add("command", _joined(found.command))
    table.add(tomlkit.comment(_tier_text(job)))
    if found.data is not None and job.data is not None:
        table.add("data", tomlkit.string(_data_text(Path(job.data), cwd)))
        table["data"].comment(_from(found, "data"))
    else:
        table.add(
            tomlkit.comment('data = "data/imagefolder"     # then write {data} in the command')
        )
    table.add("epochs", tomlkit.item(job.epochs).comment(_from(found, "epochs")))
    if job.global_batch is not None:
        table.add(
            "global_batch", tomlkit.item(job.global_batch).comment(_from(found, "micro_batch"))
        )
    else:
        table.add(tomlkit.comment("global_batch = 64             # samples of one optimiser step"))
    if job.loader_workers is not None:
        origin = _from(found, "loader_workers")
        table.add("loader_workers", tomlkit.item(job.loader_workers).comment(origin))
    if "seed" in found.flags:
        table.add("seed", tomlkit.item(job.seed).comment(_from(found, "seed")))
    table.add(tomlkit.comment('checkpoint = "ck/{run_id}"    # absent: in the run\'s own folder'))
    table.add(tomlkit.comment('env = ["MY_TOKEN"]            # names of variables to pass on'))
    return table


def _from(found: Recognised, placeholder: str) -> str:
    flag = found.flags.get(placeholder)
    return f"from {flag}" if flag else f"guessed: the command names no {placeholder}"


def _joined(argv: Sequence[str]) -> str:
    """As a shell reads it, without quotes around plain placeholders."""
    return " ".join(a if _PLAIN_ARGUMENT.fullmatch(a) else shlex.quote(a) for a in argv)


def _tier_text(job: JobSpec) -> str:
    if job.tier == 1:
        return "tier 1: the script uses planner.sdk"
    return "tier 0: no planner.sdk in the script; see docs/training-script.md for its three lines"


def _data_text(data: Path, cwd: Path) -> str:
    """Relative when it is below the job file's folder, since only such paths may be relative."""
    folder = Path(cwd).absolute()
    return str(data.relative_to(folder)) if data.is_relative_to(folder) else str(data)


def _probe_table(job: JobSpec) -> Table:
    table = tomlkit.table()
    probe = job.probe
    table.add("slice", tomlkit.item(probe.slice_fraction).comment("of the data, by class"))
    table.add("steps", tomlkit.item(probe.steps).comment("measured, after the warm-up"))
    table.add("warmup", probe.warmup_steps)
    table.add("max_cost", tomlkit.item(probe.max_cost_usd).comment("dollars, all probes"))
    table.add("max_time", tomlkit.string("15m").comment("all probes"))
    return table


def _goal_table() -> Table:
    table = tomlkit.table()
    table.add(tomlkit.comment('deadline = "6h"               # or 17:40, or 2026-11-22T08:00Z'))
    table.add(tomlkit.comment("budget = 40                   # dollars, a hard cap"))
    table.add("confidence", 0.9)
    table.add("prefer", tomlkit.string("cost").comment("or time, or risk"))
    return table


def _places() -> tomlkit.items.AoT:
    places = tomlkit.aot()
    place = tomlkit.table()
    place.add("runner", tomlkit.string("local").comment("this machine"))
    place.add(tomlkit.comment("usd_per_slot_h = 0.05         # what a CPU core and hour is worth"))
    place.add(tomlkit.comment("usd_per_gpu_h = 1.20          # what a GPU and hour is worth"))
    places.append(place)
    return places
