"""What the SDK raises into a training script, and the exit codes it ends one with."""

from __future__ import annotations

import sys

EXIT_FINISHED = 0
EXIT_NOT_SAVED = 74  # asked to stop, but the checkpoint could not be written (sysexits: EX_IOERR)
EXIT_STOPPED = 75  # checkpointed on request, run me again (sysexits: EX_TEMPFAIL)


class SdkError(RuntimeError):
    """The script asks for something that cannot be done; the text says what to change."""


def tell(text: str) -> None:
    """Say something to the person who reads the job's output."""
    print(f"planner: {text}", file=sys.stderr, flush=True)
