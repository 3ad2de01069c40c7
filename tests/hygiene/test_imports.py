"""Which modules a command loads: proved in a process of its own, since only that cannot cheat."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("planner", "predictors", "runners", "pricing")
HEAVY = {"torch", "torchvision", "sklearn", "scipy", "xgboost", "pandas", "stable_baselines3"}
HEAVY |= {"boto3", "submitit", "textual"}
MOST_MODULES_OF_HELP = 400

REPORT = "import sys; print(*sorted(sys.modules), file=open({out!r}, 'w'))"


def loaded(code: str, out: Path) -> set[str]:
    """Modules that a fresh interpreter holds after running some code, however the code ends."""
    whole = f"import atexit\natexit.register(lambda: exec({REPORT.format(out=str(out))!r}))\n{code}"
    env = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", whole],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(out.read_text().split())


def tops(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_is_light(tmp_path: Path, arguments: list[str]) -> None:
    code = f"import sys; sys.argv = ['planner', *{arguments!r}]\n"
    modules = loaded(f"{code}from planner.cli.main import main\nmain()", tmp_path / "out")
    assert "planner.cli.main" in modules
    assert not HEAVY & tops(modules)
    assert "numpy" not in modules
    assert len(modules) < MOST_MODULES_OF_HELP


def test_status_is_light(tmp_path: Path) -> None:
    code = f"import sys; sys.argv = ['planner', '--state-dir', {str(tmp_path / 's')!r}, 'status']\n"
    modules = loaded(f"{code}from planner.cli.main import main\nmain()", tmp_path / "out")
    assert not HEAVY & tops(modules)


def test_reading_a_job_file_is_light(tmp_path: Path) -> None:
    job = ROOT / "examples" / "digits" / "job.toml"
    code = (
        "from datetime import UTC, datetime; from pathlib import Path\n"
        "from planner.config.jobfile import load_job\n"
        f"load_job(Path({str(job)!r}), datetime.now(UTC))"
    )
    modules = loaded(code, tmp_path / "out")
    assert not HEAVY & tops(modules)
    assert "planner.services" not in modules


@pytest.mark.parametrize("package", ["core", "config", "wire", "store"])
def test_every_module_of_the_light_packages_is_light(tmp_path: Path, package: str) -> None:
    names = [
        f"planner.{package}.{path.stem}"
        for path in (ROOT / "planner" / package).glob("*.py")
        if path.stem != "__init__"
    ]
    assert names
    modules = loaded("\n".join(f"import {name}" for name in names), tmp_path / "out")
    assert not HEAVY & tops(modules)


def test_the_sdk_is_the_standard_library_alone(tmp_path: Path) -> None:
    modules = loaded("import planner.sdk", tmp_path / "out")
    ours = {name for name in modules if name.split(".")[0] in PACKAGES}
    assert all(name == "planner" or name.startswith("planner.sdk") for name in ours)
    others = tops(modules) - set(sys.stdlib_module_names) - {"planner", "__main__"}
    bare = tops(loaded("import sys", tmp_path / "bare"))
    assert others <= bare | {"sitecustomize"}


def test_the_import_contracts_are_kept() -> None:
    from importlinter.cli import lint_imports

    here = Path.cwd()
    os.chdir(ROOT)
    try:
        assert lint_imports(no_cache=True) == 0
    finally:
        os.chdir(here)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_provides_our_import_names(package: str) -> None:
    providers = importlib.metadata.packages_distributions().get(package, ["train-planner"])
    assert set(providers) == {"train-planner"}
