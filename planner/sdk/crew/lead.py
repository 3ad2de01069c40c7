"""What the leader decides: which generation comes next, and who is in it.

On the network's thread, like everything of the coordinator's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from planner.sdk.crew.board import Board
from planner.sdk.crew.group import Store
from planner.sdk.crew.lines import Network
from planner.sdk.crew.peers import Peers
from planner.sdk.crew.plan import CrewFolder, Member, Plan
from planner.sdk.crew.preparing import Preparation

_GRACE_S = 5.0
"""What members get after a generation began before those are looked for that are not connected."""


class Lead:
    """The deciding side of one worker: at work while it leads, ready for when it takes over.

    Attributes:
        plan: The generation that training is in; None before the first.
        seen: The highest number of a generation that was heard of.
        lost: Workers that died or were cut off.
        gone: Workers that said that they leave.
    """

    def __init__(
        self,
        *,
        me: Member,
        network: Network,
        peers: Peers,
        folder: CrewFolder,
        board: Board,
        preparation: Preparation,
        expel: Callable[[], None],
    ) -> None:
        """`expel` is called when the others went on without this worker."""
        self.plan: Plan | None = None
        self.seen = 0
        self.lost: set[int] = set()
        self.gone: set[int] = set()
        self._me = me
        self._network = network
        self._peers = peers
        self._folder = folder
        self._board = board
        self._next = preparation
        self._expel = expel
        self._store = Store(me.host)
        self._awaited = 0
        self._wanted: tuple[tuple[int, ...], str | None] | None = None
        self._told: set[int] = set()
        self._broken_generation = 0
        self._entered_s = 0.0

    @property
    def at_work(self) -> bool:
        """Whether this worker decides: it leads, or took over and the others are on their way."""
        plan = self._next.plan
        if plan is not None and plan.recovers:
            return plan.members[0].worker == self._me.worker
        return self.plan is not None and self.plan.members[0].worker == self._me.worker

    # ---- beginning

    def await_first(self, workers: int) -> None:
        """Begin with so many workers, once all have turned to this one."""
        self._awaited = workers
        self.seen = 1
        alone = Plan(generation=1, members=(self._me,), everyone=(self._me.worker,))
        self._folder.claim(alone, self._me)
        self.here()

    def begin_alone(self) -> None:
        """Begin as the only worker of a job that is at work already."""
        number = self._folder.newest() + 1
        plan = Plan(generation=number, members=(self._me,), everyone=(self._me.worker,))
        if self._folder.claim(plan, self._me):
            self.plan, self.seen = plan, number
            self._board.note()
        else:
            self._expel()

    def here(self) -> None:
        """A worker has turned to this one."""
        if self._awaited:
            self._begin_when_all_are_here()
        else:
            self.consider()

    def _begin_when_all_are_here(self) -> None:
        here = self._peers.addresses
        if len(here) < self._awaited or self.plan is not None:
            return
        members = tuple(here[worker] for worker in sorted(here))
        self._awaited = 0
        self._propose(members, new=(), recovers=True)

    def entered(self, plan: Plan) -> None:
        """The training loop is in this generation now."""
        self.plan = plan
        self._told |= set(plan.lost)
        self._entered_s = time.monotonic()

    def heard_of(self, plan: Plan) -> None:
        """Another worker leads, and told of this plan."""
        self.seen = max(self.seen, plan.generation)
        self.lost |= set(plan.lost)  # if this worker takes over, it waits for none of them

    def broke(self, generation: int) -> None:
        """A collective of that generation failed for one of its workers."""
        self._broken_generation = max(self._broken_generation, generation)

    def close(self) -> None:
        """Nobody meets through this worker any more."""
        self._store.close()

    # ---- what is wanted

    def want(self, crew: Sequence[int], asked: str | None) -> None:
        """These workers are wanted, in the name of that adjustment."""
        self._wanted = (tuple(crew), asked)
        plan = self._next.plan
        pending = plan is not None and not self._next.ordered and not plan.recovers
        if plan is not None and pending and set(plan.workers) != set(crew):
            self._withdraw(plan)
        self.consider()

    def consider(self) -> None:
        """Propose what is wanted, once all of it are here."""
        if self._next.plan is not None or self._wanted is None or not self.at_work:
            return
        crew, asked = self._wanted
        now = self.plan.workers if self.plan is not None else ()
        if set(crew) == set(now) or any(worker not in self._peers for worker in crew):
            return
        stay = [w for w in now if w in crew]
        new = [w for w in crew if w not in now]
        members = tuple(self._peers.addresses[w] for w in (*stay, *new))
        self._propose(members, new=tuple(new), asked=asked)

    def _propose(
        self,
        members: tuple[Member, ...],
        *,
        new: tuple[int, ...],
        recovers: bool = False,
        asked: str | None = None,
    ) -> None:
        before = self.plan.workers if self.plan is not None and not recovers else ()
        everyone = tuple(dict.fromkeys((*before, *(member.worker for member in members))))
        known = self._peers.addresses
        plan = Plan(
            generation=self.seen + 1,
            members=members,
            everyone=everyone,
            hosts=tuple(sorted({known[w].host for w in everyone if w in known})),
            new=new,
            store=self._store.address,
            recovers=recovers,
            lost=tuple(sorted(self.lost - self.gone - self._told)) if recovers else (),
            id=asked,
        )
        claimed = self._claim(plan)
        if claimed is None:
            self._expel()
            return
        plan = claimed
        self._peers.tell(plan.everyone, {"type": "plan", **plan.as_json()})
        self._next.start(plan, cuts=recovers and self.plan is not None)

    def _claim(self, plan: Plan) -> Plan | None:
        """The plan under the next number that is free; None when others went on without this one.

        A number that is taken was claimed since this worker last heard of anything. If all that it
        names are gone, its plan never came about; if not, or if nobody can tell, the job is theirs.
        """
        while not self._folder.claim(plan, self._me):
            others = self._folder.involved(plan.generation)
            if self._folder.over or any(
                not self._network.refuses(member.host, member.port)
                for member in others
                if member.worker != self._me.worker
            ):
                return None
            plan = replace(plan, generation=plan.generation + 1)
        self.seen = plan.generation
        return plan

    def _withdraw(self, plan: Plan) -> None:
        self._next.discard()
        self._peers.tell(plan.everyone, {"type": "withdraw", "generation": plan.generation})

    # ---- who is missing

    def missed(self, worker: int) -> None:
        """A worker's connection to this one, the leader, is gone."""
        if worker in self.gone or not self.at_work:
            return
        if self.plan is not None and worker in self.plan.workers:
            self.lose(worker)
            self.recover()
        elif self._next.holds(worker):
            self.do_without(worker)

    def do_without(self, worker: int) -> None:
        """A worker of the generation on its way will not come."""
        plan = self._next.plan
        if plan is not None and self._next.committed:
            self.lose(worker)
            self.recover()
        elif plan is not None:
            self._withdraw(plan)

    def look_for_the_missing(self, plan: Plan) -> None:
        """Every half second: is all of the generation that training is in still here?"""
        newest = self._next.generation if self._next.committed else plan.generation
        if self._broken_generation >= newest:
            self.recover()  # nobody is lost, but a collective failed: all meet again
        elif self._next.plan is not None:
            return
        elif time.monotonic() - self._entered_s > _GRACE_S:
            missing = [worker for worker in plan.workers if worker not in self._peers]
            for worker in missing:
                self.lose(worker)
            if missing:
                self.recover()

    def recover(self) -> None:
        """Go on with whoever is left."""
        base = list(self.plan.members) if self.plan is not None else []
        plan = self._next.plan
        if plan is not None and self._next.committed:
            base += [m for m in plan.members if m not in base]
        self._next.discard()
        away = self.lost | self.gone
        alive = [m for m in base if m.worker in self._peers and m.worker not in away]
        alive.sort(key=lambda member: member.worker != self._me.worker)
        self._propose(tuple(alive), new=(), recovers=True)

    def lose(self, worker: int) -> None:
        """A worker died, or nothing was heard of it for too long."""
        self.lost.add(worker)
        self._peers.forget(worker)

    # ---- the generation on its way

    def prepared(self, worker: int, generation: int) -> None:
        """A worker has connected its part."""
        plan = self._next.plan
        if plan is None or plan.generation != generation:
            return
        self._next.prepared.add(worker)
        if not plan.recovers and self._next.prepared >= set(plan.everyone):
            self._board.note(ready=plan)

    def unprepared(self, generation: int, why: str) -> None:
        """A worker cannot connect: the plan cannot be. What was wanted is not tried again."""
        plan = self._next.plan
        if plan is None or plan.generation != generation:
            return
        if plan.recovers:
            self.recover()
            return
        self._withdraw(plan)
        self._wanted = None
        if plan.id is not None:
            self._board.note(refused={**self._board.refused, plan.id: why})
