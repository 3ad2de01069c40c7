"""The commands around runs: doctor, clean, schema, config, init."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
from support.fake_services import FakeServices
from support.planner_calls import Planner

from planner.services.api import Check
from runners.base import Leftover


def test_doctor_fails_with_4_and_shows_the_fix(planner: Planner, services: FakeServices) -> None:
    services.checks += (Check(id="state", state="fail", text="read-only", fix="mount -o rw"),)
    result = planner("doctor", "--only", "state,gpu")
    assert result.code == 4
    assert "fix: mount -o rw" in result.out
    assert services.asked("doctor") == [("state", "gpu")]
    assert planner("doctor", "--json").document["ok"] is False


def test_clean_that_finds_nothing_names_what_is_kept(
    planner: Planner, services: FakeServices
) -> None:
    services.left = ()
    said = planner("clean")
    assert said.out.strip() == "nothing left behind"
    assert "--older-than 30d" in said.err
    assert "--older-than" not in planner("clean", "--older-than", "1d").err


def test_clean_removes_only_with_yes(planner: Planner, services: FakeServices) -> None:
    left = Leftover(kind="run folder", id="r-old", run_id="r-old", text="40 MB")
    services.left = (left,)
    assert "nothing was removed" in planner("clean", "--older-than", "30d").err
    assert not services.asked("clean")
    assert services.asked("leftovers") == [(False, 30 * 86400.0)]
    assert planner("clean", "--leaked", "--yes", "--json").document["removed"] is True
    assert services.asked("clean") == [(left,)]


@pytest.mark.parametrize("name", ["estimate", "run", "event", "error", "job", "config"])
def test_schema_prints_a_valid_schema(planner: Planner, name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(planner("schema", name).document)


def test_schema_without_a_name_lists_them(planner: Planner) -> None:
    listed = planner("schema").out.split()
    assert {"estimate", "run", "job", "config"} <= set(listed)
    for name in listed:
        assert planner("schema", name).code == 0


def test_config_without_a_command_lists_them(planner: Planner) -> None:
    result = planner("config")
    assert result.code == 0
    assert result.err == ""
    assert all(name in result.out for name in ("path", "show", "validate"))


def test_init_writes_a_job_file_that_estimate_takes(planner: Planner, tmp_path: Path) -> None:
    assert planner("init", "--", "python", "train.py", "--epochs", "3").out == "planner.toml\n"
    assert planner("config", "validate", "planner.toml").out.endswith("planner.toml: ok\n")
    again = planner("init", "--", "python", "train.py")
    assert again.code == 2
    assert "--force" in again.err
    assert "[job]" in planner("init", "-o", "-", "--", "python", "train.py").out


def test_config_shows_where_values_come_from(planner: Planner, tmp_path: Path) -> None:
    shown = planner("config", "show", "--json").document["settings"]
    assert {s["name"]: s["source"] for s in shown}["ui.theme"] == "default"
    assert str(tmp_path / "state") in planner("config", "path").out
