"""The command line as a process: signals, pipes, terminals, what it imports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.terminal import Terminal

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
HEAVY = {
    "boto3",
    "numpy",
    "pandas",
    "pydantic",
    "rich",
    "scipy",
    "sklearn",
    "submitit",
    "textual",
    "torch",
    "xgboost",
}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{TESTS}"}


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def driver(tmp_path: Path, calls: Path) -> Callable[..., list[str]]:
    (tmp_path / "job.toml").write_text('[job]\nname = "digits"\ncommand = "python train.py"\n')
    (tmp_path / "train.py").write_text("print('hello')\n")

    def command(scenario: str, *arguments: str) -> list[str]:
        own = ("--state-dir", str(tmp_path / "state"), *arguments)
        return [sys.executable, "-m", "support.cli_driver", scenario, str(calls), *own]

    return command


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"never saw: {what}"
        time.sleep(0.02)


def asked(calls: Path, name: str) -> int:
    return calls.read_text().splitlines().count(name) if calls.exists() else 0


# ---- what starting costs -------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("estimate", "--help")])
def test_help_and_version_import_nothing_heavy(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('\\n'.join(sys.modules), file=sys.stderr))\n"
        f"sys.argv = ['planner', *{arguments!r}]\n"
        "from planner.cli.main import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    loaded = {name.partition(".")[0] for name in ended.stderr.split()}
    assert "typer" in loaded, "this test sees what is imported"
    # Typer itself reads pydantic's type adapters to build the options of a command.
    allowed = {"pydantic"} if arguments[0] == "estimate" else set()
    assert loaded & HEAVY <= allowed
    assert ended.stdout.strip()


def test_run_from_the_module_and_from_the_entry_point_agree() -> None:
    module = subprocess.run(
        [sys.executable, "-m", "planner", "version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"planner \d+\.\d+\.\d+\n", module.stdout)


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("planner est", "estimate"),
        ("planner status r-", "r-7f3k"),
        ("planner no-such-command r-", ""),
    ],
)
def test_completion_knows_commands_and_runs(
    driver: Callable[..., list[str]], calls: Path, line: str, completed: str
) -> None:
    asked_for = {"_PLANNER_COMPLETE": "complete_bash", "COMP_WORDS": line}
    ended = subprocess.run(
        driver("done"),
        capture_output=True,
        text=True,
        env={**environment(), **asked_for, "COMP_CWORD": str(len(line.split()) - 1)},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == completed


# ---- pipes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "arguments"),
    [
        ("flood", ("status", "--json")),
        ("flood", ("status",)),
        ("endless", ("run", "job.toml", "--yes", "--ndjson")),
    ],
)
def test_a_reader_that_goes_away_ends_it_quietly(
    driver: Callable[..., list[str]],
    tmp_path: Path,
    scenario: str,
    arguments: tuple[str, ...],
) -> None:
    process = subprocess.Popen(
        driver(scenario, "-q", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=environment(),
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    if scenario == "endless":
        process.send_signal(signal.SIGTERM)  # it writes again only when something happens
    stderr = process.stderr.read()
    process.wait(timeout=60)
    assert process.returncode in (128 + signal.SIGPIPE, 143)
    assert b"Traceback" not in stderr
    assert b"BrokenPipe" not in stderr


# ---- defects -------------------------------------------------------------------------------------


def test_a_defect_of_ours_leaves_a_report_without_values(
    driver: Callable[..., list[str]], tmp_path: Path
) -> None:
    ended = subprocess.run(
        driver("crash", "status", "--json"),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["code"] == "internal"
    assert "Traceback" not in ended.stderr
    (report,) = (tmp_path / "state" / "crashes").iterdir()
    assert str(report) in ended.stderr
    text = report.read_text()
    assert "ValueError: a defect" in text
    assert "services.runs" in text
    assert "hunter2" not in text


def test_a_defect_is_reported_where_the_state_directory_cannot_be_written(
    driver: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file, not a folder")
    (tmp_path / "temporary").mkdir()
    ended = subprocess.run(
        driver("crash", "status"),
        capture_output=True,
        text=True,
        env={**environment(), "TMPDIR": str(tmp_path / "temporary")},
        check=False,
    )
    assert ended.returncode == 1
    (report,) = (tmp_path / "temporary").glob("crash-*.txt")
    assert str(report) in ended.stderr


# ---- signals without a terminal ------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_without_a_terminal_a_signal_stops_the_run_with_a_checkpoint(
    driver: Callable[..., list[str]],
    calls: Path,
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    process = subprocess.Popen(
        driver("endless", "run", "job.toml", "--yes", "--json"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=tmp_path,
    )
    wait_for(lambda: asked(calls, "view") > 1, "the run being watched")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert asked(calls, "pause") == 1
    assert asked(calls, "cancel") == 0
    assert json.loads(out)["state"] == "paused"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_probes_before_it_ends_the_estimate(
    driver: Callable[..., list[str]],
    calls: Path,
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    process = subprocess.Popen(
        driver("slow", "estimate", "job.toml", "--json"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=tmp_path,
    )
    wait_for(lambda: asked(calls, "estimating") > 0, "the estimate being made")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert asked(calls, "cancelled") == 1
    assert json.loads(out)["exit_code"] == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_attach_never_stops_the_run(
    driver: Callable[..., list[str]], calls: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        driver("endless", "attach", "@last"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    wait_for(lambda: asked(calls, "view") > 1, "the run being watched")
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (0 if number is signal.SIGINT else 143)
    assert asked(calls, "pause") + asked(calls, "cancel") == 0


# ---- a terminal ----------------------------------------------------------------------------------


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[[list[str]], Terminal]]:
    opened: list[Terminal] = []

    def start(command: list[str]) -> Terminal:
        opened.append(Terminal(command, tmp_path, environment()))
        return opened[-1]

    yield start
    for one in opened:
        os.close(one.master)


Start = Callable[[list[str]], Terminal]


def test_a_run_asks_and_takes_no_for_an_answer(
    driver: Callable[..., list[str]], calls: Path, terminal: Start
) -> None:
    screen = terminal(driver("endless", "run", "job.toml"))
    screen.see("launch, for at most")
    screen.type("n\n")
    assert screen.end() == 10
    assert asked(calls, "launch") == 0


def test_a_dear_run_wants_its_amount_typed(
    driver: Callable[..., list[str]], calls: Path, tmp_path: Path, terminal: Start
) -> None:
    (tmp_path / "planner.toml").write_text("[settings.ui]\nconfirm_above_usd = 0.001\n")
    refused = terminal(driver("endless", "run", "job.toml"))
    refused.see("type the amount")
    refused.type("y\n")
    assert refused.end() == 10
    assert asked(calls, "launch") == 0
    agreed = terminal(driver("endless", "run", "job.toml", "--budget", "0.01", "--option", "oj"))
    agreed.see("type the amount to launch: ")
    amount = re.search(r"this may cost \$([\d.]+)", agreed.shown)
    assert amount is not None
    agreed.type(f"{amount[1]}\n")
    agreed.see("50.0 %")
    agreed.type("d")
    assert agreed.end() == 0


@pytest.mark.parametrize(
    ("arguments", "amount", "name"),
    [
        (("extend", "r-7f3k", "--budget", "+1000"), "1000.99", "extend"),
        (("resume", "r-7f3k", "--detach"), "0.99", "resume"),
    ],
)
def test_whatever_lets_a_run_spend_much_wants_its_amount_typed(
    driver: Callable[..., list[str]],
    calls: Path,
    tmp_path: Path,
    terminal: Start,
    arguments: tuple[str, ...],
    amount: str,
    name: str,
) -> None:
    (tmp_path / "planner.toml").write_text("[settings.ui]\nconfirm_above_usd = 0.5\n")
    refused = terminal(driver("endless", *arguments))
    refused.see(f"this may cost ${amount}; type the amount to {name}: ")
    refused.type("y\n")
    assert refused.end() == 10
    assert asked(calls, name) == 0
    agreed = terminal(driver("endless", *arguments))
    agreed.see("type the amount")
    agreed.type(f"{amount}\n")
    assert agreed.end() == 0
    assert asked(calls, name) == 1


def test_resuming_says_what_may_still_be_spent(
    driver: Callable[..., list[str]], calls: Path, terminal: Start
) -> None:
    screen = terminal(driver("endless", "resume", "r-7f3k", "--detach"))
    screen.see("at most $0.99 more? [y/N] ")
    screen.type("y\n")
    assert screen.end() == 0
    assert asked(calls, "resume") == 1


def test_detach_with_a_key_leaves_the_run_alone(
    driver: Callable[..., list[str]], calls: Path, terminal: Start
) -> None:
    screen = terminal(driver("endless", "run", "job.toml", "--yes"))
    screen.see("50.0 %")
    screen.type("?")
    screen.see("stop and keep the checkpoint")
    screen.type("d")
    assert screen.end() == 0
    assert "planner attach r-7f3k" in screen.shown
    assert asked(calls, "pause") == 0


@pytest.mark.parametrize(
    ("answer", "code", "paused"), [("d\n", 0, 0), ("\n", 0, 0), ("s\n", 130, 1)]
)
def test_the_first_ctrl_c_asks(
    driver: Callable[..., list[str]],
    calls: Path,
    terminal: Start,
    answer: str,
    code: int,
    paused: int,
) -> None:
    screen = terminal(driver("endless", "run", "job.toml", "--yes"))
    screen.see("50.0 %")
    screen.type("\x03")
    screen.see("[d]etach")
    screen.type(answer)
    assert screen.end() == code
    assert asked(calls, "pause") == paused


def test_continue_goes_on_watching(
    driver: Callable[..., list[str]], calls: Path, terminal: Start
) -> None:
    screen = terminal(driver("endless", "run", "job.toml", "--yes"))
    screen.see("50.0 %")
    screen.type("\x03")
    screen.see("[d]etach")
    seen = asked(calls, "view")
    screen.type("c\n")
    wait_for(lambda: asked(calls, "view") > seen + 1, "watching going on")
    screen.type("d")
    assert screen.end() == 0


def test_a_second_ctrl_c_stops_with_a_checkpoint(
    driver: Callable[..., list[str]], calls: Path, terminal: Start
) -> None:
    screen = terminal(driver("endless", "run", "job.toml", "--yes"))
    screen.see("50.0 %")
    screen.type("\x03")
    screen.see("[d]etach")
    screen.type("\x03")
    assert screen.end() == 130
    assert asked(calls, "pause") == 1
    assert "planner resume r-7f3k" in screen.shown


def test_closing_the_terminal_leaves_the_run_alone(
    driver: Callable[..., list[str]], calls: Path, tmp_path: Path
) -> None:
    command = driver("endless", "run", "job.toml", "--yes")
    screen = Terminal(command, tmp_path, environment())
    screen.see("50.0 %")
    assert screen.close() == -signal.SIGHUP
    assert asked(calls, "pause") + asked(calls, "cancel") == 0
