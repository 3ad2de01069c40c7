"""What Probes shows, folded from the events of an estimate."""

from __future__ import annotations

from dataclasses import replace

from support.recorded import sample_estimate

from planner.core.types import ProbeResult
from planner.store.codec import to_json
from planner.tui.probe_board import ProbeBoard

PROBES = sample_estimate().probes


def queued(board: ProbeBoard, *probes: ProbeResult) -> None:
    for index, probe in enumerate(probes, 1):
        shape = {"resources": to_json(probe.resources), "knobs": to_json(probe.knobs)}
        board.take("probe.queued", {"id": probe.id, "index": index, **shape})


def finished(board: ProbeBoard, probe: ProbeResult, **more: object) -> None:
    board.take("probe.finished", {"id": probe.id, "probe": to_json(probe), **more})


def test_a_probe_goes_from_queued_over_running_to_measured() -> None:
    board = ProbeBoard(state="running")
    queued(board, *PROBES)
    assert [row.state for row in board.rows.values()] == ["queued"] * 3
    first = PROBES[0]
    board.take("probe.started", {"id": first.id, "steps_total": 35})
    board.take("probe.progress", {"id": first.id, "phase": "measuring", "step": 7})
    assert board.current is not None
    assert (board.current.id, board.current.fraction) == (first.id, 0.2)
    finished(board, first)
    row = board.rows[first.id]
    assert row.state == "ok"
    assert row.step_s == first.step_time_s[0]
    assert row.samples_per_s == 64 / first.step_time_s[0]
    assert board.current is None
    assert board.ended == 1


def test_values_that_are_not_known_yet_leave_the_old_ones() -> None:
    board = ProbeBoard()
    queued(board, PROBES[0])
    board.take("probe.progress", {"id": PROBES[0].id, "step": 3, "memory_bytes": 10})
    board.take("probe.progress", {"id": PROBES[0].id, "step": 4, "memory_bytes": None})
    row = board.rows[PROBES[0].id]
    assert (row.step, row.memory_bytes) == (4, 10)


def test_a_failed_probe_keeps_its_reason_and_its_log() -> None:
    board = ProbeBoard()
    failed = replace(
        PROBES[0], state="failed", step_time_s=(), error="exit code 1", log=("Traceback",)
    )
    finished(board, failed)
    row = board.rows[failed.id]
    assert (row.state, row.error, row.log) == ("failed", "exit code 1", ("Traceback",))
    assert row.samples_per_s is None


def test_a_skip_ends_one_probe_and_no_more() -> None:
    board = ProbeBoard(state="running")
    queued(board, *PROBES)
    board.take("probe.started", {"id": PROBES[0].id, "steps_total": 35})
    assert not board.is_set()
    board.skipping = PROBES[0].id
    assert board.is_set()
    finished(board, replace(PROBES[0], state="skipped", step_time_s=()))
    assert not board.is_set()
    board.stopping = True
    assert board.is_set()


def test_probes_that_were_reused_cost_nothing_now() -> None:
    board = ProbeBoard(state="running")
    finished(board, PROBES[1])
    finished(board, PROBES[2], reused=True)
    board.take_estimate(sample_estimate())
    assert set(board.rows) == {probe.id for probe in PROBES}
    assert board.rows[PROBES[0].id].reused
    assert board.cost_usd == PROBES[1].cost_usd


def test_events_of_other_kinds_are_passed_over() -> None:
    board = ProbeBoard()
    board.take("estimate.started", {"id": "x"})
    board.take("probe.progress", {"step": 3})
    assert board.rows == {}
