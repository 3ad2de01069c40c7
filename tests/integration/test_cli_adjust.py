"""`planner adjust`: what it shows, when it asks, what it ends with."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.fake_services import RUN_ID, FakeServices, view
from support.planner_calls import Planner

from planner.core import errors
from planner.core.adjust import Target, planned
from planner.core.adjustrules import AdjustRefusedError
from planner.core.types import RunState
from planner.services.api import RunView


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.cli.commands.adjust.LOOK_S", 0.001)


def ended(services: FakeServices, **changes: object) -> None:
    """What comes of the change."""
    services.outcome = (replace(services.outcome[0], **changes),)


def test_it_shows_what_it_expects_and_tells_what_came_of_it(
    planner: Planner,
    services: FakeServices,
) -> None:
    result = planner("adjust", RUN_ID, "workers=2", "--yes")
    assert result.code == 0
    assert "workers 1 -> 2   in flight" in result.err
    assert "41 -> 78 samples/s [60 - 82]   guess" in result.err
    assert "price       $0.0500/h -> $0.10/h" in result.err
    assert "0.5 s from step to step" in result.err
    assert result.out == f"{RUN_ID} workers 1 -> 2: done at step 120: stall 0.08 s\n"
    (wish,) = services.asked("adjust")
    assert (wish.workers, wish.max_usd_per_h) == (2, 0.1)


def test_more_money_is_asked_for(planner: Planner, services: FakeServices) -> None:
    result = planner("adjust", RUN_ID, "workers=2")
    assert result.code == 10
    assert "--yes" in result.err and "41 -> 78" in result.err
    assert not services.asked("adjust")


@pytest.mark.parametrize(("asks", "code"), [((), 0), (("workers",), 10)])
def test_what_costs_no_more_is_asked_about_only_where_the_job_file_says_so(
    planner: Planner,
    services: FakeServices,
    asks: tuple[str, ...],
    code: int,
) -> None:
    services.expectation = replace(services.expectation, dearer=False, asks=asks)
    result = planner("adjust", RUN_ID, "workers=2")
    assert result.code == code
    assert ("workers is not in allow of the job's [adjust]" in result.err) == bool(asks)


def test_nothing_to_do_is_done(planner: Planner, services: FakeServices) -> None:
    services.expectation = replace(services.expectation, how="nothing", what="nothing to do")
    result = planner("adjust", RUN_ID, "workers=1")
    assert (result.code, result.out, result.err) == (0, f"{RUN_ID} nothing to do\n", "")
    assert not services.asked("adjust")


@pytest.mark.parametrize(("state", "code"), [("refused", 2), ("not_done", 4)])
def test_what_was_not_done_ends_with_its_code_and_its_reason(
    planner: Planner,
    services: FakeServices,
    state: str,
    code: int,
) -> None:
    ended(services, state=state, text="worker 1 was not ready in time")
    result = planner("adjust", RUN_ID, "workers=2", "--yes", "--json")
    assert result.code == code
    assert "was not ready in time" in result.document["text"]


def test_another_way_is_shown_only_while_the_run_goes_on(
    planner: Planner, services: FakeServices
) -> None:
    ended(services, state="not_done", how="in_flight", text="worker 1 was not ready in time")
    for state, shown in ((RunState.RUNNING, True), (RunState.DONE, False)):
        services.views = [view(state)]
        assert ("--relaunch" in planner("adjust", RUN_ID, "workers=2", "--yes").err) == shown


def test_a_refusal_comes_before_anything_is_asked(
    planner: Planner,
    services: FakeServices,
) -> None:
    services.fail["may adjust"] = AdjustRefusedError(
        "the job file says that workers is never changed", hint="x", code="adjust.never"
    )
    result = planner("adjust", RUN_ID, "workers=2", "--json")
    assert (result.code, result.document["code"]) == (2, "adjust.never")


def test_it_need_not_wait(planner: Planner, services: FakeServices) -> None:
    services.outcome = ()
    result = planner("adjust", RUN_ID, "workers=2", "--yes", "--no-wait")
    assert (result.code, "asked for" in result.out) == (0, True)


def test_the_document_has_expectation_outcome_and_run(
    planner: Planner,
    services: FakeServices,
) -> None:
    document = planner("adjust", RUN_ID, "workers=2", "--yes", "--json").document
    assert document["expected"]["samples_per_s"]["mid"] == 78.0
    assert document["outcome"]["stall_s"] == 0.08
    assert document["run"]["adjustments"][0]["lost_samples"] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("wrkers=2",), "did you mean workers?"),
        (("workers",), "needs a value"),
        (("workers=0",), "whole number from 1"),
        (("workers=2", "workers=3"), "given twice"),
        (("memory=tight",), "low or normal"),
        (("checkpoint_interval=30",), "30 what?"),
        (("global_batch=64", "--lr-rule", "cubic"), "--lr-rule cubic"),
        (("move=a:b:c:2",), "move=a:b:c:2 does not fit"),
    ],
)
def test_what_cannot_be_understood_is_said_how_it_is_written(
    planner: Planner,
    words: tuple[str, ...],
    says: str,
) -> None:
    result = planner("adjust", RUN_ID, *words)
    assert result.code == 2
    assert says in result.err


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("local", Target(runner="local")),
        ("local:1", Target(runner="local", workers=1)),
        ("local:gpu", Target(runner="local", pool="gpu")),
        ("local:gpu:2", Target(runner="local", pool="gpu", workers=2)),
    ],
)
def test_a_place_is_read(
    planner: Planner,
    services: FakeServices,
    text: str,
    target: Target,
) -> None:
    planner("adjust", RUN_ID, f"move={text}", "--yes")
    assert services.asked("adjust")[0].move == target


@pytest.mark.parametrize(
    ("ends", "code", "says", "helps"),
    [
        (
            view(RunState.DONE),
            "adjust.not_done",
            "the run is done: the change was not made",
            "status",
        ),
        (view(RunState.PAUSED), "adjust.not_yet", "paused: the change is not made yet", "resume"),
        (view(RunState.FAILED), "adjust.not_yet", "failed: the change is not made yet", "resume"),
        (view(RunState.STOPPED_BY_CAP), "adjust.not_yet", "stopped by cap", "extend"),
        (view(supervisor_alive=False), "adjust.not_yet", "the supervisor is gone", "resume"),
    ],
)
@pytest.mark.parametrize("heard", [False, True])
def test_a_wait_that_ends_before_the_change_is_made_does_not_end_as_if_it_was(
    planner: Planner,
    services: FakeServices,
    *,
    ends: RunView,
    code: str,
    says: str,
    helps: str,
    heard: bool,
) -> None:
    ended(services, state="going_on", text=None, step=None)
    if not heard:
        services.outcome = ()
    services.views = [view(), ends]
    result = planner("adjust", RUN_ID, "workers=2", "--yes", "--json")
    assert (result.code, result.document["code"]) == (4, code)
    assert says in result.document["text"]
    assert f"planner {helps} {RUN_ID}" in result.err


@pytest.mark.parametrize("json", [False, True])
def test_it_says_that_the_change_is_made_while_the_new_rate_is_measured(
    planner: Planner, services: FakeServices, monkeypatch: pytest.MonkeyPatch, *, json: bool
) -> None:
    monkeypatch.setattr("planner.cli.commands.adjust.RATE_S", 0.05)
    ended(services, samples_per_s=None)
    services.views = [view()]
    result = planner("adjust", RUN_ID, "workers=2", "--yes", *["--json"] * json)
    line = f"{RUN_ID} workers 1 -> 2: made at step 120; measuring the new rate\n"
    assert (result.code, result.err.count(line)) == (0, 0 if json else 1)


def test_who_interrupts_the_wait_is_told_that_the_change_goes_on(
    planner: Planner, services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_s: float) -> None:
        raise KeyboardInterrupt

    services.outcome = ()
    services.views = [view()]
    monkeypatch.setattr("planner.cli.commands.adjust.time.sleep", interrupt)
    result = planner("adjust", RUN_ID, "workers=2", "--yes")
    assert result.code == 130
    assert f"the change goes on, and planner status {RUN_ID} shows" in result.err
    assert result.err.endswith("planner: interrupted\n")


def test_what_is_missing_is_named_in_full(planner: Planner) -> None:
    assert "LEVER=VALUE" in planner("adjust", RUN_ID).err


def test_a_run_that_is_not_running_is_refused(
    planner: Planner,
    services: FakeServices,
) -> None:
    services.fail["may adjust"] = errors.TransitionError(
        "run r-7f3k is done", hint="planner status"
    )
    assert planner("adjust", RUN_ID, "workers=2").code == 2


def test_status_shows_what_is_in_force_and_every_change(
    planner: Planner, services: FakeServices
) -> None:
    done = services.outcome[0]
    failed = replace(
        done, state="not_done", text="not done: worker 1 was not ready in time", step=None
    )
    now = replace(planned(view().plan), crew=(0, 2))
    services.views = [view(adjustments=(done, failed), in_force=now, crew=(0, 2))]
    lines = planner("status", RUN_ID).out.splitlines()
    changes = [line for line in lines if line.startswith("change")]
    assert changes[0] == (
        "change      workers 1 -> 2  done  step 120  stall 0.08 s"
        "  3.2s from request to first step  0 samples lost  41 -> 77 samples/s"
    )
    assert changes[1] == "change      workers 1 -> 2  not done: worker 1 was not ready in time"
    (in_force,) = [line for line in lines if line.startswith("in force")]
    assert " at " not in in_force, "the place is the one that was chosen"
    assert "(number 0, 2)" in in_force and "memory normal" in in_force


def test_status_names_the_place_that_a_run_was_moved_to(
    planner: Planner, services: FakeServices
) -> None:
    now = planned(view().plan)
    moved = replace(now, resources=replace(now.resources, pool="night"), crew=(1,))
    services.views = [view(adjustments=services.outcome, in_force=moved, crew=(1,))]
    lines = planner("status", RUN_ID).out.splitlines()
    (in_force,) = [line for line in lines if line.startswith("in force")]
    assert in_force.startswith("in force    1 worker at local:night (number 1), ")
