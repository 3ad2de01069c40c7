"""Job files: from TOML to a `JobSpec`, with every mistake named by file, line and key."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from planner.config import command, commandline, paths
from planner.config.jobmodel import (
    PLACES,
    AdjustTable,
    GoalTable,
    JobFile,
    JobTable,
    ModelTable,
    ProbeTable,
)
from planner.config.tomlfile import KeyPath, TomlFile, nearest, read_toml
from planner.config.validation import validate
from planner.core.errors import ConfigError
from planner.core.job import (
    AdjustPolicy,
    Goal,
    JobSpec,
    LanguageModel,
    Place,
    ProbeSettings,
    Setting,
)
from planner.core.redact import redact

ValueT = TypeVar("ValueT")


def load_job(path: Path, now: datetime) -> JobSpec:
    """The job that a file describes. A deadline in it counts from `now`.

    Starts nothing and does not touch the data; whether that exists is seen when it is scanned.

    Raises:
        ConfigError: Anything wrong with the file: names file, line, key and nearest valid key.
    """
    file = read_toml(path, what="job file")
    if "job" not in file.data:
        near = nearest("job", file.data)
        meant = f"; did you mean [job] by [{near}]?" if near else ""
        raise ConfigError(
            f"{path}: there is no [job] table{meant}",
            hint="planner init -- COMMAND writes a job file; docs/job-file.md explains it",
        )
    _refuse_secrets(file)
    tables = validate(JobFile, file.data, file, context={"now": now})
    folder = Path(os.path.abspath(path)).parent
    job = tables.job
    argv = _command(job, file)
    tier = command.script_tier(argv, folder)
    _check_parallel(tables, file, tier=tier)
    return JobSpec(
        name=_at(file, ("job", "name"), lambda: paths.check_name(job.name)),
        command=argv,
        workdir=str(folder),
        data=_data(job, file, folder),
        samples=job.samples,
        epochs=job.epochs,
        global_batch=job.global_batch,
        micro_batches=_ascending(job.micro_batches),
        worker_counts=_ascending(job.workers),
        loader_workers=job.loader_workers,
        precision=job.precision,
        checkpoint_dir=_checkpoint(job, file, folder),
        checkpoint_interval_s=tables.run.checkpoint_interval,
        env=tuple(dict.fromkeys(job.env)),
        tier=tier,
        seed=job.seed,
        hang_timeout_s=tables.run.hang_timeout,
        retries=tables.run.retries,
        places=_places(tables.where, file),
        probe=_probe(tables.probe),
        goal=_goal(tables.goal),
        adjust=_adjust(tables.adjust),
        model=_model(tables.model),
        tensor_parallel=_ascending(tables.parallel.tensor),
        pipeline_parallel=_ascending(tables.parallel.pipeline),
        source=str(path),
    )


def job_from_command(argv: Sequence[str], cwd: Path) -> JobSpec:
    """The job of a bare command line: `planner run -- python train.py --data d --epochs 9`.

    Values of flags that planner knows (data, epochs, batch size, loader workers, seed) become
    placeholders. Paths are taken from `cwd` and may lead anywhere: they were typed just now.

    Raises:
        UsageError: Empty, with a secret, with an unknown placeholder, or a launcher of its own.
    """
    found = commandline.recognise(argv)
    folder = Path(os.path.abspath(cwd))
    data = None if found.data is None else folder / Path(found.data).expanduser()
    try:
        command.check_placeholders(found.command, has_data=data is not None)
    except ConfigError as exc:
        raise ConfigError(f"the command {exc.text}", hint=exc.hint) from exc
    return JobSpec(
        name=commandline.job_name(argv, folder),
        command=found.command,
        workdir=str(folder),
        data=None if data is None else os.path.abspath(data),
        epochs=found.numbers.get("epochs", 1),
        global_batch=found.numbers.get("micro_batch"),
        loader_workers=found.numbers.get("loader_workers"),
        seed=found.numbers.get("seed", 0),
        tier=command.script_tier(argv, folder),
        places=default_places(),
    )


def job_schema() -> dict[str, Any]:
    """JSON Schema of a job file (as TOML reads it)."""
    schema = JobFile.model_json_schema(mode="validation")
    places = [TypeAdapter(model).json_schema() for model in PLACES.values()]
    other = {"type": "object", "required": ["runner"], "properties": {"runner": {"type": "string"}}}
    schema["properties"]["where"]["items"] = {"anyOf": [*places, other]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def default_places() -> tuple[Place, ...]:
    """Where a job without `[[where]]` may run: this machine, at no price."""
    return (Place(runner="local", pool="local"),)


def _refuse_secrets(file: TomlFile) -> None:
    """Refuse values that look like secrets: what a job file says is stored and shown.

    Raises:
        ConfigError: Names file, line and key, never the value.
    """

    def look(value: Any, key: tuple[str | int, ...]) -> None:
        if key[:2] in (("job", "command"), ("job", "env")):
            return  # these have messages of their own
        if isinstance(value, dict):
            for name, inner in value.items():
                look(inner, (*key, name))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                look(inner, (*key, index))
        elif isinstance(value, str) and redact(value) != value:
            raise file.error(
                key,
                "the value looks like a secret",
                hint="let the script read it from an environment variable, and name that variable "
                'under env: env = ["MY_TOKEN"]',
                code="usage.config.secret",
            )

    look(file.data, ())


def _command(job: JobTable, file: TomlFile) -> tuple[str, ...]:
    def checked() -> tuple[str, ...]:
        argv = command.split_command(job.command)
        command.check_secrets(argv)
        command.check_placeholders(argv, has_data=job.data is not None)
        return argv

    return _at(file, ("job", "command"), checked)


def _data(job: JobTable, file: TomlFile, folder: Path) -> str | None:
    text = job.data
    if text is None:
        return None
    return _at(file, ("job", "data"), lambda: str(paths.data_path(text, folder)))


def _checkpoint(job: JobTable, file: TomlFile, folder: Path) -> str | None:
    text = job.checkpoint
    if text is None:
        return None
    return _at(file, ("job", "checkpoint"), lambda: paths.checkpoint_template(text, folder))


def _at(file: TomlFile, key: tuple[str, ...], make: Callable[[], ValueT]) -> ValueT:
    """The result of `make`; an error of it gets the file, the line and the key."""
    try:
        return make()
    except ConfigError as exc:
        code = exc.code if exc.code != ConfigError.default_code else "usage.config.value"
        raise file.error(key, exc.text, hint=exc.hint, code=code) from exc


def _ascending(values: list[int] | None) -> tuple[int, ...]:
    return tuple(sorted(set(values or ())))


def _probe(table: ProbeTable) -> ProbeSettings:
    return ProbeSettings(
        slice_fraction=table.slice,
        steps=table.steps,
        warmup_steps=table.warmup,
        max_cost_usd=table.max_cost,
        max_time_s=table.max_time,
        hang_timeout_s=table.hang_timeout,
    )


def _goal(table: GoalTable) -> Goal:
    deadline_s, deadline_at = table.deadline or (None, None)
    return Goal(
        deadline_at=deadline_at,
        deadline_s=deadline_s,
        budget_usd=table.budget,
        confidence=table.confidence,
        prefer=table.prefer,
    )


def _adjust(table: AdjustTable) -> AdjustPolicy:
    """What the file says, and the defaults for the knobs it says nothing of."""
    given = {*(table.allow or ()), *(table.ask or ()), *(table.never or ())}
    default = AdjustPolicy()

    def merged(own: list[str] | None, usual: tuple[str, ...]) -> tuple[str, ...]:
        if own is not None:
            return tuple(dict.fromkeys(own))
        return tuple(knob for knob in usual if knob not in given)

    return AdjustPolicy(
        allow=merged(table.allow, default.allow),
        ask=merged(table.ask, default.ask),
        never=merged(table.never, default.never),
    )


def _model(table: ModelTable | None) -> LanguageModel | None:
    return None if table is None else LanguageModel(**table.model_dump())


def _check_parallel(tables: JobFile, file: TomlFile, *, tier: int) -> None:
    """See that the model can be spread over workers as `[parallel]` says.

    Raises:
        ConfigError: Names file, line and key.
    """
    model, parallel = tables.model, tables.parallel
    if max(*parallel.tensor, *parallel.pipeline) == 1:
        return
    if model is None:
        raise file.error(
            ("parallel",),
            "says how a language model is spread over workers, but there is no [model]",
            hint="describe it: [model] with hidden, layers, heads, sequence and vocabulary",
        )
    if tier > 0:
        raise file.error(
            ("parallel",),
            "the script uses planner.sdk, which gives every worker samples of its own",
            hint="workers that share a replica need the same samples: take planner.sdk out of the"
            " script, or [parallel] out of the job file (docs/language-models.md)",
        )
    shared = (("tensor", "heads", model.heads), ("pipeline", "layers", model.layers))
    for key, what, whole in shared:
        for count in getattr(parallel, key):
            if whole % count:
                raise file.error(
                    ("parallel", key),
                    f"{count} does not divide {what} = {whole}",
                    hint=f"each worker takes as many {what} as any other",
                )


def _places(tables: list[dict[str, Any]], file: TomlFile) -> tuple[Place, ...]:
    places = tuple(_place(table, file, ("where", index)) for index, table in enumerate(tables))
    for index, place in enumerate(places):
        same = [p for p in places[:index] if (p.runner, p.pool) == (place.runner, place.pool)]
        if same and place.runner == "local":
            raise file.error(
                ("where", index),
                f"there is a place called {place.runner}:{place.pool} already",
                hint='give it a name of its own, for example pool = "other"',
            )
    return places or default_places()


def _place(table: dict[str, Any], file: TomlFile, at: KeyPath) -> Place:
    runner = table.get("runner")
    if not isinstance(runner, str):
        what = "is missing" if runner is None else f"{runner!r} is not a text in quotes"
        raise file.error((*at, "runner"), what, hint='write for example runner = "local"')
    model = PLACES.get(runner)
    if model is None:
        installed = {entry.name for entry in entry_points(group="planner.runners")}
        if runner not in installed:
            known = sorted(installed | set(PLACES))
            near = nearest(runner, known)
            meant = f'; did you mean "{near}"?' if near else ""
            hint = f"known runners: {', '.join(known)}"
            raise file.error((*at, "runner"), f'no runner "{runner}"{meant}', hint=hint)
        values = {key: value for key, value in table.items() if key != "runner"}
    else:
        checked = validate(model, table, file, at=at)
        values = checked.model_dump(exclude={"runner"}, exclude_none=True, exclude_unset=True)
    settings = {key: _setting(value, file, (*at, key)) for key, value in values.items()}
    device = settings.get("device") if settings.get("device") != "auto" else None
    pool = settings.get("pool") or settings.get("partition") or device or runner
    return Place(runner=runner, pool=str(pool), settings=settings)


def _setting(value: Any, file: TomlFile, key: KeyPath) -> Setting:
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise file.error(key, "must be a text, a number, true or false, or a list of texts")
