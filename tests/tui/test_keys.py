"""One registry of actions: footer, help, palette and keymap agree with it."""

from __future__ import annotations

import pytest
from support.tui import Stage, press, to_run

from planner.tui.actions import ACTIONS, TABS, actions_of, show_key
from planner.tui.app import PlannerApp, _screen
from planner.tui.keymap import read_keymap
from planner.tui.widgets.table import LetterTable


def test_every_action_is_carried_out_by_somebody() -> None:
    screens = [_screen(tab) for tab in TABS]
    for action in ACTIONS.values():
        method = f"do_{action.verb}"
        if hasattr(LetterTable, method):
            continue
        owners = [s for s in screens if action.scope in ("app", "list", getattr(s, "TAB", ""))]
        assert hasattr(PlannerApp, method) or any(hasattr(s, method) for s in owners), action.name


def test_no_key_does_two_things_on_one_screen() -> None:
    assert read_keymap({"app.quit": "q"}).problems == ()


def test_keys_are_shown_as_a_person_reads_them() -> None:
    assert [show_key(k) for k in ("question_mark", "plus", "ctrl+p", "L", "escape")] == [
        "?",
        "+",
        "ctrl+p",
        "L",
        "esc",
    ]


def test_a_keymap_names_what_is_wrong_in_it_and_keeps_the_rest() -> None:
    keymap = read_keymap({"options.lunch": "l", "options.launch": "ctrl+l", "app.help": " "})
    assert keymap.changed == {"options.launch": "ctrl+l"}
    assert keymap.problems == (
        'keymap: there is no action "options.lunch", nearest "options.launch"',
        'keymap: "app.help" is given no key',
    )


def test_a_keymap_that_gives_one_key_to_two_actions_is_told() -> None:
    (problem,) = read_keymap({"runs.stop": "p"}).problems
    assert problem == 'keymap: "p" is both runs.pause and runs.stop'


@pytest.mark.asyncio
async def test_the_users_keys_work_and_stand_in_footer_and_help() -> None:
    stage = Stage()
    stage.make(keymap={"job.probe": "ctrl+r", "job.checks": "f5", "nothing": "x"})
    async with stage.running() as pilot:
        text = stage.screen_text()
        assert "ctrl+r Probe" in text
        assert 'there is no action "nothing"' in text
        await press(pilot, "question_mark")
        assert "f5        Check again" in stage.screen_text()
        await press(pilot, "question_mark", "enter")
        assert stage.tab == "job"
        await press(pilot, "ctrl+r")
        assert stage.tab == "probes"


@pytest.mark.asyncio
@pytest.mark.parametrize("tab", TABS)
async def test_help_names_every_action_of_its_screen(stage: Stage, tab: str) -> None:
    async with stage.running() as pilot:
        await press(pilot, str(TABS.index(tab) + 1), "question_mark")
        text = stage.screen_text()
        for action in actions_of(tab):
            assert action.text in text
        assert "Go to a tab" in text
        await press(pilot, "question_mark")
        assert "Go to a tab" not in stage.screen_text()


@pytest.mark.asyncio
async def test_the_palette_finds_themes_actions_and_runs(stage: Stage) -> None:
    async with stage.running() as pilot:
        await press(pilot, "6", "colon")
        await pilot.press(*"planner-light")
        await pilot.pause(0.4)
        await press(pilot, "enter")
        assert stage.app.theme == "planner-light"
        await press(pilot, "ctrl+p")
        await pilot.press(*"r-7f3k")
        await pilot.pause(0.4)
        await press(pilot, "enter")
        assert stage.tab == "runs"
        assert "r-7f3k" in stage.screen_text()


@pytest.mark.asyncio
async def test_jump_mode_puts_the_focus_where_its_letter_is(stage: Stage) -> None:
    async with stage.running() as pilot:
        await press(pilot, "ctrl+o", "b")
        assert stage.app.screen.focused is not None
        assert stage.app.screen.focused.id == "deadline"
        await press(pilot, "escape", "ctrl+o", "escape")
        assert stage.app.screen.focused is not None
        assert stage.app.screen.focused.id == "form"


@pytest.mark.asyncio
async def test_an_unknown_theme_is_told_and_the_own_one_used() -> None:
    stage = Stage()
    stage.make(theme="neon")
    async with stage.running():
        assert 'There is no theme "neon"' in stage.screen_text()
        assert stage.app.theme == "planner-dark"


@pytest.mark.asyncio
async def test_j_and_k_move_in_lists_and_k_writes_a_checkpoint_on_runs(stage: Stage) -> None:
    async with stage.running() as pilot:
        await press(pilot, "6", "j")
        table = stage.app.screen.query_one(LetterTable)
        assert table.cursor_key == table.keys[1]
        await press(pilot, "k")
        assert table.cursor_key == table.keys[0]
        await press(pilot, "1")
        await to_run(pilot)
        stage.clock.sleep(16)
        before = stage.services.view("r-demo1").last_checkpoint_at
        await press(pilot, "r", "k")
        assert stage.services.view("r-demo1").last_checkpoint_at > before
