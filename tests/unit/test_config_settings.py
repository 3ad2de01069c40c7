"""Settings: which source goes first, where each value is from, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from planner.config.locations import config_file, state_dir
from planner.config.settings import Settings, load_settings, settings_schema
from planner.config.settingsmodel import UiTable
from planner.core.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def sources(settings: Settings) -> dict[str, str]:
    return {name: source for name, _, source in settings.rows()}


def test_without_any_file_everything_is_the_default(tmp_path: Path) -> None:
    settings = load_settings(folder=tmp_path, environ={})
    assert settings.ui.theme == "planner-dark"
    assert settings.ui.confirm_above_usd == 10
    assert not settings.ui.read_only
    assert settings.keymap == {}
    assert set(sources(settings).values()) == {"default"}


def test_each_source_goes_before_the_next_and_says_where_it_is_from(tmp_path: Path) -> None:
    user = write(
        tmp_path / "user.toml",
        '[ui]\ntheme = "nord"\nascii = true\nread_only = true\nconfirm_above_usd = "$5"\n'
        '[keymap]\nlaunch = "L"\nquit = "x"\n',
    )
    project = write(
        tmp_path / "planner.toml",
        "[settings.ui]\nascii = false\nread_only = false\nconfirm_above_usd = 20\n"
        '[settings.keymap]\nlaunch = "f5"\n',
    )
    settings = load_settings(
        user,
        {"ui.confirm_above_usd": 40.0, "ui.theme": None},
        folder=tmp_path,
        environ={"PLANNER_UI_READ_ONLY": "yes"},
    )
    assert settings.rows() == (
        ("ui.theme", "nord", f"{user}:2"),
        ("ui.ascii", False, f"{project}:2"),
        ("ui.confirm_above_usd", 40.0, "flag"),
        ("ui.read_only", True, "environment PLANNER_UI_READ_ONLY"),
        ("keymap.launch", "f5", f"{project}:6"),
        ("keymap.quit", "x", f"{user}:8"),
    )


def test_the_usual_file_need_not_exist_but_a_named_one_must(tmp_path: Path) -> None:
    assert not config_file().exists()
    with pytest.raises(ConfigError, match="no settings file"):
        load_settings(tmp_path / "none.toml", folder=tmp_path, environ={})


def test_the_usual_file_is_read(tmp_path: Path) -> None:
    write(config_file(), '[ui]\ntheme = "gruvbox"\n')
    assert load_settings(folder=tmp_path, environ={}).ui.theme == "gruvbox"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[ui]\nthem = "x"\n', ':2: unknown key "them" in [ui]; did you mean "theme"?'),
        ("[iu]\n", ':1: unknown table "iu"'),
        ("[ui]\nascii = 1\n", ":2: [ui] ascii: 1 is not true or false"),
        ("[ui]\nconfirm_above_usd = -1\n", ':2: [ui] confirm_above_usd: "-1" is a negative amount'),
        ("[keymap]\nlaunch = 5\n", ":2: [keymap] launch: 5 is not a text in quotes"),
        ("[ui\n", ":1:"),
    ],
)
def test_a_mistake_names_file_line_and_key(tmp_path: Path, text: str, sentence: str) -> None:
    user = write(tmp_path / "user.toml", text)
    with pytest.raises(ConfigError) as caught:
        load_settings(user, folder=tmp_path, environ={})
    assert caught.value.text.startswith(f"{user}{sentence}")


def test_a_mistake_in_the_projects_settings_has_its_own_line(tmp_path: Path) -> None:
    project = write(tmp_path / "planner.toml", '[job]\nname = "x"\n\n[settings.ui]\nthem = "x"\n')
    with pytest.raises(ConfigError) as caught:
        load_settings(folder=tmp_path, environ={})
    assert caught.value.text.startswith(f'{project}:5: unknown key "them" in [settings] ui')


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("PLANNER_UI_THEM", "x", "did you mean PLANNER_UI_THEME?"),
        ("PLANNER_UI_ASCII", "perhaps", "is not true or false"),
        ("PLANNER_UI_CONFIRM_ABOVE_USD", "-1", "negative"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    tmp_path: Path, variable: str, value: str, part: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(folder=tmp_path, environ={variable: value})
    assert variable in caught.value.text
    assert part in caught.value.text


def test_a_workers_variables_are_no_settings(tmp_path: Path) -> None:
    load_settings(folder=tmp_path, environ={"PLANNER_RUN_ID": "r-1", "PLANNER_EVENTS": "x"})


def test_every_setting_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    for name in UiTable.model_fields:
        assert f"| `[ui] {name}` | `PLANNER_UI_{name.upper()}` |" in text


def test_the_schema_is_valid_and_refuses_a_typo() -> None:
    schema = settings_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert not list(validator.iter_errors({"ui": {"theme": "nord"}, "keymap": {"quit": "x"}}))
    assert list(validator.iter_errors({"ui": {"them": "nord"}}))


def test_the_state_directory_is_the_flag_then_the_variable_then_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_dir() == tmp_path / "xdg" / "train-planner"
    monkeypatch.setenv("PLANNER_STATE_DIR", "from-variable")
    assert state_dir() == tmp_path / "from-variable"
    assert state_dir(Path("from-flag")) == tmp_path / "from-flag"
    assert not any(tmp_path.iterdir())


def test_the_settings_file_can_be_named_by_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANNER_CONFIG", str(tmp_path / "mine.toml"))
    assert config_file() == tmp_path / "mine.toml"
