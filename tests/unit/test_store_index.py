"""The index is a cache: it can be lost, broken, old or locked, and nothing is lost by that."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from planner.core.errors import StoreError
from planner.store import index as index_module
from planner.store.index import IndexRow, RunIndex, migrations


def row(run_id="r-1", **changes):
    values = {
        "run_id": run_id,
        "name": "digits",
        "state": "done",
        "created_at": "2026-11-21T12:00:00Z",
        "spent_microusd": 5,
        "journal_bytes": 10,
        "journal_mtime_ns": 1,
        "summary": "{}",
    }
    return IndexRow(**{**values, **changes})


def test_rows_come_back_and_are_replaced_and_forgotten(tmp_path):
    index = RunIndex(tmp_path / "index.sqlite3")
    index.put(row(), row("r-2"))
    index.put(row(state="failed"))
    assert index.rows() == {"r-1": row(state="failed"), "r-2": row("r-2")}
    index.forget("r-1")
    assert list(index.rows()) == ["r-2"]


def test_the_version_is_the_number_of_migrations_and_tables_are_strict(tmp_path):
    index = RunIndex(tmp_path / "index.sqlite3")
    index.put(row())
    with sqlite3.connect(index.path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(migrations()),)
        with pytest.raises(sqlite3.IntegrityError):
            db.execute("UPDATE runs SET spent_microusd = 'much'")


@pytest.mark.parametrize(("network", "mode"), [(True, "delete"), (False, "wal")])
def test_a_network_disk_gets_a_rollback_journal(tmp_path, network, mode):
    index = RunIndex(tmp_path / "index.sqlite3", network_disk=network)
    index.put(row())
    with sqlite3.connect(index.path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == (mode,)


def test_a_damaged_database_is_made_anew(tmp_path):
    index = RunIndex(tmp_path / "index.sqlite3")
    index.put(row())
    index.path.write_bytes(b"this is no database" * 100)
    assert index.rows() == {}
    assert index.rebuilt
    index.put(row())
    assert index.rows() == {"r-1": row()}


def test_a_database_of_a_later_version_is_made_anew(tmp_path):
    index = RunIndex(tmp_path / "index.sqlite3")
    index.put(row())
    with sqlite3.connect(index.path) as db:
        db.execute("PRAGMA user_version = 99")
    assert index.rows() == {}


def test_a_locked_database_is_an_error_and_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "BUSY_TIMEOUT_MS", 10)
    index = RunIndex(tmp_path / "index.sqlite3", network_disk=True)
    index.put(row())
    holder = sqlite3.connect(index.path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked"):
        index.put(row("r-2"))
    holder.execute("ROLLBACK")
    holder.close()
    assert list(index.rows()) == ["r-1"]


def test_a_place_that_cannot_be_written_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="index"):
        RunIndex(tmp_path / "absent" / "index.sqlite3").rows()


def test_many_make_the_index_at_once(tmp_path):
    path = tmp_path / "index.sqlite3"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: RunIndex(path).put(row(f"r-{i}")), range(16)))
    assert len(RunIndex(path).rows()) == 16


def test_a_damaged_database_that_cannot_be_removed_is_a_store_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    path = tmp_path / "index.sqlite3"
    path.write_bytes(b"no database" * 1000)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StoreError, match="cannot be removed"):
        RunIndex(path).rows()


def test_a_database_that_cannot_be_made_anew_is_a_store_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    discard = RunIndex._discard

    def discard_and_block(index: RunIndex) -> None:
        discard(index)
        index.path.mkdir()

    path = tmp_path / "index.sqlite3"
    path.write_bytes(b"no database" * 1000)
    monkeypatch.setattr(RunIndex, "_discard", discard_and_block)
    with pytest.raises(StoreError, match="cannot be used"):
        RunIndex(path).rows()
