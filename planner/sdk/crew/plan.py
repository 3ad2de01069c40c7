"""Generations: who trains together, and the folder that makes each of them unique.

A generation is claimed by creating its file, which exactly one worker can do. A worker that was
thought dead (stopped, cut off) and comes back finds the next number taken by the others, and
leaves: never do two crews of one attempt train side by side.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from planner.sdk.errors import tell

_PREFIX = "generation-"
_SHARED = "shared"
_OVER = "over"


class Member(NamedTuple):
    """A worker and the address that its peers reach it at."""

    worker: int
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One generation.

    Attributes:
        generation: Its number; grows, with gaps where plans were withdrawn.
        members: Who trains in it, by rank. The first leads.
        everyone: Who takes part in the change to it: also those who leave.
        hosts: Addresses of all of them.
        new: Those of the members that need the state.
        store: Address of the store through which its groups meet.
        recovers: Whether it is entered as soon as it can be, a worker having been lost; otherwise
            at the step that the leader names.
        lost: Workers that were lost.
        id: The adjustment that asked for it.
    """

    generation: int
    members: tuple[Member, ...]
    everyone: tuple[int, ...]
    hosts: tuple[str, ...] = ()
    new: tuple[int, ...] = ()
    store: tuple[str, int] = ("", 0)
    recovers: bool = False
    lost: tuple[int, ...] = ()
    id: str | None = None

    @property
    def workers(self) -> tuple[int, ...]:
        """Worker numbers by rank."""
        return tuple(member.worker for member in self.members)

    @property
    def alone(self) -> bool:
        """Whether nobody takes part but a single worker."""
        return len(self.everyone) == 1

    def rank(self, worker: int) -> int | None:
        """The worker's rank; None when it is no member."""
        workers = self.workers
        return workers.index(worker) if worker in workers else None

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "generation": self.generation,
            "members": [list(member) for member in self.members],
            "everyone": list(self.everyone),
            "hosts": list(self.hosts),
            "new": list(self.new),
            "store": list(self.store),
            "recovers": self.recovers,
            "lost": list(self.lost),
            "id": self.id,
        }

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Plan:
        """The reverse of `as_json`."""
        return cls(
            generation=int(data["generation"]),
            members=tuple(Member(int(w), str(h), int(p)) for w, h, p in data["members"]),
            everyone=tuple(data["everyone"]),
            hosts=tuple(data["hosts"]),
            new=tuple(data["new"]),
            store=(str(data["store"][0]), int(data["store"][1])),
            recovers=bool(data["recovers"]),
            lost=tuple(data["lost"]),
            id=data["id"],
        )


class CrewFolder:
    """The folder that the workers of one attempt share. Each generation is a small file in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Make the folder, for this user alone; one that is there already is closed to others.

        Raises:
            OSError: It cannot be made, or belongs to another user, who could read the secret.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = self.path.stat()
        if os.geteuid() == 0 and there.st_uid != 0:
            return  # in a container, whose user outside is another
        if there.st_uid != os.geteuid():
            raise PermissionError(f"{self.path} belongs to another user (uid {there.st_uid})")
        if stat.S_IMODE(there.st_mode) & 0o077:
            self.path.chmod(0o700)
            if self.path.stat().st_mode & 0o077:  # some file systems do not keep modes
                tell(f"{self.path} is open to other users, who could read the workers' secret")

    def secret(self) -> str:
        """What every worker of the attempt knows, made by whoever asks first."""
        path = self.path / _SHARED
        beside = self._beside(_SHARED)
        if not path.exists():
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(16))
            with contextlib.suppress(FileExistsError):  # another was quicker: its secret counts
                os.link(beside, path)
            os.unlink(beside)
        return path.read_text()

    def claim(self, plan: Plan, leader: Member) -> bool:
        """Take a generation's number for `plan`; False when it is taken.

        Raises:
            OSError: The folder cannot be written.
        """
        content = {"leader": list(leader), **plan.as_json()}
        path = self._file(plan.generation)
        beside = self._beside(path.name)
        beside.write_text(json.dumps(content))
        try:
            os.link(beside, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(beside)
        return True

    def newest(self) -> int:
        """The highest number that was claimed; 0 when none was."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return 0
        numbers = (n.removeprefix(_PREFIX) for n in names if n.startswith(_PREFIX))
        return max((int(number) for number in numbers if number.isdigit()), default=0)

    def known(self) -> list[Member]:
        """Whom to turn to: the worker that claimed the newest generation, then its members."""
        number = self.newest()
        return self.involved(number) if number else []

    def involved(self, generation: int) -> list[Member]:
        """The worker that claimed a generation, then its members."""
        content = json.loads(self._file(generation).read_text())
        found = [content["leader"], *content["members"]]
        members = (Member(int(worker), str(host), int(port)) for worker, host, port in found)
        return list(dict.fromkeys(members))

    def led_by(self, worker: int) -> bool:
        """Whether nobody else took the lead meanwhile: the worker claimed or leads the newest."""
        content = json.loads(self._file(self.newest()).read_text())
        return worker in (content["leader"][0], content["members"][0][0])

    @property
    def over(self) -> bool:
        """Whether training has come to its end."""
        return (self.path / _OVER).exists()

    def finish(self) -> None:
        """Training has come to its end: nobody goes on from where it stood before."""
        with contextlib.suppress(OSError):  # only a worker that was thought dead asks for it
            self.make()
            (self.path / _OVER).touch()

    def _beside(self, name: str) -> Path:
        """Where this worker alone writes what is to be called `name`.

        A process id would not do: workers in containers often have the same.
        """
        return self.path / f".{name}-{secrets.token_hex(8)}"

    def _file(self, generation: int) -> Path:
        return self.path / f"{_PREFIX}{generation:06d}"
