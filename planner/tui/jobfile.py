"""The job file behind the form: the goal is saved into it, and an editor is opened on it."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.core.errors import ConfigError, PlannerError, StoreError, UsageError
from planner.core.job import Goal, JobSpec
from planner.tui.probe_board import ProbeBoard

if TYPE_CHECKING:
    from planner.tui.app import PlannerApp

EDITORS = ("VISUAL", "EDITOR")
DEFAULT_EDITOR = "vi"


# ---- saving --------------------------------------------------------------------------------------


def with_goal(text: str, goal: Goal, deadline: str, *, was: Goal) -> str:
    """The text of a job file with a goal in it that `was` another; all else stays as it is.

    What is the same in both stays as it is written, too, and so do line ends. The deadline is
    written as it was typed, `6h` or `17:40`; an empty one is left out.

    Raises:
        ConfigError: The text is not TOML.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    changed = _changed_keys(goal, deadline, was)
    ends = "\r\n" if 0 < text.count("\n") == text.count("\r\n") else "\n"
    try:
        document = tomlkit.parse(text.replace(ends, "\n"))
    except TOMLKitError as error:
        raise ConfigError(f"the job file is not TOML any more: {error}", hint="ctrl+e") from error
    for key, value in changed.items():
        if value is None:
            document.get("goal", {}).pop(key, None)
        else:
            table: Any = document.setdefault("goal", tomlkit.table())
            table[key] = value
    if changed and "goal" in document and not tomlkit.dumps(document["goal"]).strip():
        document.remove("goal")
    return tomlkit.dumps(document).replace("\n", ends)


def _changed_keys(goal: Goal, deadline: str, was: Goal) -> dict[str, str | float | None]:
    """The keys of `[goal]` whose values differ, and what to write; None for a key to drop."""
    changed: dict[str, str | float | None] = {}
    if (goal.deadline_s, goal.deadline_at) != (was.deadline_s, was.deadline_at):
        changed["deadline"] = deadline or None
    budget = goal.budget_usd
    if budget != was.budget_usd:
        whole = budget is not None and budget == int(budget)
        changed["budget"] = int(budget) if budget is not None and whole else budget
    if goal.confidence != was.confidence:
        changed["confidence"] = goal.confidence
    if goal.prefer != was.prefer:
        changed["prefer"] = goal.prefer
    return changed


def deadline_text(goal: Goal) -> str:
    """A deadline that nobody typed, as it is written into a file: exact to the second.

    Whole seconds were stated as a duration; others were reckoned from a time of day.
    """
    if goal.deadline_s is None:
        return ""
    if goal.deadline_at is not None and goal.deadline_s != round(goal.deadline_s):
        return goal.deadline_at.isoformat(timespec="seconds")
    minutes, seconds = divmod(round(goal.deadline_s), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "m"), (seconds, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number)


def ask_to_save(app: PlannerApp, deadline: str) -> None:
    """Ask for the name to save under, and again before a file is overwritten."""
    from planner.tui.screens.save import SaveScreen

    path = _open_file(app)
    if path is not None:
        saved = partial(_save, app, path, deadline)
        app.push_screen(SaveScreen(path), lambda target: target and saved(target))


def _save(app: PlannerApp, source: Path, deadline: str, target: Path) -> None:
    session = app.session
    was = Goal() if session.job is None else session.job.goal
    try:
        text = with_goal(_read(source), session.goal, deadline, was=was)
    except PlannerError as error:
        app.show_error(error)
        return
    if not os.path.lexists(target):
        _write(app, target, text)
        return
    from planner.tui.screens.question import Answer, QuestionScreen

    question = QuestionScreen(
        f"Overwrite {target.name}?",
        [f"It is there already, in {target.parent}.", "Only its goal becomes the one of the form."]
        if target == source
        else [f"It is there already, in {target.parent}.", "What is in it would be lost."],
        (Answer("back", "Back", "esc"), Answer("overwrite", "Overwrite", "o")),
    )
    app.push_screen(
        question, lambda answer: _write(app, target, text) if answer == "overwrite" else None
    )


def _write(app: PlannerApp, target: Path, text: str) -> None:
    try:
        _replace(target, text)
    except PlannerError as error:
        app.show_error(error)
        return
    session = app.session
    session.job_path = target
    if session.job is not None:
        session.job = replace(session.job, source=str(target), goal=session.goal)
    app.notify(f"Saved {target}")
    app.changed()


def _replace(target: Path, text: str) -> None:
    """Put a text into a file, behind its links, and keep its mode. Raises `StoreError`."""
    from planner.store.files import write_atomic

    try:
        # What is replaced is the file itself: a link to it stays a link.
        file = Path(os.path.realpath(target, strict=os.path.islink(target)))
        mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else 0o644
        write_atomic(file, text)
        file.chmod(mode)
    except OSError as error:
        raise StoreError(
            f"{target.name} cannot be written: {error.strerror or error}",
            hint="save it under another name, or look at the folder and its permissions",
        ) from error


# ---- editing -------------------------------------------------------------------------------------


def edit(app: PlannerApp) -> bool:
    """Hand the terminal to the editor; whether the job that came back is another one."""
    from textual.app import SuspendNotSupported

    path = _open_file(app)
    if path is None:
        return False
    if app.session.board.state == "running":
        app.notify("The probes are running on this job: x on Probes stops them.")
        return False
    now = app.session.now()
    try:
        before = _goal_of(path, now)
        with app.suspend():
            _run_editor(path)
        return _take(app, _load(path, now), before)
    except SuspendNotSupported:
        app.notify("This terminal cannot be handed to an editor.", severity="warning")
    except PlannerError as error:
        app.show_error(error)
    return False


def _run_editor(path: Path) -> None:
    named = next((value for name in EDITORS if (value := os.environ.get(name))), DEFAULT_EDITOR)
    try:
        ended = subprocess.run([*shlex.split(named), str(path)], check=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f'the editor "{named}" cannot be started: {error}',
            hint="export EDITOR=... names another",
        ) from error
    if ended.returncode != 0:
        raise UsageError(
            f'the editor "{named}" ended with exit code {ended.returncode}',
            hint="the job is as it was; ctrl+e opens the file again",
        )


def _take(app: PlannerApp, job: JobSpec, before: Goal | None) -> bool:
    """Take an edited job over. A goal that was not edited stays as it is in the form."""
    session = app.session
    goal, edited = job.goal, job.goal != before
    if not edited and session.job is not None:
        goal, job = session.goal, replace(job, goal=session.job.goal)
    if session.job is not None and replace(job, goal=session.job.goal) == session.job:
        session.job = job
        app.set_goal(goal)
        return edited
    session.job, session.goal = job, goal
    session.board, session.probe_plan = ProbeBoard(), None
    session.estimate = session.estimate_error = session.what_if = session.tried_goal = None
    app.notify("Taken over from the file.")
    return True


def _goal_of(path: Path, now: datetime) -> Goal | None:
    """The goal in the file; None while it cannot be read, which is why it is edited."""
    try:
        return _load(path, now).goal
    except PlannerError:
        return None


def _load(path: Path, now: datetime) -> JobSpec:
    from planner.config.jobfile import load_job

    return load_job(path, now)


def _open_file(app: PlannerApp) -> Path | None:
    """The job file; None, and a word on it, without one."""
    if app.session.job_path is None:
        app.notify("No job file is open. planner JOB.toml opens one.", severity="warning")
    return app.session.job_path


def _read(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read: {error}", hint="is it still there?") from error
