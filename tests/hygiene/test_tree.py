"""What no file of the project may hold, and what each must."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("planner", "predictors", "runners", "pricing")
MOST_LINES = 500  # an alarm; the norm that reviewers hold modules to is 400
MARKERS = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")
INDEX_HOSTS = ("pypi" + ".org", "python" + "hosted", "anaconda" + ".org", "download.py" + "torch")
MACHINE_PATHS = re.compile(r"(?<![\w.{}~-])/(?:tmp|work|root|home|Users|opt)/[\w.-]+")


def tracked() -> list[Path]:
    """Every file of the project, those not yet committed included."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip("not a git checkout: which files belong to the project cannot be told")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def texts(suffixes: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    for path in tracked():
        if suffixes and path.suffix not in suffixes:
            continue
        try:
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def sources(*, tests: bool = False) -> list[tuple[str, str]]:
    """Python files: those that are shipped, and the tests when asked."""
    kept = (*PACKAGES, "examples", "tests") if tests else (*PACKAGES, "examples")
    return [(name, text) for name, text in texts((".py",)) if name.split("/")[0] in kept]


def test_there_is_something_to_look_at() -> None:
    assert len(sources()) > 50


def test_no_file_names_a_package_index() -> None:
    found = [(name, host) for name, text in texts() for host in INDEX_HOSTS if host in text.lower()]
    assert found == []


def test_no_shipped_file_names_a_place_of_somebodys_machine() -> None:
    found = [
        (name, match.group())
        for name, text in texts((".py", ".toml", ".txt", ".in", ".sh", ".json", ".cfg", ""))
        if not name.startswith("tests/") and not name.endswith("LICENSE")
        for match in MACHINE_PATHS.finditer(text)
    ]
    assert found == []


def test_every_module_has_a_docstring() -> None:
    bare = [name for name, text in sources(tests=True) if text and not _docstring(text)]
    assert bare == []


def _docstring(text: str) -> str | None:
    return ast.get_docstring(ast.parse(text))


def test_nothing_is_left_for_later() -> None:
    found = [
        f"{name}: {marker}"
        for name, text in sources(tests=True)
        for marker in (*MARKERS, "NotImplemented" + "Error")
        if re.search(rf"\b{marker}\b", text)
    ]
    assert found == []


def test_no_error_is_swallowed_and_no_test_is_empty() -> None:
    found = []
    for name, text in sources(tests=True):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ExceptHandler):
                if node.type is None or all(isinstance(s, ast.Pass) for s in node.body):
                    found.append(f"{name}:{node.lineno}: except without an answer")
            elif isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant):
                found.append(f"{name}:{node.lineno}: assert of a constant")
    assert found == []


def test_nothing_is_unpickled() -> None:
    found = []
    for name, text in sources():
        for node in ast.walk(ast.parse(text)):
            names = _imported(node)
            if names & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}:
                found.append(f"{name}:{node.lineno}: {names}")  # type: ignore[attr-defined]
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("torch.load"):
                safe = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("weights_only")
                if safe != "True":
                    found.append(f"{name}:{node.lineno}: torch.load without weights_only=True")
            if isinstance(node, ast.keyword) and node.arg == "shell":
                found.append(f"{name}:{node.value.lineno}: shell=")
    assert found == []


def _imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").split(".")[0]}
    return set()


def test_every_skip_says_why() -> None:
    found = []
    for name, text in sources(tests=True):
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            keywords = {k.arg for k in node.keywords}
            if called.endswith(("mark.skip", "mark.skipif", "mark.xfail")):
                if "reason" not in keywords and not (called.endswith("skip") and node.args):
                    found.append(f"{name}:{node.lineno}")
            elif called == "pytest.skip" and not (node.args or "reason" in keywords):
                found.append(f"{name}:{node.lineno}")
    assert found == []


def test_modules_stay_short() -> None:
    long = {
        name: lines for name, text in sources() if (lines := len(text.splitlines())) > MOST_LINES
    }
    assert long == {}


@pytest.mark.parametrize("name", ["bootstrap.txt", "dev.txt"])
def test_every_locked_version_has_a_hash_and_no_index_is_named(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    lines = [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    assert lines
    for line in lines:
        assert re.match(r"[a-z0-9._-]+(\[[\w,-]+\])?==\S+", line), line
        assert "--hash=sha256:" in line, line
        assert "://" not in line, line


def test_text_files_end_with_one_new_line_and_hold_no_tabs_or_trailing_blanks() -> None:
    found = []
    for name, text in texts((".py", ".md", ".toml", ".in")):
        if text and (not text.endswith("\n") or text.endswith("\n\n")):
            found.append(f"{name}: end of file")
        if any(line != line.rstrip() for line in text.split("\n")):
            found.append(f"{name}: trailing blanks")
        if "\t" in text and not name.startswith("tests/"):
            found.append(f"{name}: tab")
    assert found == []


def test_links_between_documents_lead_somewhere() -> None:
    link = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)\s]*)?\)")
    found = [
        (name, target)
        for name, text in texts((".md",))
        if name == "README.md" or name.startswith("docs/")
        for target in link.findall(text)
    ]
    assert len(found) > 20
    broken = [f"{n}: {t}" for n, t in found if not ((ROOT / n).parent / t).exists()]
    assert broken == []
