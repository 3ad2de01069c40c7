"""How every screen looks, at 80 x 24 and at 120 x 40.

The pictures are SVG files beside this module; `pytest tests/tui/test_snapshots.py
--snapshot-update` draws them anew after a wanted change, and each is to be looked at then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from support.recorded import sample_estimate
from support.tui import NARROW, RUN_TAKES_S, WIDE, Stage, live, press, settle, to_options, to_run
from textual.pilot import Pilot

from planner.core.adjustrules import AdjustRefusedError
from planner.store.codec import to_json
from planner.tui.probe_board import ProbeBoard

Drive = Callable[[Stage, "Pilot[None]"], Awaitable[None]]
Compare = Callable[..., bool]


async def job(stage: Stage, pilot: Pilot[None]) -> None:
    await settle(pilot)


async def job_wrong(stage: Stage, pilot: Pilot[None]) -> None:
    await settle(pilot)
    stage.app.screen.query_one("#deadline").value = "30"  # type: ignore[attr-defined]
    await settle(pilot)


async def probes(stage: Stage, pilot: Pilot[None]) -> None:
    """One done, one failed, one running, one queued."""
    await settle(pilot)
    first, second, third = sample_estimate().probes
    board = ProbeBoard(state="running", started_s=stage.clock.monotonic_s() - 47)
    for index, probe in enumerate((first, second, third, replace(third, id="p-4")), 1):
        shape = {"resources": to_json(probe.resources), "knobs": to_json(probe.knobs)}
        board.take("probe.queued", {"id": probe.id, "index": index, **shape})
    board.take("probe.finished", {"id": first.id, "probe": to_json(first)})
    failed = replace(
        second,
        state="failed",
        step_time_s=(),
        steps=0,
        error="exit code 1 of worker 1: RuntimeError: Address already in use",
        log=("Traceback (most recent call last):", "RuntimeError: Address already in use"),
    )
    board.take("probe.finished", {"id": second.id, "probe": to_json(failed)})
    board.take(
        "probe.progress",
        {
            "id": third.id,
            "phase": "measuring",
            "step": 19,
            "steps_total": 35,
            "step_time_s": 0.8,
            "samples_per_s": 80.0,
            "loader_wait_fraction": 0.06,
            "memory_bytes": 640_000_000,
            "elapsed_s": 21.0,
            "cost_usd": 0.0029,
        },
    )
    stage.app.session.board = board
    await press(pilot, "2")


async def options(stage: Stage, pilot: Pilot[None]) -> None:
    await settle(pilot)
    await to_options(pilot)


async def options_front(stage: Stage, pilot: Pilot[None]) -> None:
    await options(stage, pilot)
    await press(pilot, "i", "v", "end")


async def options_what_if(stage: Stage, pilot: Pilot[None]) -> None:
    await options(stage, pilot)
    await press(pilot, "x", "shift+left")


async def confirm(stage: Stage, pilot: Pilot[None]) -> None:
    await options(stage, pilot)
    await press(pilot, "L")


async def run(stage: Stage, pilot: Pilot[None]) -> None:
    await settle(pilot)
    await to_run(pilot)
    stage.clock.sleep(0.6 * RUN_TAKES_S)
    await press(pilot, "r")
    stage.app.clear_notifications()
    await settle(pilot)


async def run_done(stage: Stage, pilot: Pilot[None]) -> None:
    await run(stage, pilot)
    stage.clock.sleep(RUN_TAKES_S)
    await press(pilot, "r")


async def stop(stage: Stage, pilot: Pilot[None]) -> None:
    await run(stage, pilot)
    await press(pilot, "s")


async def decisions(stage: Stage, pilot: Pilot[None]) -> None:
    await run(stage, pilot)
    await press(pilot, "5")


async def history(stage: Stage, pilot: Pilot[None]) -> None:
    await run_done(stage, pilot)
    await press(pilot, "6", "space", "space", "c")


async def palette(stage: Stage, pilot: Pilot[None]) -> None:
    await settle(pilot)
    await press(pilot, "colon")
    await pilot.pause(0.3)


async def help_(stage: Stage, pilot: Pilot[None]) -> None:
    await settle(pilot)
    await press(pilot, "3", "question_mark")


SCENES: dict[str, tuple[Drive, tuple[int, int]]] = {
    "job": (job, NARROW),
    "job_wrong": (job_wrong, NARROW),
    "job_wide": (job, WIDE),
    "probes": (probes, NARROW),
    "probes_wide": (probes, WIDE),
    "options": (options, NARROW),
    "options_front": (options_front, NARROW),
    "options_what_if": (options_what_if, NARROW),
    "options_wide": (options, WIDE),
    "confirm": (confirm, NARROW),
    "run": (run, NARROW),
    "run_wide": (run, WIDE),
    "run_done": (run_done, NARROW),
    "stop": (stop, NARROW),
    "decisions": (decisions, NARROW),
    "decisions_wide": (decisions, WIDE),
    "history": (history, NARROW),
    "history_wide": (history, WIDE),
    "help": (help_, NARROW),
    "palette": (palette, NARROW),
}


def look(snap_compare: Compare, stage: Stage, drive: Drive, size: tuple[int, int]) -> bool:
    async def before(pilot: Pilot[None]) -> None:
        await drive(stage, pilot)

    return snap_compare(stage.app, terminal_size=size, run_before=before)


@pytest.mark.parametrize("scene", SCENES)
def test_dark(snap_compare: Compare, stage: Stage, scene: str) -> None:
    drive, size = SCENES[scene]
    assert look(snap_compare, stage, drive, size)


@pytest.mark.parametrize("theme", ["planner-light", "planner-contrast", "nord"])
def test_other_themes(snap_compare: Compare, stage: Stage, theme: str) -> None:
    stage.make(theme=theme)
    assert look(snap_compare, stage, run, NARROW)


@pytest.mark.parametrize("scene", ["options_wide", "run"])
def test_ascii(snap_compare: Compare, stage: Stage, scene: str) -> None:
    stage.make(ascii=True, read_only=False)
    drive, size = SCENES[scene]
    assert look(snap_compare, stage, drive, size)


async def override(stage: Stage, pilot: Pilot[None]) -> None:
    """Two workers are typed, and what they would do is told."""
    await settle(pilot)
    await press(pilot, "o")
    await pilot.press("2")
    await press(pilot, "enter")


async def override_refused(stage: Stage, pilot: Pilot[None]) -> None:
    await settle(pilot)
    await press(pilot, "o")
    stage.services.fail["may adjust"] = AdjustRefusedError(
        "another global batch changes the mathematics of the training",
        hint="--allow-maths allows it; --lr-rule says how the learning rate follows",
    )
    stage.app.screen.query_one("#global_batch").focus()
    await pilot.press(*"512")
    await press(pilot, "enter")


async def override_asks(stage: Stage, pilot: Pilot[None]) -> None:
    await override(stage, pilot)
    await press(pilot, "enter")


async def override_done(stage: Stage, pilot: Pilot[None]) -> None:
    """One change was made, another one is under way."""
    done = stage.services.outcome[0]
    going_on = replace(
        done, id="d3", command="c2", what="memory normal -> low", state="going_on", text=None
    )
    stage.services.outcome = (done, replace(going_on, step=None))
    await override_asks(stage, pilot)
    await press(pilot, "y")
    stage.app.clear_notifications()
    await settle(pilot)


OVERRIDES: dict[str, Drive] = {
    "override": override,
    "override_refused": override_refused,
    "override_asks": override_asks,
    "override_done": override_done,
}


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("scene", OVERRIDES)
def test_override(snap_compare: Compare, scene: str, size: tuple[int, int]) -> None:
    _, stage = live()
    assert look(snap_compare, stage, OVERRIDES[scene], size)


@pytest.mark.parametrize("theme", ["planner-light", "planner-contrast", "nord"])
def test_override_in_other_themes(snap_compare: Compare, theme: str) -> None:
    _, stage = live()
    stage.make(theme=theme, run_id="r-7f3k")
    assert look(snap_compare, stage, override, NARROW)


def test_override_in_ascii(snap_compare: Compare) -> None:
    _, stage = live()
    stage.make(ascii=True, run_id="r-7f3k")
    assert look(snap_compare, stage, override, NARROW)


def test_too_small(snap_compare: Compare, stage: Stage) -> None:
    assert look(snap_compare, stage, job, (60, 20))
