"""Runs as readers see them: lists, views, references, logs, comparisons, reports, the index."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from planner.core.errors import BudgetStopError, NotFoundError, StoreError, UsageError
from planner.core.events import Event
from planner.core.job import Goal
from planner.core.types import RunState
from planner.services.live import LiveServices
from planner.services.runs import shelf as runs_module
from planner.services.runs.crowding import crowding
from planner.services.runs.outputtimes import OutputNotes
from planner.services.runs.runlog import event_text
from planner.services.runs.runview import run_view
from planner.services.runs.shelf import finished_runs
from planner.store.files import save
from planner.store.layout import StateDir
from runners.fake import FakeRunner
from tests.support.runs import START, Case, FakeClock, create_run, fake_estimate, plan_of


class Shop:
    """A state directory with runs on the simulated runner, all on one clock."""

    def __init__(self, path):
        self.path = path
        self.clock = FakeClock()
        self.state = StateDir(path / "state")
        (path / "work").mkdir()

    @property
    def services(self):
        return LiveServices(self.state.path, self.clock)

    def case(self, run_id, name="digits", **arguments):
        plan = plan_of(fake_estimate(self.path / "work", **arguments), run_id, name=name)
        run = create_run(self.state, plan, self.clock)
        return Case(run, plan, self.clock, FakeRunner(self.clock))

    def done(self, run_id, name="digits", **arguments):
        case = self.case(run_id, name, **{"samples": 200, "epochs": 1, **arguments})
        case.go()
        self.clock.sleep(60)
        return case


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


# ---- lists and references


def test_no_runs_is_an_empty_list(shop):
    assert shop.services.runs() == ()
    with pytest.raises(NotFoundError, match="@last"):
        shop.services.resolve("@last")


def test_runs_come_newest_first_with_what_they_were_agreed_to(shop):
    for run_id in ("r-0001", "r-0002", "r-0003"):
        shop.done(run_id, goal=Goal(budget_usd=1.0))
    runs = shop.services.runs()
    assert [run.id for run in runs] == ["r-0003", "r-0002", "r-0001"]
    assert [run.id for run in shop.services.runs(limit=1)] == ["r-0003"]
    first = runs[0]
    assert (first.state, first.within_interval, first.budget_usd) == (RunState.DONE, True, 1.0)
    assert first.spent_usd == pytest.approx(0.001 * first.total_s, rel=0.05)
    assert first.ended_at - first.created_at == timedelta(seconds=first.total_s)
    assert not first.supervisor_alive


@pytest.mark.parametrize(
    ("reference", "run_id"),
    [
        ("@last", "r-ab34"),
        ("@-1", "r-ab34"),
        ("@-3", "r-aa11"),
        ("r-aa22", "r-aa22"),
        ("r-ab", "r-ab34"),
        ("ab", "r-ab34"),
        ("digits", "r-ab34"),
        ("other", "r-aa22"),
    ],
)
def test_references(shop, reference, run_id):
    shop.done("r-aa11")
    shop.done("r-aa22", name="other")
    shop.done("r-ab34")
    assert shop.services.resolve(reference) == run_id


@pytest.mark.parametrize("reference", ["r-zz", "@-9", "@-0", "", "../state", "r-aa", "nobody"])
def test_references_to_nothing_or_to_more_than_one_are_refused(shop, reference):
    shop.done("r-aa11")
    shop.done("r-aa22")
    with pytest.raises(NotFoundError):
        shop.services.resolve(reference)


def test_calls_on_a_run_that_does_not_exist_say_so(shop):
    for call in (shop.services.view, shop.services.pause, shop.services.report, shop.services.logs):
        with pytest.raises(NotFoundError, match="r-none"):
            call("r-none")


# ---- the index


def test_the_index_saves_reading_the_journals_again(shop, monkeypatch):
    shop.done("r-0001")
    before = shop.services.runs()
    monkeypatch.setattr(runs_module.RunShelf, "_follow", lambda *_: 1 / 0)
    assert shop.services.runs() == before


@pytest.mark.parametrize("harm", ["delete", "garbage", "truncate", "lie", "summary"])
def test_losing_the_index_loses_nothing(shop, harm):
    for run_id in ("r-0001", "r-0002"):
        shop.done(run_id)
    before = shop.services.runs()
    index = shop.state.index
    if harm == "delete":
        index.unlink()
    elif harm == "garbage":
        index.write_bytes(b"\x00garbage" * 1000)
    elif harm == "truncate":
        index.write_bytes(index.read_bytes()[:3000])
    elif harm == "lie":
        with sqlite3.connect(index) as db:
            db.execute("UPDATE runs SET journal_bytes = 3, summary = '{}'")
    else:
        with sqlite3.connect(index) as db:
            db.execute("UPDATE runs SET summary = 'not json'")
    assert shop.services.runs() == before
    assert shop.services.runs() == before


def test_an_index_that_cannot_be_written_only_costs_time(shop):
    shop.done("r-0001")
    shop.state.index.mkdir()
    assert [run.id for run in shop.services.runs()] == ["r-0001"]


@pytest.fixture
def read_only(shop):
    """Takes away the right to write to the shop's state directory.

    From root only a file system that is mounted read-only does; others may not mount.
    """
    path, mounted, locked = shop.state.path, [], []

    def lock():
        for entry in (path, *path.rglob("*")):
            locked.append((entry, entry.stat().st_mode))
        for entry, mode in reversed(locked):
            entry.chmod(mode & ~0o222)

    def mount():
        source = shop.path / "writable"
        path.rename(source)
        path.mkdir()
        for options in (["--bind", str(source), str(path)], ["-o", "remount,bind,ro", str(path)]):
            done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"this machine does not allow mounting: {done.stderr.strip()}")
            mounted[:] = [path]

    yield mount if os.geteuid() == 0 else lock
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    for entry, mode in locked:
        entry.chmod(mode)


@pytest.mark.parametrize("harm", ["", "lose", "garbage", "later"])
def test_runs_are_read_from_a_read_only_state_directory(shop, read_only, harm):
    shop.done("r-0001")
    shop.done("r-0002")
    before = shop.services.runs()
    index = shop.state.index
    if harm == "lose":
        index.unlink()
    elif harm == "garbage":
        index.write_bytes(b"\x00garbage" * 1000)
    elif harm == "later":
        with closing(sqlite3.connect(index)) as db:
            db.execute("PRAGMA user_version = 99")
    read_only()
    assert shop.services.runs() == before
    assert shop.services.resolve("@last") == "r-0002"
    assert shop.services.view("r-0001").summary.state is RunState.DONE
    assert shop.services.logs("r-0001").lines
    assert shop.services.compare(["r-0001", "r-0002"]).rows


@pytest.mark.parametrize(
    ("call", "values"),
    [
        ("resume", {}),
        ("resume", {"dry_run": True}),
        ("extend", {"budget_usd": 1.0}),
        ("extend", {"budget_usd": 1.0, "dry_run": True}),
        ("cancel", {}),
    ],
)
def test_what_changes_a_run_says_that_its_directory_is_read_only(shop, read_only, call, values):
    case = shop.case("r-0001", goal=Goal(budget_usd=1.0))
    shop.clock.at(50, lambda: case.send("pause"))
    case.go()
    read_only()
    with pytest.raises(StoreError, match=r"Read-only file system|Permission denied"):
        getattr(shop.services, call)("r-0001", **values)
    assert shop.services.view("r-0001").summary.state is RunState.PAUSED


def test_a_run_that_is_gone_leaves_the_list(shop):
    shop.done("r-0001")
    shop.done("r-0002")
    shop.services.runs()
    shop.state.run("r-0001").journal.unlink()
    assert [run.id for run in shop.services.runs()] == ["r-0002"]


def test_one_damaged_run_does_not_hide_the_others(shop):
    shop.done("r-0001")
    shop.done("r-0002")
    shop.state.run("r-0001").plan.write_text("{")
    assert [run.id for run in shop.services.runs()] == ["r-0002"]
    with pytest.raises(StoreError, match=r"plan\.json"):
        shop.services.view("r-0001")


def test_a_run_that_goes_on_is_seen_again_in_the_list(shop):
    case = shop.case("r-0001")
    shop.clock.at(50, lambda: case.send("pause"))
    case.go()
    assert shop.services.runs()[0].state is RunState.PAUSED
    case.go()
    assert shop.services.runs()[0].state is RunState.DONE


# ---- one run


def test_a_view_follows_a_run_at_work(shop):
    case = shop.case("r-0001", goal=Goal(budget_usd=1.0))
    services, views = shop.services, []

    def look():
        record = services._shelf.record("r-0001")
        plan = services._shelf.plan("r-0001")
        views.append(run_view(plan, record, shop.clock.now(), supervisor_alive=True))

    for at_s in (1, 30, 60, 90):
        shop.clock.at(at_s, look)
    case.go()
    assert [view.step for view in views] == sorted(view.step for view in views)
    assert views[0].eta_s is None and views[0].cost_at_end_usd is None
    middle = views[2]
    assert middle.summary.state is RunState.RUNNING
    assert middle.eta_s.p05 < 117 - 60 + 5 < middle.eta_s.p95 + 10
    assert middle.cost_at_end_usd.p50 == pytest.approx(0.117, rel=0.15)
    assert middle.p_budget > 0.9
    assert middle.usd_per_h == pytest.approx(3.6)
    assert middle.samples_per_s == pytest.approx(17.8, rel=0.1)
    assert {"samples_per_s", "cpu", "memory_bytes", "loader_wait", "loss"} <= set(middle.series)
    assert middle.series["loss"].at_s[-1] <= 60
    last = shop.services.view("r-0001")
    assert (last.step, last.usd_per_h, last.eta_s, last.p_budget) == (200, 0.0, None, None)


def test_a_run_without_supervisor_has_no_eta_and_says_what_to_do(shop):
    case = shop.case("r-0001")
    loop = case.loop()
    shop.clock.at(40, lambda: 1 / 0)
    loop._abort = lambda error: None
    with pytest.raises(ZeroDivisionError):
        loop.run()
    view = shop.services.view("r-0001")
    assert view.summary.state is RunState.RUNNING
    assert not view.summary.supervisor_alive
    assert view.eta_s is None
    assert "planner resume r-0001" in view.warnings[-1]


def test_events_after_a_number(shop):
    shop.done("r-0001")
    every = shop.services.events("r-0001")
    assert shop.services.events("r-0001", since_seq=every[4].seq) == every[5:]


def test_late_is_told(shop):
    goal = Goal(deadline_at=START + timedelta(seconds=3), deadline_s=3)
    shop.done("r-0001", goal=goal)
    assert shop.services.runs()[0].late


# ---- logs


def test_logs_go_on_where_the_reader_left_off(shop):
    case = shop.done("r-0001", faults=("crash@7#1",))
    services = shop.services
    first = services.logs("r-0001")
    texts = [line.text for line in first.lines]
    assert "RuntimeError: simulated crash at step 7" in texts
    assert "done" in texts
    assert any(text.startswith("decision: start again from step") for text in texts)
    assert texts[-1] == "run done"
    assert services.logs("r-0001", first.cursor).lines == ()
    with case.run.attempt(2).out(0).open("a") as file:
        file.write("more\nhalf a li")
    second = services.logs("r-0001", first.cursor)
    assert [line.text for line in second.lines] == ["more"]
    with case.run.attempt(2).out(0).open("a") as file:
        file.write("ne\n")
    assert [x.text for x in services.logs("r-0001", second.cursor).lines] == ["half a line"]


def test_logs_stand_in_the_order_in_which_they_came(shop):
    shop.done("r-0001", faults=("crash@7#1",))
    lines = shop.services.logs("r-0001").lines
    texts = [line.text for line in lines]
    crash = texts.index("RuntimeError: simulated crash at step 7")
    again = next(i for i, text in enumerate(texts) if text.startswith("decision: start again"))
    assert texts.index("attempt 1 starts") < crash < again
    assert again < texts.index("attempt 2 starts") < texts.index("done") < texts.index("run done")
    assert all(line.at is not None for line in lines)
    assert [line.at for line in lines] == sorted(line.at for line in lines)


def test_a_long_log_comes_in_pages_and_in_order(shop, monkeypatch):
    case = shop.done("r-0001", faults=("crash@7#1",))
    first, began_s = case.run.attempt(1), shop.services.events("r-0001")[0].ts.timestamp()
    first.out(0).write_text("".join(f"line {i}\n" for i in range(9)))
    notes = [{"t": began_s + i, "worker-0.out": 7 * (i + 1)} for i in range(9)]
    with first.output_times.open("a") as file:
        file.write("".join(json.dumps(note) + "\n" for note in notes))
    whole = shop.services.logs("r-0001").lines
    monkeypatch.setattr("planner.services.runs.runlog._PAGE_BYTES", 20)
    pages, cursor = [], None
    while (page := shop.services.logs("r-0001", cursor)).lines:
        pages.append(page.lines)
        cursor = page.cursor
        assert page.more or not shop.services.logs("r-0001", cursor).lines
    assert len(pages) > 4
    texts = [line.text for lines in pages for line in lines]
    assert "".join(texts) == "".join(line.text for line in whole)


def test_notes_of_a_job_that_prints_for_weeks_stay_few_and_close_enough(tmp_path):
    folder, at = StateDir(tmp_path).run("r-0001").attempt(1), START
    folder.path.mkdir(parents=True)
    notes = OutputNotes(folder)
    for look in range(100_000):
        os.truncate(folder.out(0), look + 1) if look else folder.out(0).write_bytes(b"x")
        notes.take(at)
        at += timedelta(seconds=20)
    said = [json.loads(line) for line in folder.output_times.read_text().splitlines()]
    assert 20_000 < len(said) < 50_000
    gaps_s = [after["t"] - before["t"] for before, after in pairwise(said)]
    assert max(gaps_s) <= 1.01e-4 * (at - START).total_seconds() + 20
    assert gaps_s[:100] == [20] * 100


def test_logs_without_the_notes_of_their_times_are_shown_all_the_same(shop):
    case = shop.done("r-0001")
    notes = case.run.attempt(1).output_times
    notes.write_text("{\n" + notes.read_text())
    assert all(line.at is not None for line in shop.services.logs("r-0001").lines)
    notes.unlink()
    lines = shop.services.logs("r-0001").lines
    assert {line.at for line in lines if line.source == "train"} == {None}
    assert "done" in [line.text for line in lines]


def test_logs_hide_secrets_and_bear_any_bytes(shop):
    case = shop.done("r-0001")
    with case.run.attempt(1).out(0).open("ab") as file:
        file.write(b"api_key=sk-1234567890abcdef\n\xff\xfe 10%\r 50%\r100%\n")
    texts = [line.text for line in shop.services.logs("r-0001").lines]
    assert not any("sk-1234567890abcdef" in text for text in texts)
    assert "100%" in texts


@pytest.mark.parametrize(("workers", "text"), [(1, "1 worker started"), (2, "2 workers started")])
def test_the_log_counts_workers(workers, text):
    started = Event(seq=0, ts=START, type="run.started", run_id="r", data={"workers": workers})
    assert event_text(started) == text


def test_a_view_knows_how_much_of_the_work_its_last_checkpoint_holds(shop):
    shop.done("r-0001")
    view = shop.services.view("r-0001")
    assert (view.last_checkpoint_step, view.saved_progress) == (20, 1.0)
    assert replace(view, last_checkpoint_step=None).saved_progress == 0.0


# ---- reports and comparisons


def test_the_report_sets_predicted_beside_real(shop):
    case = shop.done("r-0001", goal=Goal(budget_usd=1.0))
    report = shop.services.report("r-0001")
    assert json.loads(json.dumps(report)) == report
    assert report["time_s"]["within"] is True
    assert report["time_s"]["real"] == shop.services.runs()[0].total_s
    assert abs(report["time_s"]["error"]) < 0.2
    assert report["memory_bytes"]["real"] == 1_020_000_000
    assert report["checkpoints"]["last"]["step"] == report["steps"] == 20
    assert sum(report["times_s"].values()) == pytest.approx(report["held_s"], rel=0.01)
    assert "predicted" in report["line"] and "val_accuracy" in report["line"]
    case.run.report.unlink()
    assert shop.services.report("r-0001")["time_s"] == report["time_s"]


def test_a_failed_run_reports_its_reason_and_log(shop):
    shop.done("r-0001", faults=("crash@7",))
    report = shop.services.report("r-0001")
    assert report["state"] == "failed"
    assert report["time_s"]["real"] is None and report["time_s"]["within"] is None
    assert report["log"][-1] == "RuntimeError: simulated crash at step 7"


def test_two_runs_of_the_same_work_side_by_side(shop):
    shop.done("r-0001")
    shop.done("r-0002", workers=2, usd_per_h=7.2)
    found = shop.services.compare(["r-0001", "@last"])
    assert found.subjects == ("r-0001", "r-0002")
    assert found.same_work and found.differences == ()
    rows = {row.name: row for row in found.rows}
    assert rows["time"].unit == "s"
    assert rows["time"].change == pytest.approx(rows["time"].values[1] / rows["time"].values[0] - 1)
    assert rows["price"].values == (3.6, 7.2)
    assert rows["metric val_accuracy"].change == 0.0
    assert rows["state"].change is None
    assert rows["attempts"].values[0]
    assert rows["attempts"].change is None


def test_different_work_is_said(shop):
    shop.done("r-0001")
    shop.done("r-0002", epochs=2)
    found = shop.services.compare(["r-0001", "r-0002"])
    assert not found.same_work
    assert found.differences == ("epochs: 1 against 2",)


def test_a_run_against_its_estimate_and_its_options(shop):
    case = shop.done("r-0001")
    estimate = replace(
        fake_estimate(shop.path / "work", samples=200, epochs=1), id="e-abcdef0", job=case.plan.job
    )
    save(shop.state.estimates / "e-abcdef0.json", estimate)
    found = shop.services.compare(["e-abcdef0", "e-abcdef0/o1", "r-0001"])
    assert found.subjects == ("e-abcdef0/o1", "e-abcdef0/o1", "r-0001")
    assert found.same_work
    rows = {row.name: row.values for row in found.rows}
    assert rows["time"][:2] == (None, None)
    assert rows["predicted time"][0] == rows["predicted time"][2]
    with pytest.raises(NotFoundError, match="o9"):
        shop.services.compare(["e-abcdef0/o9", "r-0001"])


def test_comparing_takes_two(shop):
    with pytest.raises(UsageError, match="two"):
        shop.services.compare(["r-0001"])


# ---- what may be asked of a run at rest


def test_requests_to_a_run_that_has_ended_are_refused(shop):
    shop.done("r-0001")
    services = shop.services
    for call in (services.pause, services.cancel, services.resume, services.checkpoint):
        with pytest.raises(UsageError, match="r-0001") as caught:
            call("r-0001")
        assert caught.value.code == "run.transition"
    with pytest.raises(UsageError):
        services.extend("r-0001", budget_usd=5.0)


def test_a_capped_run_is_only_resumed_with_room_under_its_cap(shop):
    case = shop.case("r-0001", goal=Goal(budget_usd=0.08))
    case.go()
    for dry_run in (True, False):
        with pytest.raises(BudgetStopError, match="cap"):
            shop.services.resume("r-0001", dry_run=dry_run)
    shop.services.extend("r-0001", budget_usd=1.0)
    view = shop.services.view("r-0001")
    assert view.plan.budget_microusd == 1_080_000
    assert view.plan.goal.budget_usd == pytest.approx(1.08)
    assert view.decisions[-1].action == "extend: cap +$1.00"
    assert case.go() is RunState.DONE


@pytest.mark.parametrize(
    "values", [{}, {"budget_usd": -1.0}, {"budget_usd": 0.0}, {"deadline_s": 60.0}]
)
def test_only_limits_that_exist_are_extended_and_only_upwards(shop, values):
    case = shop.case("r-0001", goal=Goal(budget_usd=0.08))
    case.go()
    for dry_run in (True, False):
        with pytest.raises(UsageError):
            shop.services.extend("r-0001", **values, dry_run=dry_run)


def test_looking_whether_a_limit_can_be_raised_raises_none(shop):
    shop.case("r-0001", goal=Goal(budget_usd=0.08)).go()
    shop.services.extend("r-0001", budget_usd=1.0, dry_run=True)
    assert shop.services.view("r-0001").plan.budget_microusd == 80_000


# ---- history


def test_finished_runs_are_kept_for_calibration(shop):
    shop.done("r-0001")
    shop.done("r-0002", faults=("crash@7",))
    shop.done("r-0003", faults=("crash@7#1",))
    finished = finished_runs(shop.state.path)
    pairs = finished.times
    assert len(pairs) == 2
    predicted, real = pairs[0]
    assert predicted.p05 <= real <= predicted.p95
    assert pairs[1][1] > real


def test_bills_of_finished_runs_are_for_the_time_held_at_the_price_agreed_to(shop):
    shop.done("r-0001")
    (bill,) = finished_runs(shop.state.path).bills
    plan = shop.services.view("r-0001").plan
    assert bill.usd_per_h == plan.option.price.usd_per_h
    assert bill.cost_usd == pytest.approx(bill.usd_per_h * bill.run_s / 3600, rel=0.01)
    # A wait, or a correction that the prediction held already, would show here.
    assert bill.run_s <= shop.services.view("r-0001").summary.total_s


# ---- one machine for several runs


def local_plan(shop, run_id, cores):
    plan = plan_of(fake_estimate(shop.path / "work", workers=cores), run_id)
    shape = replace(plan.option.resources, runner="local")
    return replace(plan, option=replace(plan.option, resources=shape))


@pytest.mark.parametrize(
    ("alive", "own", "other", "told"),
    [(True, 2, 2, True), (True, 2, 1, False), (False, 2, 2, False)],
)
def test_runs_that_share_too_few_cores_are_told_of(shop, monkeypatch, alive, own, other, told):
    monkeypatch.setattr("planner.services.runs.crowding.usable_cores", lambda: 3)
    monkeypatch.setattr(
        "planner.services.runs.crowding.supervisor_pid", lambda run: 1 if alive else None
    )
    create_run(shop.state, local_plan(shop, "r-0001", other), shop.clock)
    plan = local_plan(shop, "r-0002", own)
    create_run(shop.state, plan, shop.clock)
    text = crowding(shop.state, plan)
    assert (text is not None) is told
    if told:
        assert text.startswith("r-0001 and this run use 4 of 3 cores")


def test_crowding_is_a_warning_of_the_run_and_it_starts_all_the_same(shop):
    case = shop.case("r-0001")
    loop = case.loop()
    loop._crowding = lambda: "r-0002 and this run use 4 of 2 cores"
    assert loop.run() is RunState.DONE
    loop.book.journal.close()
    assert case.warnings() == ["machine.crowded"]
