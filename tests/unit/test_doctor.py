"""What `planner doctor` says, and that each thing that is not well comes with a fix."""

from __future__ import annotations

import shutil
import sys
from collections import namedtuple
from datetime import UTC, datetime
from pathlib import Path

import pytest

from planner.core.errors import UsageError
from planner.core.job import JobSpec
from planner.services import doctor
from planner.services.api import Check
from planner.services.doctor import run_checks
from runners.metrics import Gpu, Nvml


def one(state: Path, name: str, job: JobSpec | None = None) -> Check:
    (check,) = run_checks(state, [name], job)
    assert check.id == name
    if check.state in ("warn", "fail"):
        assert check.fix
    return check


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state"


def test_all_checks_answer_on_this_machine(state: Path) -> None:
    checks = run_checks(state)
    assert [c.id for c in checks if c.state == "fail"] == []
    assert {"python", "packages", "state.writable", "gpu", "cpu", "leftovers", "slurm", "aws"} <= {
        c.id for c in checks
    }
    assert all(c.text for c in checks)


def test_only_some_by_id_or_family(state: Path) -> None:
    assert [c.id for c in run_checks(state, ["state", "python"])] == [
        "python", "state.writable", "state.space", "state.disk",
    ]  # fmt: skip
    assert [c.id for c in run_checks(state, ["state.disk"])] == ["state.disk"]


def test_an_unknown_check_is_told_with_the_nearest(state: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run_checks(state, ["pyton"])
    assert "did you mean python?" in (caught.value.hint or "")


def test_a_state_directory_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert one(tmp_path / "file" / "state", "state.writable").state == "fail"
    assert one(Path("/proc/planner"), "state.writable").state == "fail"


@pytest.mark.parametrize(
    ("free", "answer"), [(50_000_000, "fail"), (1_000_000_000, "warn"), (10**12, "ok")]
)
def test_the_room_for_checkpoints_is_judged(
    state: Path, monkeypatch: pytest.MonkeyPatch, free: int, answer: str
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**13, 0, free))
    assert one(state, "state.space").state == answer


def test_a_network_disk_is_told_with_what_planner_does(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planner.store.layout.file_system", lambda path: "nfs4")
    monkeypatch.setattr(doctor, "file_system", lambda path: "nfs4")
    check = one(state, "state.disk")
    assert check.state == "warn"
    assert "nfs4" in check.text
    assert "rollback journal" in check.text


def test_no_gpu_is_no_failure(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nvml, "gpus", lambda self: ())
    monkeypatch.setattr(Path, "exists", lambda self, **_: False)
    assert one(state, "gpu").state == "skip"


def test_a_driver_without_a_usable_gpu_is_a_failure(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Nvml, "gpus", lambda self: ())
    monkeypatch.setattr(Path, "exists", lambda self, **_: True)
    assert one(state, "gpu").state == "fail"


def test_hidden_gpus_are_told(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(index=0, uuid="GPU-1", name="NVIDIA A10G", memory_bytes=24_000_000_000)
    monkeypatch.setattr(Nvml, "gpus", lambda self: (gpu,))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert one(state, "gpu").state == "ok"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert one(state, "gpu").state == "warn"


def test_a_clock_before_planner_was_made_is_wrong(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Past(datetime):
        @classmethod
        def now(cls, tz=None):  # type: ignore[no-untyped-def, override]
            return datetime(1970, 1, 2, tzinfo=tz)

    monkeypatch.setattr(doctor, "datetime", Past)
    assert one(state, "clock").state == "fail"


@pytest.mark.parametrize(
    ("term", "size", "answer"),
    [("xterm-256color", (120, 40), "ok"), ("xterm", (79, 24), "warn"), ("dumb", (120, 40), "warn")],
)
def test_the_terminal_is_judged(
    state: Path, monkeypatch: pytest.MonkeyPatch, term: str, size: tuple[int, int], answer: str
) -> None:
    class Terminal:
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: size)
    monkeypatch.setenv("TERM", term)
    assert one(state, "terminal").state == answer


def test_a_missing_package_is_a_failure(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ["no-such-thing>=1", "numpy>=2"])
    check = one(state, "packages")
    assert check.state == "fail"
    assert check.text == "missing: no-such-thing"


@pytest.mark.parametrize(
    ("script", "answer", "part"),
    [
        ("import planner.sdk\n", "ok", "tier 1"),
        ("import torch\n", "warn", "tier 0"),
        (None, "warn", "names no Python script"),
    ],
)
def test_the_script_of_the_job_here_is_checked(
    state: Path, script: str | None, answer: str, part: str
) -> None:
    assert one(state, "job").state == "skip"
    Path("planner.toml").write_text('[job]\nname = "digits"\ncommand = "python train.py"\n')
    if script is not None:
        Path("train.py").write_text(script)
    check = one(state, "job")
    assert check.state == answer
    assert part in check.text


def test_a_broken_job_file_fails_its_check_and_no_other(state: Path) -> None:
    Path("planner.toml").write_text('[job]\nname = "digits"\n')
    states = {check.id: check.state for check in run_checks(state, ["job", "python"])}
    assert states == {"job": "fail", "python": "ok"}


def test_no_value_of_a_variable_is_printed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    monkeypatch.setenv("HF_TOKEN", "hunter2hunter2")
    assert "hunter2" not in str(run_checks(state))


def test_the_time_is_told_in_utc(state: Path) -> None:
    assert f"{datetime.now(UTC):%Y-%m-%d}" in one(state, "clock").text
