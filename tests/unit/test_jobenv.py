"""What a worker is started with: its arguments and its environment, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.errors import ConfigError, UsageError
from planner.core.job import JobSpec, LanguageModel
from planner.core.types import Knobs, ResourceConfig
from planner.services import jobenv
from planner.services.jobenv import BASIC_VARIABLES, render_argv, search_path, worker_env

RESOURCES = ResourceConfig(runner="local", pool="cpu", market="local", workers_per_node=2)
KNOBS = Knobs(micro_batch=16, accumulation=2, global_batch=64)


def job(*command: str, **changes: object) -> JobSpec:
    base: dict[str, object] = {"name": "digits", "command": command, "workdir": "/jobs/digits"}
    return JobSpec(**{**base, **changes})  # type: ignore[arg-type]


def render(spec: JobSpec, data: str | None = "/data/digits", knobs: Knobs = KNOBS) -> list[str]:
    return list(
        render_argv(
            spec,
            resources=RESOURCES,
            knobs=knobs,
            run_id="r-1",
            data=data,
            checkpoint_dir="/state/ck",
            output_dir="/state/out",
        )
    )


def env(spec: JobSpec, caller: dict[str, str], **changes: object) -> dict[str, str]:
    values: dict[str, object] = {
        "resources": RESOURCES,
        "knobs": KNOBS,
        "run_id": "r-1",
        "attempt": 3,
        "control": "/state/control.json",
        "checkpoint_dir": "/state/ck",
        "output_dir": "/state/out",
        "environ": caller,
    }
    return worker_env(spec, **{**values, **changes})  # type: ignore[arg-type]


# ---- arguments


def test_every_placeholder_is_filled_in() -> None:
    template = (
        "{data} {epochs} {micro_batch} {global_batch} {workers} {loader_workers} {run_id} "
        "{checkpoint} {output} {seed} {precision} {tensor_parallel} {pipeline_parallel}"
    )
    spec = job(*template.split(), epochs=9, seed=5)
    expected = "/data/digits 9 16 64 2 0 r-1 /state/ck /state/out 5 fp32 1 1"
    assert render(spec) == expected.split()


def test_a_placeholder_within_an_argument_is_filled_in() -> None:
    assert render(job("--opt=bs:{micro_batch},ep:{epochs}")) == ["--opt=bs:16,ep:1"]


@pytest.mark.parametrize(
    "data",
    [
        "/data/my digits",
        "/data/x; rm -rf ~",
        "/data/$(id)`id`",
        "/data/'single' \"double\"",
        "/data/new\nline",
        "/data/{workers}",
        "-rf",
    ],
)
def test_a_value_stays_one_argument_whatever_it_holds(data: str) -> None:
    assert render(job("python", "train.py", "--data", "{data}"), data)[3] == data


def test_no_shell_reads_the_arguments(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    spec = job(sys.executable, "-c", "import sys; print(sys.argv[1])", "{data}")
    argv = render(spec, f"$(touch {victim}); touch {victim}")
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"$(touch {victim}); touch {victim}"
    assert not victim.exists()


@given(st.text(st.characters(exclude_characters="{}\0")), st.text())
def test_the_number_of_arguments_never_changes(text: str, data: str) -> None:
    assert render(job(text, "{data}", text), data) == [text, data, text]


def test_braces_around_something_else_are_ordinary_text() -> None:
    assert render(job('{"lr": 0.1}', "{}", "{ data }")) == ['{"lr": 0.1}', "{}", "{ data }"]


def test_an_unknown_placeholder_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"\{micro_bach\}") as caught:
        render(job("--bs", "{micro_bach}"))
    assert "{micro_batch}" in (caught.value.hint or "")


def test_data_without_a_data_set_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"names no data"):
        render(job("{data}"), None)


# ---- environment


def test_nothing_leaks_from_the_callers_environment() -> None:
    caller = {name: f"value of {name}" for name in BASIC_VARIABLES}
    caller |= {"AWS_SECRET_ACCESS_KEY": "s3cr3t", "PYTHONPATH": "/evil", "LD_PRELOAD": "/evil.so"}
    caller |= {"PLANNER_PROBE_STEPS": "1", "PLANNER_EVENTS": "/evil", "RANK": "7"}
    made = env(job("python"), caller)
    assert {k: v for k, v in made.items() if not k.startswith("PLANNER_")} == {
        name: f"value of {name}" for name in BASIC_VARIABLES
    }
    assert set(made) - set(BASIC_VARIABLES) == {
        "PLANNER_RUN_ID",
        "PLANNER_ATTEMPT",
        "PLANNER_CONTROL",
        "PLANNER_CHECKPOINT_DIR",
        "PLANNER_CHECKPOINT_INTERVAL_S",
        "PLANNER_OUTPUT_DIR",
        "PLANNER_GLOBAL_BATCH",
        "PLANNER_MICRO_BATCH",
        "PLANNER_SEED",
    }


@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,12}", fullmatch=True), st.text()))
def test_only_listed_variables_ever_pass(caller: dict[str, str]) -> None:
    made = env(job("train"), caller)
    assert all(k in BASIC_VARIABLES or k.startswith("PLANNER_") for k in made)


def test_variables_the_job_names_pass() -> None:
    made = env(job("train", env=("HF_TOKEN",)), {"HF_TOKEN": "hf_x", "OTHER": "y"})
    assert made["HF_TOKEN"] == "hf_x"
    assert "OTHER" not in made


def test_a_job_cannot_name_planners_own_variables_away() -> None:
    spec = job("train", env=("PLANNER_RUN_ID",))
    assert env(spec, {"PLANNER_RUN_ID": "forged"})["PLANNER_RUN_ID"] == "r-1"


def test_a_named_variable_that_is_not_set_is_refused() -> None:
    with pytest.raises(UsageError, match="HF_TOKEN") as caught:
        env(job("train", env=("HF_TOKEN",)), {"PATH": "/bin"})
    assert "export HF_TOKEN" in (caught.value.hint or "")


def test_a_language_model_is_told_how_its_replicas_are_spread() -> None:
    model = LanguageModel(hidden=64, layers=4, heads=4, sequence=32, vocabulary=256)
    knobs = replace(KNOBS, tensor_parallel=2)
    made = env(job("train", model=model), {}, knobs=knobs)
    assert (made["PLANNER_TENSOR_PARALLEL"], made["PLANNER_PIPELINE_PARALLEL"]) == ("2", "1")
    assert render(job("--tp={tensor_parallel}"), knobs=knobs) == ["--tp=2"]


def test_planners_variables_tell_the_knobs() -> None:
    made = env(job("train", seed=4), {}, probe_steps=35)
    assert made["PLANNER_RUN_ID"] == "r-1"
    assert made["PLANNER_ATTEMPT"] == "3"
    assert made["PLANNER_GLOBAL_BATCH"] == "64"
    assert made["PLANNER_MICRO_BATCH"] == "16"
    assert made["PLANNER_CHECKPOINT_INTERVAL_S"] == "600"
    assert made["PLANNER_SEED"] == "4"
    assert made["PLANNER_PROBE_STEPS"] == "35"
    assert "PLANNER_LOADER_WORKERS" not in made


def test_loader_workers_are_told_when_the_job_says_so() -> None:
    assert env(job("train", loader_workers=0), {})["PLANNER_LOADER_WORKERS"] == "0"


def test_batches_that_are_not_known_are_left_out() -> None:
    knobs = Knobs(micro_batch=0, accumulation=1, global_batch=0)
    made = env(job("train"), {}, knobs=knobs)
    assert "PLANNER_GLOBAL_BATCH" not in made
    assert "PLANNER_MICRO_BATCH" not in made


# ---- which python


@pytest.mark.parametrize("program", ["python", "python3", "python3.11"])
def test_python_means_the_interpreter_that_planner_runs_in(program: str) -> None:
    path = search_path((program, "train.py"), {"PATH": "/usr/bin"})
    assert path.split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_environment_that_the_user_activated_wins(variable: str) -> None:
    caller = {"PATH": "/venv/bin:/usr/bin", variable: "/venv"}
    assert search_path(("python",), caller) == "/venv/bin:/usr/bin"


def test_other_programs_keep_the_callers_path() -> None:
    assert search_path(("torchrun", "train.py"), {"PATH": "/usr/bin"}) == "/usr/bin"


def test_a_planner_installed_as_a_tool_of_its_own_keeps_the_callers_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pipx_metadata.json").write_text("{}")
    monkeypatch.setattr(jobenv.sys, "prefix", str(tmp_path))
    assert search_path(("python",), {"PATH": "/usr/bin"}) == "/usr/bin"
