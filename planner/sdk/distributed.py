"""What the workers of one job agree on: over planner's own groups, or over the script's."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from planner.sdk.crew.crew import Crew, Expelled, Standing
from planner.sdk.crew.group import Group, GroupBroken
from planner.sdk.errors import EXIT_STOPPED, SdkError, tell


def script_joins() -> bool:
    """Whether the script has made a process group of its own."""
    torch: Any = sys.modules.get("torch")
    distributed: Any = torch.distributed if torch is not None else None
    return bool(
        distributed is not None and distributed.is_available() and distributed.is_initialized()
    )


class Workers:
    """This worker and its peers. With a single worker nothing is sent.

    Args:
        rank: Of this worker, in a group that the script made.
        count: Workers of the script's group.
        crew: Joins the workers instead; who is in it may change at step boundaries.
    """

    def __init__(self, rank: int, count: int, crew: Crew | None = None) -> None:
        self._crew = crew
        self._rank, self._count = rank, count
        self._code: int | None = None
        self._own: Group | None = None
        self._dist: Any = None
        if crew is None and count > 1:
            self._own = self._script_group(rank, count)
        if crew is not None or count > 1:
            atexit.register(self._end)

    @property
    def rank(self) -> int:
        """This worker's place among them."""
        return self._crew.rank if self._crew is not None else self._rank

    @property
    def count(self) -> int:
        """How many there are."""
        return self._crew.size if self._crew is not None else self._count

    @property
    def leads(self) -> bool:
        """Whether this worker speaks and writes for all."""
        return (self._rank if self._crew is None else self._crew.rank) == 0

    @property
    def _group(self) -> Group | None:
        return self._crew.group if self._crew is not None else self._own

    def highest(self, values: Sequence[int]) -> list[int]:
        """The largest over all workers, place by place."""
        group = self._group
        return list(values) if group is None else group.highest(values)

    def collect(self, blob: bytes) -> list[bytes]:
        """Everyone's bytes, by rank."""
        group = self._group
        return [blob] if group is None else group.gather(blob)

    def from_leader(self, text: str) -> str:
        """The leader's text, on every worker."""
        return self.collect(text.encode() if self.leads else b"")[0].decode()

    def leave(self) -> None:
        """Meet the others once more, then give up the process group."""
        if self._crew is not None:
            with contextlib.suppress(GroupBroken):  # whoever is lost now would have left as well
                self.highest([0])
            self._crew.part()
        elif self._own is not None and self._dist.is_initialized():
            self.highest([0])
            self._own = None
            self._dist.destroy_process_group()

    def meet_again(self) -> Standing | None:
        """Before training: a worker was lost, go on with whoever is left.

        Returns:
            Where those stand that train already, whose state this worker has now; None when all
            are at the beginning.

        Raises:
            SdkError: The script joins its workers, or no way to go on was found.
            SystemExit: 75, the others went on without this worker.
        """
        if self._crew is None:
            raise SdkError("a collective failed and planner does not join these workers")
        try:
            return self._crew.meet_again()
        except Expelled:
            tell("the other workers went on without this one: it leaves, and saves nothing")
            self.exit(EXIT_STOPPED)

    def exit(self, code: int) -> NoReturn:
        """End the script with this exit code, whatever native threads do at the very end."""
        self._code = code
        raise SystemExit(code)

    def _end(self) -> None:
        # Registered at attach, hence after whatever the script registers later. A thread of the
        # communication library that still lives when its objects are destroyed aborts the process
        # ("terminate called without an active exception"), and the exit code is lost.
        if self._code is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._code)

    def _script_group(self, rank: int, count: int) -> Group:
        if not script_joins():
            raise SdkError(
                f"WORLD_SIZE is {count}, but planner cannot join these workers: give attach() the "
                "model and the optimizer, or call torch.distributed.init_process_group() before it"
            )
        torch: Any = sys.modules["torch"]
        self._dist = torch.distributed
        if self._dist.get_world_size() != count:
            raise SdkError(
                f"WORLD_SIZE is {count}, but the process group has {self._dist.get_world_size()}"
            )
        device = torch.device("cuda" if self._dist.get_backend() == "nccl" else "cpu")
        return Group(self._dist.group.WORLD, rank, count, device)
