"""Help of every command, and input that cannot be: what is wrong is named."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support.fake_services import RUN_ID, FakeServices
from support.planner_calls import Planner
from support.planning import candidate, estimate, three_candidates

from planner.core.job import Goal, JobSpec

GOLDEN = Path(__file__).parent.parent / "golden"
COMMANDS_WITH_HELP = (
    *("estimate", "run", "status", "attach", "logs", "pause", "resume", "cancel", "extend"),
    *("adjust", "compare", "doctor", "clean", "init", "config"),
)


def _golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"{name} changed: UPDATE_GOLDEN=1 writes it again"


def test_golden_help(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _golden("help.txt", planner("--help").out)
    _golden("help-estimate.txt", planner("estimate", "--help").out)
    _golden("help-run.txt", planner("run", "--help").out)


def test_golden_estimate_table(planner: Planner, services: FakeServices) -> None:
    services.result = estimate(
        candidates=[*three_candidates(), candidate(950, 0.06, workers=1, micro_batch=32)]
    )
    result = planner("estimate", "job.toml", "--deadline", "1h", "--budget", "5", "--all")
    _golden("estimate-table.txt", re.sub(r"\(\d\d:\d\d UTC\)", "(HH:MM UTC)", result.out))


@pytest.mark.parametrize("name", COMMANDS_WITH_HELP)
def test_every_command_explains_itself(planner: Planner, name: str) -> None:
    result = planner(name, "--help")
    assert result.code == 0
    assert result.out.startswith(f"Usage: planner {name}")


def test_the_line_in_the_root_help_is_the_commands_own(planner: Planner) -> None:
    from planner.cli.lazy import COMMANDS

    for name, (_, line) in COMMANDS.items():
        shown = " ".join(planner(name, "--help").out.split())
        assert line.rstrip(".") in shown, name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("estmate",), "did you mean planner estimate?"),
        (("run", "--controler", "x"), "--controler"),
        (("estimate", "job.toml", "--confidence", "2"), "less than or equal to 0.99"),
        (("estimate", "job.toml", "--prefer", "luck"), "cost, time or risk"),
        (("estimate", "job.toml", "--deadline", "30"), "30 what?"),
        (("estimate", "job.toml", "--deadline", "-5m"), "negative"),
        (("estimate", "job.toml", "--deadline", "2001-01-01T00:00Z"), "past"),
        (("estimate", "job.toml", "--budget", "0"), "no money"),
        (("estimate", "job.toml", "--budget", "-3"), "negative"),
        (("estimate", "job.toml", "--fail-on", "rain"), "uncalibrated"),
        (("estimate", "job.toml", "--where", "slurm"), 'no place "slurm"'),
        (("estimate", "job.toml", "--no-probe", "--fresh"), "not both"),
        (("estimate", "nowhere.toml"), "nowhere.toml"),
        (("estimate",), "planner init --"),
        (("estimate", "job.toml", "--", "python", "train.py"), "not both"),
        (("status", "--", "python"), "init, estimate and run only"),
        (("status", "--since", "3"), "needs a run"),
        (("status", "r-zzzz"), "r-zzzz"),
        (("logs", RUN_ID, "--grep", "("), "regular expression"),
        (("logs", RUN_ID, "--source", "moon"), "train or planner"),
        (("extend", RUN_ID), "nothing to extend"),
        (
            ("extend", RUN_ID, "--budget", "2", "--yes"),
            "say --budget +2 to add 2 USD; for",
        ),
        (("extend", RUN_ID, "--deadline", "20m"), "20m can mean 20m more, or 20m in all"),
        (("extend", RUN_ID, "--deadline", "+30"), "30 what?"),
        (("compare", "r-a"), "one thing"),
        (("compare", "a", "b", "--fail-if-cost-increase", "ten"), "not a percentage"),
        (("schema", "moon"), "estimate"),
        (("run", "job.toml", "--controller", "wild"), "guarded"),
        (("run", "job.toml", "--yes", "--max-price", "abc"), "abc"),
        (("run", "job.toml", "--yes", "--name", "../x"), "--name may hold letters"),
        (("run", "job.toml", "--yes", "--name", ""), "--name may hold letters"),
        (("run", "job.toml", "--plan", "plan.json"), "its own job"),
        (("run", "--plan", "job.toml", "--yes"), "not JSON"),
        (("run", "--plan", "nowhere.json", "--yes"), "cannot be read"),
        (("--demo", "status"), "terminal app"),
        ((), "needs a terminal"),
        (("job.toml",), "needs a terminal"),
        (("job.toml", "--deadlin", "6h"), "planner JOB.toml --help"),
        (("--deadline", "6h"), "planner JOB.toml --deadline ..."),
        (("init",), "no command"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_named_and_ends_with_2(
    planner: Planner, services: FakeServices, arguments: tuple[str, ...], says: str
) -> None:
    result = planner(*arguments)
    assert result.code == 2, result.err
    assert says in result.err
    assert result.out == ""
    assert not services.asked("estimate"), "nothing was probed"
    assert not services.asked("launch")


def test_the_app_opens_with_the_goal_that_was_typed(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[JobSpec, Goal]] = []
    monkeypatch.setattr(
        "planner.tui.app.run_app", lambda _, *, job, goal, **__: opened.append((job, goal))
    )
    monkeypatch.setattr("planner.cli.commands.app.has_terminal", lambda: True)
    assert planner("job.toml", "--deadline", "10m", "--prefer", "time").code == 0
    assert planner("job.toml").code == 0
    assert planner("job.toml", "--budget", "none").code == 2
    assert [(goal.deadline_s, goal.prefer) for _, goal in opened] == [
        (600.0, "time"),
        (None, "cost"),
    ]
    assert all(job.goal == Goal() for job, _ in opened), "the job is as its file says"
