"""A real supervisor process that ends itself with kill -9 at a place of the test's choice.

    python -m tests.support.dyingsupervisor STATE_DIR RUN_ID PLACE[@COUNT]

PLACE is `stage` (while the SDK is staged), `handle` (workers run, their handle is not written
yet), or an event type: right after the journal took the COUNT-th of them.
"""

from __future__ import annotations

import os
import signal
import sys

from planner.services.supervisor import launcher as supervisor_launcher
from planner.services.supervisor import process as supervisor
from planner.store.journal import Journal


def die(*_args: object, **_keywords: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    state_dir, run_id, where = sys.argv[1:]
    place, _, count = where.partition("@")
    left = int(count or 1)
    if place == "stage":
        supervisor.stage_sdk = die  # type: ignore[assignment]
    elif place == "handle":
        supervisor_launcher.save = die
    else:
        append = Journal.append

        def dying(self, kind, data, **more):  # type: ignore[no-untyped-def]
            nonlocal left
            event = append(self, kind, data, **more)
            left -= kind == place
            if left == 0:
                die()
            return event

        Journal.append = dying  # type: ignore[method-assign]
    return supervisor.main(["--state-dir", state_dir, "--run", run_id])


if __name__ == "__main__":
    sys.exit(main())
