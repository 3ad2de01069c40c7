"""What makes two jobs the same, and what does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from planner.core.job import Goal, JobSpec, Place
from planner.services.estimating import fingerprint
from planner.services.estimating.dataset import scan_data
from planner.services.estimating.fingerprint import (
    environment_versions,
    job_fingerprint,
)
from planner.services.estimating.sources import source_mentions


@pytest.fixture
def job(tmp_path: Path) -> JobSpec:
    folder = tmp_path / "job"
    (folder / "lib").mkdir(parents=True)
    (folder / "train.py").write_text("import lib.model\n")
    (folder / "lib" / "model.py").write_text("layers = 18\n")
    (folder / "data.bin").write_bytes(b"x" * 100)
    return JobSpec(
        name="j",
        command=("python", "train.py", "--data", "{data}"),
        workdir=str(folder),
        data=str(folder / "data.bin"),
        global_batch=64,
    )


def print_of(job: JobSpec, *exclude: Path) -> str:
    return job_fingerprint(job, scan_data(job.data), exclude=exclude)


def test_it_is_stable_and_says_how_it_is_made(job: JobSpec) -> None:
    assert print_of(job) == print_of(job)
    assert print_of(job).startswith("sha256:")


SAME: dict[str, Callable[[JobSpec], JobSpec]] = {
    "goal": lambda j: replace(j, goal=Goal(deadline_s=60, budget_usd=1)),
    "places": lambda j: replace(j, places=(Place(runner="local", pool="cpu"),)),
    "epochs": lambda j: replace(j, epochs=99),
    "name": lambda j: replace(j, name="other"),
    "worker counts": lambda j: replace(j, worker_counts=(1, 2)),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_does_not_change_the_work_of_a_step_does_not_count(
    job: JobSpec, change: Callable[[JobSpec], JobSpec]
) -> None:
    assert print_of(change(job)) == print_of(job)


OTHER: dict[str, Callable[[JobSpec], JobSpec]] = {
    "command": lambda j: replace(j, command=(*j.command, "--wide")),
    "precision": lambda j: replace(j, precision="bf16"),
    "global batch": lambda j: replace(j, global_batch=32),
    "loader workers": lambda j: replace(j, loader_workers=2),
    "tier": lambda j: replace(j, tier=1),
}


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_what_changes_the_work_of_a_step_counts(
    job: JobSpec, change: Callable[[JobSpec], JobSpec]
) -> None:
    assert print_of(change(job)) != print_of(job)


@pytest.mark.parametrize("name", ["train.py", "lib/model.py", "data.bin", "lib/new.py"])
def test_scripts_and_data_count(job: JobSpec, name: str) -> None:
    before = print_of(job)
    (Path(job.workdir) / name).write_text("changed\n")
    assert print_of(job) != before


def test_a_settings_file_named_in_the_command_counts(job: JobSpec) -> None:
    settings = Path(job.workdir) / "settings.yaml"
    settings.write_text("lr: 0.1\n")
    named = replace(job, command=(*job.command, "settings.yaml"))
    before_named, before = print_of(named), print_of(job)
    settings.write_text("lr: 0.2\n")
    assert print_of(named) != before_named
    assert print_of(job) == before


@pytest.mark.parametrize("folder", [".hidden", "__pycache__", "site-packages", "state"])
def test_files_that_are_not_the_users_do_not_count(job: JobSpec, folder: str) -> None:
    state = Path(job.workdir) / "state"
    before = print_of(job, state)
    (Path(job.workdir) / folder).mkdir()
    (Path(job.workdir) / folder / "x.py").write_text("made by a tool\n")
    assert print_of(job, state) == before


def test_a_virtual_environment_does_not_count(job: JobSpec) -> None:
    before = print_of(job)
    (Path(job.workdir) / "env" / "lib").mkdir(parents=True)
    (Path(job.workdir) / "env" / "pyvenv.cfg").touch()
    (Path(job.workdir) / "env" / "lib" / "x.py").write_text("library\n")
    assert print_of(job) == before


def test_in_a_folder_full_of_scripts_only_the_named_one_counts(
    job: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "SOURCE_LIMIT_FILES", 1)
    before = print_of(job)
    (Path(job.workdir) / "lib" / "model.py").write_text("changed\n")
    assert print_of(job) == before
    (Path(job.workdir) / "train.py").write_text("changed\n")
    assert print_of(job) != before


def test_versions_of_the_environment_are_read_without_starting_it(
    job: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "env" / "lib" / "python3.12" / "site-packages"
    packages.mkdir(parents=True)
    (tmp_path / "env" / "bin").mkdir()
    interpreter = tmp_path / "env" / "bin" / "python"
    interpreter.write_text("#!/bin/false\n")
    interpreter.chmod(0o755)
    for name in ("torch-2.9.1.dist-info", "torchvision-0.24.dist-info", "numpy-2.0.dist-info"):
        (packages / name).mkdir()
    monkeypatch.setenv("PATH", str(interpreter.parent))
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "env"))
    found = environment_versions(job)
    assert found == ("python3.12", "torch==2.9.1", "torchvision==0.24")
    before = print_of(job)
    os.rename(packages / "torch-2.9.1.dist-info", packages / "torch-3.0.dist-info")
    assert print_of(job) != before


def test_a_command_that_is_not_python_has_no_versions(job: JobSpec) -> None:
    assert environment_versions(replace(job, command=("./train.sh",))) == ()


def test_sources_are_searched_for_words(job: JobSpec) -> None:
    assert not source_mentions(job, ("DistributedDataParallel",))
    (Path(job.workdir) / "lib" / "model.py").write_text("DistributedDataParallel(model)\n")
    assert source_mentions(job, ("DistributedDataParallel",))


def test_sources_that_the_job_does_not_use_say_nothing_of_it(job: JobSpec) -> None:
    (Path(job.workdir) / "other.py").write_text("DistributedDataParallel(model)\n")
    assert not source_mentions(job, ("DistributedDataParallel",))
    (Path(job.workdir) / "lib" / "model.py").write_text("def build():\n    from .. import other\n")
    assert source_mentions(job, ("DistributedDataParallel",))


@pytest.mark.parametrize(
    "command", [("python", "-m", "lib.model"), ("python", "lib/model.py", "--config", "c.yaml")]
)
def test_sources_are_found_however_they_are_started(job: JobSpec, command) -> None:
    folder = Path(job.workdir)
    (folder / "c.yaml").write_text("epochs: 3\n")
    (folder / "train.py").write_text("DistributedDataParallel(model)\n")
    started = replace(job, command=command)
    assert not source_mentions(started, ("DistributedDataParallel",))
    (folder / "lib" / "model.py").write_text("import train\n")
    assert source_mentions(started, ("DistributedDataParallel",))


@pytest.mark.parametrize("command", [("bash", "start.sh"), ("python", "train.py"), ("./run",)])
def test_all_sources_count_where_nobody_can_tell_which_are_used(job: JobSpec, command) -> None:
    folder = Path(job.workdir)
    (folder / "start.sh").write_text("python other.py\n")
    (folder / "train.py").write_text("def (:\n")
    (folder / "other.py").write_text("DistributedDataParallel(model)\n")
    assert source_mentions(replace(job, command=command), ("DistributedDataParallel",))
