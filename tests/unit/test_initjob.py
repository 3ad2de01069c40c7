"""From a command line to a job, and to a job file that a person goes on with."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from planner.config.jobfile import job_from_command, load_job
from planner.core.errors import UsageError
from planner.core.job import JobSpec
from planner.services.initjob import job_file_text

NOW = datetime(2026, 11, 21, 11, 40, tzinfo=UTC)


def job(line: str, folder: Path) -> JobSpec:
    return job_from_command(shlex.split(line), folder)


@pytest.mark.parametrize(
    "line",
    [
        "python train.py --data d --epochs 9 --batch-size 64 --workers 2 --seed 5 --lr 0.1",
        "python train.py --data=d --epochs=9 --batch-size=64 --workers=2 --seed=5 --lr=0.1",
        "python train.py --data_dir d --num_epochs 9 -b 64 --num_workers 2 --seed 5 --lr 0.1",
    ],
)
def test_known_flags_become_knobs(tmp_path: Path, line: str) -> None:
    found = job(line, tmp_path)
    assert found.data == str(tmp_path / "d")
    assert (found.epochs, found.global_batch, found.loader_workers, found.seed) == (9, 64, 2, 5)
    filled = " ".join(found.command)
    for name in ("{data}", "{epochs}", "{micro_batch}", "{loader_workers}", "{seed}"):
        assert filled.count(name) == 1
    assert "0.1" in filled


def test_the_rest_of_the_command_stays_as_it_is(tmp_path: Path) -> None:
    found = job("python -u train.py --lr 0.1 --name 'a b' out", tmp_path)
    assert found.command == ("python", "-u", "train.py", "--lr", "0.1", "--name", "a b", "out")
    assert (found.data, found.epochs, found.global_batch) == (None, 1, None)


@pytest.mark.parametrize(
    "line",
    ["python t.py --epochs", "python t.py --epochs many", "python t.py --batch-size -1",
     "python t.py --epochs 0", "python t.py --data --x", "python t.py --epochs 1.5"],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_left_alone(tmp_path: Path, line: str) -> None:
    assert job(line, tmp_path).command == tuple(shlex.split(line))


def test_a_flag_given_twice_is_a_knob_once(tmp_path: Path) -> None:
    found = job("python t.py --epochs 3 --epochs 4", tmp_path)
    assert found.command == ("python", "t.py", "--epochs", "{epochs}", "--epochs", "4")


def test_data_on_a_command_line_may_be_anywhere(tmp_path: Path) -> None:
    assert job("python t.py --data ../d", tmp_path / "x").data == str(tmp_path / "d")
    assert job("python t.py --data /srv/d", tmp_path).data == "/srv/d"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("python finetune_bert.py", "finetune_bert"),
        ("python train.py", "resnet50"),
        ("python sub/train.py", "sub"),
        ("python -m pkg.loop", "resnet50"),
        ("./my.script.sh", "my-script"),
        ("python ünï.py", "n"),
    ],
)
def test_the_job_is_called_after_its_script_or_folder(tmp_path: Path, line: str, name: str) -> None:
    folder = tmp_path / "resnet50"
    folder.mkdir()
    if name == "resnet50" and "-m" in line:
        (folder / "pkg").mkdir()
        (folder / "pkg" / "loop.py").touch()
        name = "loop"
    assert job(line, folder).name == name


def test_the_tier_is_seen(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import planner.sdk\n")
    assert job("python train.py", tmp_path).tier == 1
    assert job("python other.py", tmp_path).tier == 0


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "no command"),
        ([""], "no command"),
        (["torchrun", "train.py"], "planner starts the workers itself"),
        (["/usr/bin/mpirun", "-n", "2", "x"], "planner starts the workers itself"),
        (["python", "t.py", "{oops}"], "unknown placeholder {oops}"),
        (["python", "t.py", "--token", "hf_abcdefghijklmnopqrstuvwx"], "looks like a secret"),
    ],
)
def test_a_command_that_cannot_be_planned_is_refused(
    tmp_path: Path, argv: list[str], part: str
) -> None:
    with pytest.raises(UsageError) as caught:
        job_from_command(argv, tmp_path)
    assert part in caught.value.text
    assert "abcdefghij" not in f"{caught.value.text} {caught.value.hint}"


@pytest.mark.parametrize(
    "line",
    [
        "python train.py --data d --epochs 9 --batch-size 64 --workers 2 --seed 5",
        "python train.py --data ../elsewhere --epochs 9",
        "python 'my train.py' --note 'it''s \"fine\" # yes' --cfg '{\"lr\": 1}'",
        "python train.py",
    ],
)
def test_the_file_says_the_same_as_the_command(tmp_path: Path, line: str) -> None:
    path = tmp_path / "planner.toml"
    path.write_text(job_file_text(shlex.split(line), tmp_path))
    assert replace(load_job(path, NOW), source=None) == job(line, tmp_path)


def test_the_file_tells_what_was_read_and_what_was_guessed(tmp_path: Path) -> None:
    text = job_file_text(shlex.split("python train.py --data d --batch-size 64"), tmp_path)
    assert 'command = "python train.py --data {data} --batch-size {micro_batch}"' in text
    assert 'data = "d" # from --data' in text
    assert "global_batch = 64 # from --batch-size" in text
    assert "epochs = 1 # guessed" in text
    assert "tier 0" in text
    assert '# deadline = "6h"' in text
