"""What the sources of a job say: those that its command names, and what these import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from planner.core.job import JobSpec
from planner.services.estimating.fingerprint import named_files, python_files

_STARTERS = frozenset({"", ".sh", ".bash"})
"""Of files that may start others, which nobody can tell."""


def source_mentions(
    job: JobSpec, words: tuple[str, ...], *, exclude: tuple[Path, ...] = ()
) -> bool:
    """Whether a source file of the job holds any of these words.

    These are the files that its command names and, of Python scripts, the modules in the job's
    folder that they import. Where the command names no Python script, or one that cannot be read
    as Python, or a shell script, all `.py` files of the folder count.

    Args:
        job: The job.
        words: Looked for as they are.
        exclude: Folders whose files do not count, such as the state directory.
    """
    wanted = [word.encode() for word in words]
    for path in sorted(_sources(job, exclude)):
        try:
            content = path.read_bytes()
        except OSError:
            continue  # gone or unreadable: it mentions nothing
        if any(word in content for word in wanted):
            return True
    return False


def _sources(job: JobSpec, exclude: tuple[Path, ...]) -> set[Path]:
    root = Path(job.workdir)
    named = {*named_files(job, root), *_named_module(job, root)}
    scripts = {path for path in named if path.suffix == ".py"}
    starters = {path for path in named if path.suffix in _STARTERS}
    imported = _imported(scripts, root) if scripts and not starters else None
    if imported is not None:
        return named | imported
    skipped = {str(path) for path in exclude} | ({job.data} if job.data else set())
    return {*named, *python_files(root, skipped)}


def _named_module(job: JobSpec, root: Path) -> Iterator[Path]:
    """The file behind `-m package.module`."""
    for flag, name in zip(job.command, job.command[1:], strict=False):
        if flag == "-m":
            yield from _module_files(root, name)
            yield from _module_files(root, f"{name}.__main__")


def _imported(scripts: set[Path], root: Path) -> set[Path] | None:
    """The scripts and all that they import from the folder; None where one is not Python."""
    found, waiting = set(scripts), list(scripts)
    while waiting:
        path = waiting.pop()
        try:
            tree = ast.parse(path.read_bytes(), filename=str(path))
        except (OSError, SyntaxError, ValueError, RecursionError):
            return None
        for name, folder in _names(tree, path):
            for base in {root, path.parent} if folder is None else {folder}:
                new = set(_module_files(base, name)) - found
                found |= new
                waiting += new
    return found


def _names(tree: ast.AST, path: Path) -> Iterator[tuple[str, Path | None]]:
    """Names of imported modules, and the folder that they are relative to, if any."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - 1
            folder = None if up < 0 else path.parents[min(up, len(path.parents) - 1)]
            parts = [node.module] if node.module else []
            yield ".".join(parts), folder
            for alias in node.names:  # each may be a module
                yield ".".join([*parts, alias.name]), folder


def _module_files(base: Path, name: str) -> Iterator[Path]:
    """Files that importing the name runs: the module, and the packages on the way to it."""
    parts = [part for part in name.split(".") if part]
    for count in range(1, len(parts) + 1):
        inside = base.joinpath(*parts[:count])
        for path in (inside.with_suffix(".py"), inside / "__init__.py"):
            if path.is_file():
                yield path
