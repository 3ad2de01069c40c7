"""What makes two jobs the same: whatever decides how long a step takes and what it needs.

The command template, the scripts, the data's shape, precision, the wished-for global batch, loader
workers, and the versions of the interpreter and of torch. Not the goal, the prices, the places or
the number of epochs: those are asked anew with every estimate, and evidence stays valid.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from planner.core.job import JobSpec
from planner.services.estimating.dataset import DataStats
from planner.services.jobenv import search_path

SOURCE_LIMIT_FILES = 500
SOURCE_LIMIT_BYTES = 5_000_000
FOLDER_LIMIT = 5000
_FILE_LIMIT_BYTES = 1_000_000
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist"})
_FRAMEWORKS = re.compile(r"(torch|torchvision|lightning|transformers)-(\d[^-]*)\.dist-info")


def job_fingerprint(job: JobSpec, stats: DataStats, *, exclude: tuple[Path, ...] = ()) -> str:
    """`sha256:` and the hash of what makes this job the job it is.

    Args:
        job: The job.
        stats: What `scan_data` found.
        exclude: Folders whose files do not count, such as the state directory.
    """
    parts = {
        "command": job.command,
        "tier": job.tier,
        "precision": job.precision,
        "global_batch": job.global_batch,
        "loader_workers": job.loader_workers,
        "samples": job.samples,
        "data": stats.fingerprint,
        "sources": source_digest(job, exclude=exclude),
        "environment": environment_versions(job),
    }
    text = json.dumps(parts, sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def source_digest(job: JobSpec, *, exclude: tuple[Path, ...] = ()) -> str:
    """Hash of the `.py` files in the job's folder and of the files its command names.

    Hidden folders, virtual environments, the data set and `exclude` are passed over. In a folder
    with more than 500 such files, or 5 MB of them, only the files that the command names count.
    """
    root = Path(job.workdir)
    skipped = {str(path) for path in exclude}
    if job.data:
        skipped.add(job.data)
    named = set(named_files(job, root))
    found = list(python_files(root, skipped))
    too_many = len(found) > SOURCE_LIMIT_FILES or _total_bytes(found) > SOURCE_LIMIT_BYTES
    digest = hashlib.sha256()
    for path in sorted(named if too_many else named.union(found)):
        try:
            content = path.read_bytes()
        except OSError:
            content = b""  # gone or unreadable: its name still counts, and the job will say so
        name = os.path.relpath(path, root)
        digest.update(f"{name}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
    return digest.hexdigest()


def environment_versions(job: JobSpec) -> tuple[str, ...]:
    """Interpreter and frameworks that the command would use, found without starting anything.

    Empty where the command is not Python, or its environment is laid out in an unknown way.
    """
    if not job.command or not Path(job.command[0]).name.startswith("python"):
        return ()
    program = job.command[0]
    if os.sep in program:
        found: str | None = os.path.join(job.workdir, program)
    else:
        found = shutil.which(program, path=search_path(job.command, os.environ))
    if found is None:
        return ()
    # The environment is where the link lies; a plain installation is where it points.
    for executable in (Path(found), Path(found).resolve()):
        packages = sorted(executable.parent.parent.glob("lib/python3*/site-packages"))
        if packages:
            names = [entry.name for folder in packages for entry in folder.iterdir()]
            matches = [m for name in names if (m := _FRAMEWORKS.fullmatch(name))]
            versions = sorted(f"{m.group(1)}=={m.group(2)}" for m in matches)
            return (packages[0].parent.name, *versions)
    return ()


def named_files(job: JobSpec, root: Path) -> Iterator[Path]:
    """Small files that the job's command names, its data set aside."""
    for argument in job.command[1:]:
        path = root / argument
        try:
            small = path.is_file() and path.stat().st_size <= _FILE_LIMIT_BYTES
        except (OSError, ValueError):
            continue  # an argument that cannot be a path
        if small and str(path) != job.data:
            yield path


def python_files(root: Path, skipped: set[str]) -> Iterator[Path]:
    """The `.py` files of a folder, but for hidden folders, environments and what is skipped."""
    for seen, (folder, subfolders, names) in enumerate(os.walk(root)):
        if seen == FOLDER_LIMIT:
            return
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".")
            and name not in _SKIPPED_FOLDERS
            and os.path.join(folder, name) not in skipped
            and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
        )
        for name in sorted(names):
            if name.endswith(".py"):
                yield Path(folder, name)


def _total_bytes(paths: list[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except OSError:
            continue  # gone since the walk
    return total
