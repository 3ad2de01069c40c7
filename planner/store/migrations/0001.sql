-- One row a run, made from its journal. `journal_bytes` and `journal_mtime_ns` tell whether the
-- row is still what the journal says.
CREATE TABLE runs (
  run_id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL,
  state TEXT NOT NULL,
  created_at TEXT NOT NULL,
  spent_microusd INTEGER NOT NULL,
  journal_bytes INTEGER NOT NULL,
  journal_mtime_ns INTEGER NOT NULL,
  summary TEXT NOT NULL
) STRICT;
CREATE INDEX runs_by_age ON runs (created_at DESC, run_id);
CREATE INDEX runs_by_name ON runs (name);
