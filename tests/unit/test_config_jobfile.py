"""What a job file may say, what it means, and how every mistake in it is told."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.config.command import PLACEHOLDERS
from planner.config.jobfile import default_places, job_schema, load_job
from planner.config.jobmodel import (
    KNOBS,
    GoalTable,
    JobTable,
    LocalPlace,
    ModelTable,
    ParallelTable,
    ProbeTable,
    RunTable,
)
from planner.config.tomlfile import key_lines
from planner.core.errors import ConfigError, ExitCode
from planner.core.job import AdjustPolicy, Goal, JobSpec, LanguageModel, ProbeSettings

NOW = datetime(2026, 11, 21, 11, 40, tzinfo=UTC)

SMALL = """
[job]
name = "digits"
command = "python train.py"
"""

FULL = """\
# a comment
[job]
name = "resnet50"
command = "python train.py --data {data} --epochs 90 --batch-size {micro_batch}"
data = "/data/imagefolder"
samples = 640000
epochs = 90
global_batch = 256
micro_batches = [64, 32, 64]
workers = [1, 2, 4]
loader_workers = 4
precision = "bf16"
checkpoint = "/scratch/ck/{run_id}"
env = ["HF_TOKEN", "WANDB_MODE"]
seed = 3

[probe]
slice = 0.01            # fraction of the data, stratified by class
steps = 120
warmup = 20
max_cost = "$1.50"
max_time = "10m"
hang_timeout = "90s"

[goal]
deadline = "6h"
budget = 40
confidence = 0.95
prefer = "time"

[run]
hang_timeout = "5m"
retries = 4
checkpoint_interval = "2m"

[adjust]
allow = ["loader_workers", "micro_batch", "market"]
ask = ["instance_type"]
never = ["global_batch"]

