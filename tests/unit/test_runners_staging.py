"""Staging the SDK for workers that may live in another environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.core.errors import StoreError
from runners.staging import stage_sdk


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_staged_folder_is_enough_for_the_sdk(tmp_path: Path) -> None:
    stage_sdk(tmp_path)
    code = "import planner, planner.sdk; print(planner.sdk.__file__); print(planner.sdk.attach)"
    shown = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith(str(tmp_path / "planner/sdk"))


def test_it_holds_the_sdk_and_nothing_else_of_planner(tmp_path: Path) -> None:
    stage_sdk(tmp_path)
    staged = tree(tmp_path)
    assert {Path(name).parts[0] for name in staged} <= {"planner", "sitecustomize.py"}
    assert {Path(n).parts[1] for n in staged if n.startswith("planner")} == {"__init__.py", "sdk"}
    assert not any(name.endswith(".pyc") or "_stage" in name for name in staged)


def test_what_starts_every_interpreter_is_staged_at_the_top(tmp_path: Path) -> None:
    stage_sdk(tmp_path)
    assert (tmp_path / "sitecustomize.py").is_file()


def test_staging_twice_changes_nothing(tmp_path: Path) -> None:
    stage_sdk(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.py")}
    stage_sdk(tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.py")} == before
    assert not list(tmp_path.rglob(".stage-*"))


def test_an_older_version_is_replaced_as_a_whole(tmp_path: Path) -> None:
    stage_sdk(tmp_path)
    fresh = tree(tmp_path)
    (tmp_path / "planner/sdk/gone_since.py").write_text("x = 1\n")
    (tmp_path / "planner/sdk/__init__.py").write_text("raise RuntimeError\n")
    stage_sdk(tmp_path)
    assert tree(tmp_path) == fresh


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "stage").write_text("a file")
    with pytest.raises(StoreError, match="stage") as caught:
        stage_sdk(tmp_path / "stage")
    assert caught.value.hint


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    """`RLIMIT_FSIZE` makes writes fail as a full disk does."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from planner.core.errors import StoreError\n"
        "from runners.staging import stage_sdk\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: stage_sdk(Path(sys.argv[1]))\n"
        "except StoreError: sys.exit(7)\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": root},
        check=False,
    )
    assert done.returncode == 7
    assert not list(tmp_path.rglob(".stage-*"))
    assert all(p.stat().st_size <= 100 for p in tmp_path.rglob("*") if p.is_file())


def test_it_can_be_staged_from_a_wheel(tmp_path: Path) -> None:
    """A wheel is a folder of files once installed: a copy of the package stands for it."""
    import shutil

    root = Path(__file__).parents[2]
    for package in ("planner", "runners"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / package, tmp_path / "site" / package, ignore=ignore)
    code = "import sys; from pathlib import Path; from runners.staging import stage_sdk\n"
    code += "import runners; assert 'site' in runners.__file__; stage_sdk(Path(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "stage")],
        env={"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        check=True,
    )
    stage_sdk(tmp_path / "here")
    assert tree(tmp_path / "stage") == tree(tmp_path / "here")
