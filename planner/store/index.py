"""An index of runs in SQLite: a cache of what the journals say, never the truth.

A row is good as long as its journal has the size and time it was made from. A database that is
missing, damaged, of another version or locked for too long is made anew or done without; nothing
is lost by that. On network file systems SQLite keeps its rollback journal, as its write-ahead log
needs shared memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from planner.core.errors import StoreError
from planner.store.layout import on_network_disk

BUSY_TIMEOUT_MS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """What the index keeps of a run; `summary` is JSON that the caller gave."""

    run_id: str
    name: str
    state: str
    created_at: str
    spent_microusd: int
    journal_bytes: int
    journal_mtime_ns: int
    summary: str


_COLUMNS = tuple(IndexRow.__dataclass_fields__)


def migrations() -> tuple[str, ...]:
    """The numbered SQL files, in order; their count is the schema's version."""
    folder = resources.files("planner.store") / "migrations"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".sql"))
    return tuple((folder / name).read_text() for name in names)


class RunIndex:
    """The index database of one state directory.

    Args:
        path: The database file; made when missing.
        network_disk: Whether it is on a network file system; None finds out.
    """

    def __init__(self, path: Path, *, network_disk: bool | None = None) -> None:
        self.path = path
        self.rebuilt = False
        self._network = on_network_disk(path.parent) if network_disk is None else network_disk

    def rows(self) -> dict[str, IndexRow]:
        """All rows by run id. Raises `StoreError`."""
        with self._open() as db:
            found = db.execute(f"SELECT {', '.join(_COLUMNS)} FROM runs").fetchall()  # noqa: S608
        return {row[0]: IndexRow(**dict(zip(_COLUMNS, row, strict=True))) for row in found}

    def put(self, *rows: IndexRow) -> None:
        """Insert or replace rows. Raises `StoreError`."""
        marks = ", ".join("?" for _ in _COLUMNS)
        sql = f"INSERT OR REPLACE INTO runs ({', '.join(_COLUMNS)}) VALUES ({marks})"  # noqa: S608
        with self._open() as db, db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(sql, [tuple(getattr(row, c) for c in _COLUMNS) for row in rows])

    def forget(self, *run_ids: str) -> None:
        """Remove rows of runs that are gone. Raises `StoreError`."""
        with self._open() as db, db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("DELETE FROM runs WHERE run_id = ?", [(run_id,) for run_id in run_ids])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection to a database of this version, made anew when the old one is no good."""
        try:
            db = self._connect()
        except sqlite3.OperationalError as error:
            raise self._error(error) from error
        except sqlite3.DatabaseError:
            self._discard()
            try:
                db = self._connect()
            except sqlite3.Error as error:
                raise self._error(error) from error
        try:
            yield db
        except sqlite3.OperationalError as error:
            raise self._error(error) from error
        except sqlite3.DatabaseError as error:
            self._discard()
            raise self._error(error) from error
        finally:
            db.close()

    def _error(self, error: sqlite3.Error) -> StoreError:
        return StoreError(
            f"the index {self.path} cannot be used: {error}",
            hint="it is a cache of the journals and may be removed",
        )

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None)
        try:
            db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            scripts = migrations()
            if version > len(scripts):
                raise sqlite3.DatabaseError(f"made by a later version ({version})")
            if version < len(scripts):
                db.execute(f"PRAGMA journal_mode = {'DELETE' if self._network else 'WAL'}")
                self._migrate(db, scripts)
        except BaseException:
            db.close()
            raise
        return db

    def _migrate(self, db: sqlite3.Connection, scripts: tuple[str, ...]) -> None:
        """Bring the schema up to date in one transaction, safe against a second process."""
        db.execute("BEGIN IMMEDIATE")
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        for number, script in enumerate(scripts[version:], start=version + 1):
            for statement in script.split(";\n"):
                if statement.strip():
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {number}")
        db.execute("COMMIT")

    def _discard(self) -> None:
        """Remove a damaged database with its side files."""
        self.rebuilt = True
        try:
            for suffix in ("", "-wal", "-shm", "-journal"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.path} is damaged and cannot be removed: {error.strerror}",
                hint="remove it by hand; it is made anew from the journals",
            ) from error
