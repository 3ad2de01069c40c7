"""ctrl+s saves the goal of the form into a job file, ctrl+e opens it in an editor."""

from __future__ import annotations

import tomllib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from support.fake_services import FakeServices
from support.tui import Stage, press, settle

from planner.config.jobfile import load_job
from planner.core.job import Goal
from planner.tui.jobfile import with_goal
from planner.tui.text import short_duration

TEXT = """# what a person wrote
[job]
name = "digits"
command = "python train.py --epochs {epochs}"
epochs = 12               # passes

[goal]
deadline = "10m"
confidence = 0.9          # ask for much

[[where]]
runner = "local"
slots = 2
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A job file beside its script."""
    (tmp_path / "train.py").write_text("print('trained')", encoding="utf-8")
    file = tmp_path / "job.toml"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.fixture
def opened(path: Path) -> Stage:
    """The app on that file."""
    return opened_on(path)


def opened_on(path: Path) -> Stage:
    stage = Stage(FakeServices())
    stage.job = load_job(path, stage.clock.now())
    stage.make()
    stage.app.session.job_path = path
    return stage


@pytest.fixture
def editor(opened: Stage, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that is the person's editor; a test writes it."""
    script = path.parent / "editor.sh"
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"sh {script}")
    # The test's driver has no terminal to hand over; what the editor does is done for real.
    monkeypatch.setattr(opened.app, "suspend", nullcontext)
    return script


async def type_into(stage: Stage, pilot: object, name: str, text: str) -> None:
    stage.app.screen.query_one(f"#{name}").value = text  # type: ignore[attr-defined]
    await settle(pilot)  # type: ignore[arg-type]


def test_a_goal_goes_into_the_text_and_the_rest_stays(opened: Stage) -> None:
    was = opened.app.session.goal
    later = replace(was, deadline_s=7200.0)
    text = with_goal(TEXT, later, "17:40", was=was)
    assert 'deadline = "17:40"' in text
    assert text.replace('"17:40"', '"10m"') == TEXT
    assert 'prefer = "time"' in with_goal(TEXT, replace(was, prefer="time"), "", was=was)
    without = replace(was, deadline_s=None, deadline_at=None)
    assert "deadline" not in with_goal(TEXT, without, "", was=was)


@pytest.mark.parametrize(
    "written", ['"1h30m20s"', '"90m"', '"2026-12-24T18:00:30+01:00"', "2026-12-24T18:00:30Z"]
)
@pytest.mark.asyncio
async def test_what_was_not_touched_stays_to_the_letter(path: Path, written: str) -> None:
    text = TEXT.replace('"10m"', written).replace("0.9  ", "0.90 ")
    text = text.replace("[[where]]", 'budget = "$40.00"\n\n[[where]]')
    path.write_text(text, encoding="utf-8")
    stage = opened_on(path)
    goal = stage.app.session.goal
    async with stage.running() as pilot:
        field = stage.app.screen.query_one("#deadline")
        field.focus()
        await press(pilot, "end", "backspace", "backspace", "escape")
        shown = field.value  # type: ignore[attr-defined]
        await type_into(stage, pilot, "deadline", "")
        await type_into(stage, pilot, "deadline", short_duration(goal.deadline_s or 0))
        assert stage.app.session.goal == goal, shown
        await press(pilot, "escape", "ctrl+s", "enter", "o")
        assert "Saved" in stage.screen_text()
        assert path.read_text(encoding="utf-8") == text
        await type_into(stage, pilot, "budget", "50")
        await press(pilot, "ctrl+s", "enter", "o")
    assert path.read_text(encoding="utf-8") == text.replace('"$40.00"', "50")


@pytest.mark.asyncio
async def test_line_ends_links_and_modes_stay(opened: Stage, path: Path) -> None:
    file = path.with_name("shared.toml")
    file.write_bytes(TEXT.replace("\n", "\r\n").encode())
    file.chmod(0o640)
    path.unlink()
    path.symlink_to(file.name)
    async with opened.running() as pilot:
        await type_into(opened, pilot, "budget", "2")
        await press(pilot, "ctrl+s", "enter", "o")
        assert "Saved" in opened.screen_text()
    saved = file.read_bytes().decode()
    assert path.is_symlink() and saved.count("\r\n") == saved.count("\n")
    assert saved.replace("budget = 2\r\n", "").replace("\r\n", "\n") == TEXT
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.asyncio
async def test_a_name_that_cannot_be_written_is_told(opened: Stage, path: Path) -> None:
    loop = path.with_name("loop.toml")
    loop.symlink_to(loop.name)
    async with opened.running() as pilot:
        await press(pilot, "ctrl+s", "ctrl+u")
        await pilot.press(*"loop")
        await press(pilot, "enter", "o")
        assert "loop.toml cannot be written" in " ".join(opened.screen_text().split())
        await press(pilot, "ctrl+s", "ctrl+u")
        field = opened.app.screen.query_one("#file-name")
        field.value = "x" * 300  # type: ignore[attr-defined]
        await press(pilot, "enter")
        assert "xxxxxxxx" in opened.screen_text()
    assert loop.is_symlink()


def test_a_goal_of_nothing_gets_no_table() -> None:
    bare = '[job]\nname = "digits"\n'
    goal = Goal(budget_usd=2.0)
    assert with_goal(bare, Goal(), "", was=Goal()) == bare
    with_budget = with_goal(bare, goal, "", was=Goal())
    assert tomllib.loads(with_budget)["goal"] == {"budget": 2}
    assert "[goal]" not in with_goal(with_budget, Goal(), "", was=goal)
    assert with_goal(bare, Goal(), "", was=goal) == bare
    noted = "[goal]\n# none yet\nbudget = 2\n"
    assert "# none yet" in with_goal(noted, Goal(), "", was=goal)


