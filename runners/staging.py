"""Bring the SDK near a job: a folder that is put first on the workers' PYTHONPATH.

Workers may run in another environment than planner's, so nothing of planner needs to be installed
there: the staged folder holds the SDK, which uses the standard library only.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from planner.core.errors import StoreError

_PACKAGE = '"""The staged SDK. `import planner.sdk` is all that this folder is for."""\n'
_STAGE_ONLY = "_stage"
"""Folder of `planner.sdk` with files for the top of a staged folder, not for the package."""


def stage_sdk(stage_dir: Path) -> None:
    """Put `planner/sdk`, a bare `planner` package and `sitecustomize.py` into `stage_dir`.

    May be repeated. Each file is replaced as a whole, so that workers that are just starting from
    the same folder never see half of one; files that did not change are left alone.

    Raises:
        StoreError: The folder cannot be written.
    """
    sdk = resources.files("planner").joinpath("sdk")
    wanted: dict[Path, bytes] = {Path("planner/__init__.py"): _PACKAGE.encode()}
    _collect(sdk, Path("planner/sdk"), wanted)
    _collect(sdk.joinpath(_STAGE_ONLY), Path(), wanted)
    try:
        for relative, content in wanted.items():
            _put(stage_dir / relative, content)
        _drop_others(stage_dir / "planner", {stage_dir / relative for relative in wanted})
    except OSError as error:
        raise StoreError(
            f"cannot stage the SDK into {stage_dir}: {error.strerror or error}",
            hint="check the disk and its permissions, or choose another place with --state-dir",
        ) from error


def _collect(folder: Traversable, to: Path, found: dict[Path, bytes]) -> None:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir():
            if entry.name not in ("__pycache__", _STAGE_ONLY):
                _collect(entry, to / entry.name, found)
        elif entry.name.endswith((".py", ".typed")) and not (to == Path() and entry.name[0] == "_"):
            found[to / entry.name] = entry.read_bytes()


def _put(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".stage-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except OSError:
        Path(beside).unlink(missing_ok=True)
        raise


def _drop_others(package: Path, wanted: set[Path]) -> None:
    """Modules of an older version would be importable still."""
    for path in package.rglob("*.py"):
        if path not in wanted:
            path.unlink(missing_ok=True)
    for cache in package.rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)
