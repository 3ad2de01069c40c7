"""Checkpoints of the simulated job: small, but with the layout and the manifest of the SDK's."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

_NAME = re.compile(r"(\d{6,})-step\d+")
_KEPT = 2


def write(root: Path, progress: Mapping[str, int]) -> tuple[Path, str]:
    """Write one, drop old ones; its folder and its manifest's SHA-256. Raises OSError."""
    root.mkdir(parents=True, exist_ok=True)
    present = _present(root)
    number = int(present[-1].name.split("-")[0]) + 1 if present else 1
    name = f"{number:06d}-step{progress['step']}"
    beside = root / f".writing-{name}"
    beside.mkdir(exist_ok=True)
    state = json.dumps(progress).encode()
    (beside / "state.json").write_bytes(state)
    entry = {"bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()}
    manifest = json.dumps({"version": 1, "files": {"state.json": entry}}).encode()
    (beside / "manifest.json").write_bytes(manifest)
    os.rename(beside, root / name)
    for old in present[: 1 - _KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return root / name, hashlib.sha256(manifest).hexdigest()


def newest(root: Path) -> tuple[Path, dict[str, int]] | None:
    """The newest one that fits its manifest, and the progress it holds."""
    for path in reversed(_present(root)):
        try:
            state = (path / "state.json").read_bytes()
            manifest = json.loads((path / "manifest.json").read_bytes())
            if manifest["files"]["state.json"]["sha256"] == hashlib.sha256(state).hexdigest():
                return path, json.loads(state)
        except (OSError, ValueError, KeyError):
            continue  # damaged: the one before it counts
    return None


def _present(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[0]))