@pytest.mark.asyncio
async def test_a_goal_of_flags_is_saved_to_the_second(opened: Stage, path: Path) -> None:
    opened.app.session.goal = replace(opened.app.session.goal, deadline_s=5420.0)
    async with opened.running() as pilot:
        await press(pilot, "ctrl+s", "enter", "o")
    assert path.read_text(encoding="utf-8") == TEXT.replace('"10m"', '"1h30m20s"')


@pytest.mark.asyncio
async def test_saving_asks_before_it_overwrites(opened: Stage, path: Path) -> None:
    async with opened.running() as pilot:
        await type_into(opened, pilot, "deadline", "20m")
        await type_into(opened, pilot, "budget", "2.5")
        await press(pilot, "ctrl+s", "enter")
        assert "Overwrite job.toml?" in opened.screen_text()
        await press(pilot, "enter")
        assert path.read_text(encoding="utf-8") == TEXT
        await press(pilot, "ctrl+s", "enter", "o")
        assert "Saved" in opened.screen_text()
    goal = tomllib.loads(path.read_text(encoding="utf-8"))["goal"]
    assert goal == {"deadline": "20m", "budget": 2.5, "confidence": 0.9}
    assert "# what a person wrote" in path.read_text(encoding="utf-8")
    assert load_job(path, opened.clock.now()).goal.deadline_s == 1200


@pytest.mark.asyncio
async def test_saving_under_another_name_makes_that_the_open_file(
    opened: Stage, path: Path
) -> None:
    async with opened.running() as pilot:
        await press(pilot, "ctrl+s", "ctrl+u")
        await pilot.press(*"a/b")
        await settle(pilot)
        assert "without folders" in opened.screen_text()
        await press(pilot, "ctrl+u")
        await pilot.press(*"long")
        await press(pilot, "enter")
        assert "job  long.toml" in opened.screen_text()
    assert path.read_text(encoding="utf-8") == TEXT
    assert load_job(path.with_name("long.toml"), opened.clock.now()).name == "digits"


@pytest.mark.asyncio
async def test_what_cannot_be_read_is_not_saved(opened: Stage, path: Path) -> None:
    async with opened.running() as pilot:
        await type_into(opened, pilot, "deadline", "30")
        await press(pilot, "ctrl+s")
        assert "Save the job file" not in opened.screen_text()
        assert opened.app.screen.focused is opened.app.screen.query_one("#deadline")
    assert path.read_text(encoding="utf-8") == TEXT


@pytest.mark.asyncio
async def test_an_edited_file_is_taken_over(opened: Stage, path: Path, editor: Path) -> None:
    editor.write_text('sed -i "s/epochs = 12/epochs = 3/; s/10m/30m/" "$1"', encoding="utf-8")
    async with opened.running() as pilot:
        await press(pilot, "e", "1")
        assert opened.app.session.estimate is not None
        await press(pilot, "ctrl+e")
        text = opened.screen_text()
        assert "3 epochs" in text
        assert "30m" in text
        session = opened.app.session
        assert session.goal.deadline_s == 1800
        assert session.estimate is None  # it was of another job


@pytest.mark.asyncio
async def test_a_goal_that_was_not_edited_stays_as_it_was_typed(
    opened: Stage, editor: Path
) -> None:
    editor.write_text('sed -i "s/epochs = 12/epochs = 3/" "$1"', encoding="utf-8")
    async with opened.running() as pilot:
        await type_into(opened, pilot, "deadline", "20m")
        await press(pilot, "ctrl+e")
        assert "3 epochs" in opened.screen_text()
        assert opened.app.session.goal.deadline_s == 1200


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('sed -i "s/epochs = 12/epoch = 3/" "$1"', "epochs"),
        ("exit 3", "ended with exit code 3"),
    ],
)
async def test_a_job_that_was_spoilt_in_the_editor_is_told_and_not_taken(
    opened: Stage, editor: Path, script: str, said: str
) -> None:
    editor.write_text(script, encoding="utf-8")
    async with opened.running() as pilot:
        was = opened.app.session.job
        await press(pilot, "ctrl+e")
        assert said in opened.screen_text()
        assert "error" in opened.screen_text()
        assert opened.app.session.job is was


@pytest.mark.asyncio
async def test_an_editor_that_is_not_there_is_told(
    opened: Stage, editor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITOR", "no-such-editor")
    async with opened.running() as pilot:
        await press(pilot, "ctrl+e")
        assert '"no-such-editor" cannot be started' in opened.screen_text()


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["ctrl+s", "ctrl+e"])
async def test_without_a_job_file_there_is_nothing_to_save_or_edit(key: str) -> None:
    stage = Stage(FakeServices(), job=None)
    async with stage.running() as pilot:
        await press(pilot, key)
        assert "No job file is open" in stage.screen_text()


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["ctrl+s", "ctrl+e"])
async def test_read_only_neither_saves_nor_edits(opened: Stage, path: Path, key: str) -> None:
    opened.app.session.read_only = True
    async with opened.running() as pilot:
        await press(pilot, key)
        assert "read-only" in opened.screen_text()
    assert path.read_text(encoding="utf-8") == TEXT


@pytest.mark.asyncio
async def test_a_goal_taken_over_from_what_if_stands_in_the_form() -> None:
    stage = Stage()
    async with stage.running() as pilot:
        was = stage.app.screen.query_one("#deadline").value  # type: ignore[attr-defined]
        await press(pilot, "e", "3", "x", "shift+left", "enter", "1")
        now = stage.app.screen.query_one("#deadline").value  # type: ignore[attr-defined]
        assert now != was
        stage.app.clear_notifications()
        await settle(pilot)
        assert now in stage.screen_text()