[[where]]
runner = "local"
slots = 2
usd_per_slot_h = 0.05
[[where]]
runner = "slurm"
partition = "gpu"
usd_per_gpu_h = 0.0
[[where]]
runner = "ec2"
regions = ["us-east-1", "us-west-2"]
markets = ["spot", "on_demand"]
max_price = "1.3x"
"""


def load(folder: Path, text: str) -> JobSpec:
    path = folder / "job.toml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return load_job(path, NOW)


@dataclass(frozen=True)
class Refusal:
    text: str
    hint: str
    folder: Path

    @property
    def lines(self) -> list[str]:
        return self.text.replace(f"{self.folder}/", "").splitlines()


def refused(folder: Path, text: str) -> Refusal:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    assert caught.value.exit_code is ExitCode.USAGE
    return Refusal(caught.value.text, caught.value.hint or "", folder)


def job_table(**entries: str) -> str:
    rows = {"name": '"digits"', "command": '"python train.py"'} | entries
    return "[job]\n" + "".join(f"{key} = {value}\n" for key, value in rows.items())


# ---- what it means


def test_a_full_job_file_becomes_a_job(tmp_path: Path) -> None:
    job = load(tmp_path, FULL)
    assert job.name == "resnet50"
    assert job.command == (
        "python", "train.py", "--data", "{data}", "--epochs", "90", "--batch-size", "{micro_batch}",
    )  # fmt: skip
    assert job.workdir == str(tmp_path)
    assert job.data == "/data/imagefolder"
    assert (job.samples, job.epochs, job.global_batch, job.seed) == (640_000, 90, 256, 3)
    assert job.micro_batches == (32, 64)
    assert job.worker_counts == (1, 2, 4)
    assert (job.loader_workers, job.precision) == (4, "bf16")
    assert job.checkpoint_dir == "/scratch/ck/{run_id}"
    assert job.env == ("HF_TOKEN", "WANDB_MODE")
    assert (job.hang_timeout_s, job.retries, job.checkpoint_interval_s) == (300, 4, 120)
    assert job.probe == ProbeSettings(
        slice_fraction=0.01, steps=120, warmup_steps=20, max_cost_usd=1.5, max_time_s=600,
        hang_timeout_s=90,
    )  # fmt: skip
    assert job.goal == Goal(
        deadline_at=NOW + timedelta(hours=6), deadline_s=21600, budget_usd=40, confidence=0.95,
        prefer="time",
    )  # fmt: skip
    assert job.adjust.ask == ("instance_type",)
    assert job.source == str(tmp_path / "job.toml")


def test_each_place_carries_its_runner_and_the_settings_that_were_written(tmp_path: Path) -> None:
    local, slurm, ec2 = load(tmp_path, FULL).places
    assert (local.runner, local.settings) == ("local", {"slots": 2, "usd_per_slot_h": 0.05})
    assert (slurm.runner, slurm.pool) == ("slurm", "gpu")
    assert slurm.settings == {"partition": "gpu", "usd_per_gpu_h": 0.0}
    assert ec2.settings["regions"] == ("us-east-1", "us-west-2")
    assert ec2.settings["max_price"] == "1.3x"


def test_a_small_job_file_runs_on_this_machine_with_the_defaults(tmp_path: Path) -> None:
    job = load(tmp_path, SMALL)
    assert job.places == default_places()
    assert job.places[0].runner == "local"
    assert (job.probe, job.goal, job.adjust) == (ProbeSettings(), Goal(), AdjustPolicy())
    assert (job.data, job.global_batch, job.checkpoint_dir, job.env) == (None, None, None, ())


def test_the_command_may_be_a_list(tmp_path: Path) -> None:
    job = load(tmp_path, job_table(command='["python", "my script.py", "a|b"]'))
    assert job.command == ("python", "my script.py", "a|b")


def test_one_worker_count_needs_no_list(tmp_path: Path) -> None:
    assert load(tmp_path, job_table(workers="2")).worker_counts == (2,)


@pytest.mark.parametrize(
    ("deadline", "hours"),
    [('"6h"', 6), ('"2026-11-21T12:40Z"', 1), ("2026-11-21T12:40:00Z", 1),
     ("2026-11-21T14:40:00+01:00", 2)],
)  # fmt: skip
def test_a_deadline_may_be_written_in_many_ways(
    tmp_path: Path, deadline: str, hours: float
) -> None:
    goal = load(tmp_path, f"{SMALL}\n[goal]\ndeadline = {deadline}\n").goal
    assert goal.deadline_s == hours * 3600
    assert goal.deadline_at == NOW + timedelta(hours=hours)


def test_a_knob_that_is_named_leaves_its_default_list(tmp_path: Path) -> None:
    job = load(tmp_path, SMALL + '[adjust]\nask = ["global_batch", "workers"]\n')
    assert job.adjust.ask == ("global_batch", "workers")
    assert job.adjust.never == ()
    assert "workers" not in job.adjust.allow
    assert "micro_batch" in job.adjust.allow


def test_a_job_file_may_carry_settings_too(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL + '[settings.ui]\ntheme = "nord"\n').name == "digits"


@pytest.mark.parametrize(
    ("script", "tier"),
    [
        ("import planner.sdk as planner\n", 1),
        ("from planner import sdk\n", 1),
        ("def main():\n    from planner.sdk import attach\n", 1),
        ("import torch\n", 0),
        ("# import planner.sdk\n", 0),
        ("import planner_sdk\n", 0),
        ("import planner.sdk as\n", 0),
    ],
)
def test_the_tier_comes_from_the_script_that_the_command_names(
    tmp_path: Path, script: str, tier: int
) -> None:
    (tmp_path / "train.py").write_text(script)
    assert load(tmp_path, SMALL).tier == tier


def test_the_tier_of_a_module_is_found_too(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "train.py").write_text("import planner.sdk\n")
    assert load(tmp_path, job_table(command='"python -m pkg.train"')).tier == 1


# ---- paths and names


def test_relative_paths_start_at_the_job_files_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir(tmp_path)
    path = Path("jobs/job.toml")
    path.write_text(job_table(data='"data/train"', checkpoint='"ck/{run_id}"'))
    job = load_job(path, NOW)
    assert job.workdir == str(tmp_path / "jobs")
    assert job.data == str(tmp_path / "jobs" / "data" / "train")
    assert job.checkpoint_dir == str(tmp_path / "jobs" / "ck" / "{run_id}")


@pytest.mark.parametrize("key", ["data", "checkpoint"])
@pytest.mark.parametrize("path", ["../x/{run_id}", "a/../../x/{run_id}", ".."])
def test_a_relative_path_cannot_leave_the_job_files_folder(
    tmp_path: Path, key: str, path: str
) -> None:
    found = refused(tmp_path, job_table(**{key: f'"{path}"'}))
    assert found.lines[0].startswith(f"job.toml:4: [job] {key}: ")


def test_a_checkpoint_folder_cannot_leave_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "ck").symlink_to(tmp_path)
    found = refused(tmp_path / "inside", job_table(checkpoint='"ck/{run_id}"'))
    assert "symbolic link" in found.text


@pytest.mark.parametrize(
    ("checkpoint", "part"),
    [
        ("/scratch/ck", "holds no {run_id}"),
        ("ck/{run_id}/{epoch}", "unknown placeholder {epoch}"),
        ("ck/{runid}", "did you mean {run_id}?"),
        ("/scratch/{run_id}/../../etc", "holds .."),
        ("", "is empty"),
        ("ck\\u0000/{run_id}", "NUL"),
    ],
)
def test_a_checkpoint_folder_that_is_not_one_is_refused(
    tmp_path: Path, checkpoint: str, part: str
) -> None:
    found = refused(tmp_path, job_table(checkpoint=f'"{checkpoint}"'))
    assert part in f"{found.text} {found.hint}"


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/b", "", "-x", "a b", "ä", "x" * 65, "a\\u0000", "a.b", "$(x)"]
)
def test_a_name_is_letters_digits_and_two_signs(tmp_path: Path, name: str) -> None:
    found = refused(tmp_path, job_table(name=f'"{name}"'))
    assert found.lines[0].startswith("job.toml:2: [job] name: ")


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True))
def test_every_allowed_name_is_one_plain_file_name(name: str) -> None:
    from planner.config.paths import check_name

    assert check_name(name) == name
    assert Path(name).name == name


@given(st.text(max_size=80))
def test_a_suggested_name_is_allowed(text: str) -> None:
    from planner.config.paths import check_name, safe_name

    suggested = safe_name(text)
    assert suggested == "" or check_name(suggested) == suggested


# ---- mistakes


def test_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(SMALL)
    with pytest.raises(ConfigError) as caught:
        load_job(tmp_path / "jbo.toml", NOW)
    assert caught.value.text == f"no job file {tmp_path / 'jbo.toml'}"
    assert caught.value.hint == f"did you mean {tmp_path / 'job.toml'}?"


def test_a_file_that_only_ends_alike_is_not_meant(tmp_path: Path) -> None:
    (tmp_path / "p1.toml").write_text(SMALL)
    with pytest.raises(ConfigError) as caught:
        load_job(tmp_path / "nope.toml", NOW)
    assert caught.value.hint == "planner init -- COMMAND writes one"


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_job(tmp_path / "nowhere" / "job.toml", NOW)
    assert caught.value.hint == f"there is no folder {tmp_path / 'nowhere'}"


def test_a_folder_is_no_job_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load_job(tmp_path, NOW)


def test_a_huge_file_is_no_job_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.toml"
    path.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="too large"):
        load_job(path, NOW)


def test_an_endless_file_is_no_job_file() -> None:
    with pytest.raises(ConfigError, match="too large"):
        load_job(Path("/dev/zero"), NOW)


def test_a_path_with_a_nul_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a path"):
        load_job(tmp_path / "a\0b", NOW)


def test_a_file_that_is_not_utf_8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(b'[job]\nname = "caf\xe9"\n')
    with pytest.raises(ConfigError) as caught:
        load_job(path, NOW)
    assert caught.value.text == f"{path}:2: not UTF-8 text (byte 0xe9)"


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert load_job(path, NOW).name == "digits"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[job]\nname = = "x"\n', ":2:8: "),
        ('[job]\nname = "x"\nname = "y"\n', ":3:"),
        ('[job]\nname = "x', ":2:"),
        ("[job\n", ":1:"),
        ('[job]\nname = [1,\n2', ":3:"),
    ],
)  # fmt: skip
def test_broken_toml_names_line_and_column(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_job(path, NOW)
    assert caught.value.text.startswith(f"{path}{place}")
    assert "not valid TOML" in caught.value.text


def test_a_file_without_a_job_says_so(tmp_path: Path) -> None:
    assert "there is no [job] table" in refused(tmp_path, "").text
    assert "did you mean [job] by [jobs]?" in refused(tmp_path, "[jobs]\n").text


def test_what_must_be_there_is_named(tmp_path: Path) -> None:
    found = refused(tmp_path, "\n[job]\n")
    assert found.lines == [
        "job.toml:2: [job] name is missing",
        "job.toml:2: [job] command is missing",
    ]


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("budget", "bugdet", 'job.toml:27: unknown key "bugdet" in [goal]; did you mean "budget"?'),
        ("[goal]", "[gaol]", 'job.toml:25: unknown table "gaol"; did you mean "goal"?'),
        ("regions", "regoins",
         'job.toml:51: unknown key "regoins" in [[where]] 3; did you mean "regions"?'),
        ("slots", "cores", 'job.toml:43: unknown key "cores" in [[where]] 1'),
        ("seed", "zzz", 'job.toml:15: unknown key "zzz" in [job]'),
    ],
)  # fmt: skip
def test_an_unknown_key_names_file_line_and_nearest_key(
    tmp_path: Path, before: str, after: str, sentence: str
) -> None:
    assert refused(tmp_path, FULL.replace(before, after, 1)).lines == [sentence]


def test_the_valid_keys_of_the_table_are_the_hint(tmp_path: Path) -> None:
    found = refused(tmp_path, SMALL + "[goal]\nbugdet = 4\n")
    assert found.hint == "[goal] may hold: budget, confidence, deadline, prefer"


@pytest.mark.parametrize(
    ("table", "entry", "part"),
    [
        ("goal", "deadline = 6", "6 what? A duration needs a unit; write 6m or 6s"),
        ("goal", 'deadline = "30"', "30 what?"),
        ("goal", 'deadline = "2020-01-01T00:00Z"', "is in the past"),
        ("goal", "deadline = 2020-01-01T00:00:00Z", "is in the past"),
        ("goal", "deadline = 2027-01-01T00:00:00", "has no time zone"),
        ("goal", "deadline = 2027-01-01", "has no time"),
        ("goal", 'deadline = ""', "an empty deadline"),
        ("goal", "budget = 0", "no money"),
        ("goal", "budget = -4", "negative"),
        ("goal", 'budget = "€4"', "not an amount of money"),
        ("goal", "budget = nan", "not an amount of money"),
        ("goal", "confidence = 90", "out of range: should be less than or equal to 0.99"),
        ("goal", 'confidence = "high"', "is not a number"),
        ("goal", 'prefer = "cheap"', 'is none of "cost", "time" or "risk"'),
        ("goal", 'prefer = "tiem"', 'did you mean "time"?'),
        ("probe", "slice = 0", "out of range"),
        ("probe", "slice = 1.5", "out of range"),
        ("probe", "steps = 2.5", "2.5 is not a whole number"),
        ("probe", "steps = true", "true is not a whole number"),
        ("probe", "max_cost = 0", "no money"),
        ("probe", 'max_time = "-5m"', "is negative"),
        ("run", "retries = -1", "out of range"),
        ("run", "hang_timeout = 60", "60 what?"),
        ("adjust", 'allow = ["worker"]', 'did you mean "workers"?'),
        ("adjust", 'allow = "workers"', "is not a list"),
        ("adjust", 'allow = ["workers"]\nnever = ["workers"]', "both allow and never"),
    ],
)
def test_a_wrong_value_names_file_line_key_and_what_to_write(
    tmp_path: Path, table: str, entry: str, part: str
) -> None:
    found = refused(tmp_path, f"{SMALL}[{table}]\n{entry}\n")
    assert found.lines[0].startswith(("job.toml:6: ", "job.toml:5: "))
    assert f"[{table}]" in found.lines[0]
    assert part in found.text


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("epochs", "0", "out of range"),
        ("epochs", '"9"', '"9" is not a whole number'),
        ("workers", "[]", "at least 1 item"),
        ("workers", "[0]", "out of range"),
        ("micro_batches", "[128]\nglobal_batch = 64", "nothing up to global_batch = 64"),
        ("precision", '"fp64"', "is none of"),
        ("seed", "-1", "out of range"),
        ("env", '["TOKEN=hunter2hunter2"]', 'write "TOKEN"'),
        ("env", '["MY VAR"]', "letters, digits and _"),
        ("env", '["RANK"]', "set by planner itself"),
        ("env", '["PLANNER_EVENTS"]', "set by planner itself"),
        ("env", '{TOKEN = "x"}', "is not a list"),
        ("command", '""', "is empty"),
        ("command", '"python \\"train.py"', "no closing quotation"),
        ("command", '"python train.py | tee log"', 'holds "|"'),
        ("command", '"python train.py > log"', 'holds ">"'),
        ("command", '"python train.py && echo done"', 'holds "&&"'),
        ("command", '"python train.py $DATA"', "no variable is filled in"),
        ("command", '"CUDA_VISIBLE_DEVICES=0 python train.py"', "starts by setting"),
        ("command", '"python train.py {batch_size}"', "unknown placeholder {batch_size}"),
        ("command", '"python train.py {micro_bach}"', "did you mean {micro_batch}?"),
        ("command", '"python train.py --data {data}"', "the job names no data"),
        ("command", "7", "[job] command"),
    ],
)
def test_a_wrong_value_under_job_is_told(tmp_path: Path, key: str, value: str, part: str) -> None:
    found = refused(tmp_path, job_table(**{key: value}))
    assert found.lines[0].startswith("job.toml:")
    assert part in found.text


def test_a_value_given_under_env_is_not_repeated(tmp_path: Path) -> None:
    found = refused(tmp_path, job_table(env='["TOKEN=hunter2hunter2"]'))
    assert "hunter2" not in f"{found.text} {found.hint}"


@pytest.mark.parametrize(
    "argument",
    ["--api-key sk-abcdefghijklmnopqrstuvwx", "--token=hf_abcdefghijklmnopqrstuvwx",
     "--password hunter2hunter2", "https://me:hunter2hunter2@host/x"],
)  # fmt: skip
def test_a_secret_in_the_command_is_refused_and_not_repeated(tmp_path: Path, argument: str) -> None:
    found = refused(tmp_path, job_table(command=f'"python train.py {argument}"'))
    shown = f"{found.text} {found.hint}"
    assert "looks like a secret" in shown
    assert "env = [" in shown
    assert "hunter2" not in shown
    assert "abcdefghij" not in shown


@pytest.mark.parametrize(
    ("key", "more"),
    [
        ("[job] data", {"data": '"https://me:hunter2hunter2@host/x"'}),
        ("[job] precision", {"precision": '"ghp_abcdefghij0123456789abcdefghij012345"'}),
    ],
)
def test_a_secret_anywhere_else_is_refused_and_not_repeated(
    tmp_path: Path, key: str, more: dict[str, str]
) -> None:
    found = refused(tmp_path, job_table(**more))
    assert found.text.endswith(f"{key}: the value looks like a secret")
    assert "hunter2" not in f"{found.text} {found.hint}"


def test_ordinary_arguments_are_no_secrets(tmp_path: Path) -> None:
    line = "python train.py --tokenizer bert --key-frames 3 --max-tokens 4096 --out runs/a1b2c3"
    assert load(tmp_path, job_table(command=f'"{line}"')).command[1] == "train.py"


def test_braces_around_anything_but_a_name_are_text(tmp_path: Path) -> None:
    job = load(tmp_path, job_table(command="""'python train.py --cfg {"lr":0.1}'"""))
    assert job.command[-1] == "{lr:0.1}"


def test_a_place_without_a_runner_and_one_with_an_unknown_runner(tmp_path: Path) -> None:
    assert (
        "[[where]] 1 runner: is missing" in refused(tmp_path, SMALL + "[[where]]\nslots = 1\n").text
    )
    found = refused(tmp_path, SMALL + '[[where]]\nrunner = "locla"\n')
    assert (
        found.lines[0] == 'job.toml:6: [[where]] 1 runner: no runner "locla"; did you mean "local"?'
    )


def test_places_of_one_machine_are_told_apart_by_their_names(tmp_path: Path) -> None:
    local = '[[where]]\nrunner = "local"\n'
    names = ('device = "cpu"', 'device = "gpu"', 'pool = "night"', 'device = "auto"')
    places = load(tmp_path, SMALL + "".join(f"{local}{name}\n" for name in names)).places
    assert [place.pool for place in places] == ["cpu", "gpu", "night", "local"]
    found = refused(tmp_path, SMALL + local + local)
    assert "[[where]] 2: there is a place called local:local already" in found.text


def test_an_installed_runner_that_is_not_known_here_gets_its_settings(tmp_path: Path) -> None:
    place = load(tmp_path, SMALL + '[[where]]\nrunner = "fake"\nspeed = 2.5\n').places[0]
    assert place.settings == {"speed": 2.5}


def test_several_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = FULL.replace("steps = 120", 'steps = "many"').replace("budget", "bugdet")
    found = refused(tmp_path, text.replace("retries = 4", "retries = -4"))
    assert [line.split(":")[1] for line in found.lines] == ["19", "27", "33"]


# ---- lines of keys


def test_lines_are_found_in_spite_of_texts_that_look_like_keys() -> None:
    text = '''\
top = 1
[a]  # [b]
x = """
y = 1
[c]
"""
z = "\\"" # q = 2
"quoted" = 3
d.e = 4
[[list]]
k = [
  "k2 = 3",
]
[[list]]
k = 5
[list.inner]
m = 6
'''
    lines = key_lines(text)
    assert lines[("top",)] == 1
    assert lines[("a",)] == 2
    assert lines[("a", "x")] == 3
    assert ("a", "y") not in lines
    assert ("c",) not in lines
    assert lines[("a", "z")] == 7
    assert lines[("a", "quoted")] == 8
    assert lines[("a", "d", "e")] == 9
    assert lines[("list", 0, "k")] == 11
    assert lines[("list", 1, "k")] == 15
    assert lines[("list", 1, "inner", "m")] == 17


# ---- schema


def test_the_schema_takes_what_the_loader_takes_and_refuses_a_typo() -> None:
    import tomllib

    schema = job_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert not list(validator.iter_errors(tomllib.loads(FULL)))
    assert list(validator.iter_errors(tomllib.loads(FULL.replace("budget", "bugdet"))))


# ---- documentation

# ---- language models

GPT = """
[model]
hidden = 64
layers = 4
heads = 8
sequence = 128
vocabulary = 512
"""


def test_a_language_model_and_how_it_may_be_spread(tmp_path: Path) -> None:
    job = load(tmp_path, f"{SMALL}{GPT}[parallel]\ntensor = [4, 1, 2]\npipeline = 2\n")
    assert job.model == LanguageModel(hidden=64, layers=4, heads=8, sequence=128, vocabulary=512)
    assert (job.tensor_parallel, job.pipeline_parallel) == ((1, 2, 4), (2,))


def test_without_a_language_model_a_replica_is_one_worker(tmp_path: Path) -> None:
    job = load(tmp_path, SMALL)
    assert (job.model, job.tensor_parallel, job.pipeline_parallel) == (None, (1,), (1,))


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ("[parallel]\ntensor = 2\n", "there is no [model]"),
        (f"{GPT}[parallel]\ntensor = [1, 3]\n", "tensor: 3 does not divide heads = 8"),
        (f"{GPT}[parallel]\npipeline = [1, 3]\n", "pipeline: 3 does not divide layers = 4"),
        (f"{GPT}[parallel]\ntensor = 0\n", "out of range"),
        (f"{GPT}[parallel]\ndata = 2\n", 'unknown key "data"'),
        (GPT.replace("heads = 8", "heads = 7"), "heads = 7 does not divide hidden = 64"),
        (GPT.replace("layers = 4\n", ""), "[model] layers is missing"),
    ],
)
def test_a_model_that_cannot_be_spread_so_is_refused(
    tmp_path: Path, tables: str, told: str
) -> None:
    (line,) = refused(tmp_path, SMALL + tables).lines
    assert line.startswith("job.toml:")
    assert told in line


def test_the_sdk_gives_every_worker_samples_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import planner.sdk as planner\n")
    found = refused(tmp_path, f"{SMALL}{GPT}[parallel]\ntensor = 2\n")
    assert "uses planner.sdk" in found.text
    assert "docs/language-models.md" in found.hint
    assert load(tmp_path, SMALL + GPT).tier == 1, "without [parallel] it is as any other job"


DOCUMENT = (Path(__file__).parents[2] / "docs" / "job-file.md").read_text()
TABLES = {
    "[job]": JobTable,
    "[probe]": ProbeTable,
    "[goal]": GoalTable,
    "[run]": RunTable,
    "[model]": ModelTable,
    "[parallel]": ParallelTable,
    "[[where]]": LocalPlace,
}


@pytest.mark.parametrize("name", TABLES)
def test_every_key_is_documented_and_no_other(name: str) -> None:
    section = DOCUMENT.split(f"## `{name}`")[1].split("\n## ")[0]
    keys = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert keys == set(TABLES[name].model_fields) - {"runner"}


def test_every_placeholder_and_knob_is_documented() -> None:
    for name in PLACEHOLDERS:
        assert f"`{{{name}}}`" in DOCUMENT
    for knob in KNOBS:
        assert f"`{knob}`" in DOCUMENT


def test_the_example_of_the_documentation_is_a_job(tmp_path: Path) -> None:
    example = DOCUMENT.split("```toml\n")[1].split("```")[0]
    assert load(tmp_path, example).epochs == 12


def test_the_example_that_comes_along_is_a_job() -> None:
    path = Path(__file__).parents[2] / "examples" / "digits" / "job.toml"
    job = load_job(path, NOW)
    assert (job.name, job.tier) == ("digits", 1)
