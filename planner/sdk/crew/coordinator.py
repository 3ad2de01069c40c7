"""How workers find each other, agree on the next generation, and notice a loss.

Runs on the network's thread. One worker, the leader, decides; the others keep a connection to it.
When it is lost the first of the others that still lives takes its place: each connects to those
before it, in order, and whoever finds nobody leads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from planner.sdk.crew.board import Board, Order
from planner.sdk.crew.group import Store
from planner.sdk.crew.lines import Line, Message, Network
from planner.sdk.crew.peers import Peers
from planner.sdk.crew.plan import CrewFolder, Member, Plan
from planner.sdk.crew.preparing import Preparation

_GATHER_S = 5.0
"""What the others get to turn to a worker that takes over."""


class Coordinator:
    """One worker's side of the crew.

    Args:
        worker: This worker's number.
        host: Address that its peers reach it at.
        folder: Shared by all workers of the attempt.
        device: What gradients are reduced on.
        board: For the training loop.
        silence_s: How long a peer that says nothing counts as alive.
    """

    def __init__(
        self,
        *,
        worker: int,
        host: str,
        folder: CrewFolder,
        device: Any,
        board: Board,
        silence_s: float,
    ) -> None:
        self.network = Network(host, self)
        self.me = Member(worker, host, self.network.port)
        self.plan: Plan | None = None
        self._folder = folder
        self._board = board
        self._peers = Peers(self.me, self.network, folder.secret(), silence_s)
        self._store = Store(host)
        self._next = Preparation(
            self.me, device, board, self.network, done=self._ready, failed=self._not_ready
        )
        self._awaited = 0
        self._joins = False
        self._wanted: tuple[tuple[int, ...], str | None] | None = None
        self._seen = 0
        self._gone: set[int] = set()
        self._lost: set[int] = set()
        self._told: set[int] = set()
        self._takeover_until_s: float | None = None
        self._broken_generation = 0
        self._entered_s = 0.0
        self._leaving = False

    # ---- what the training loop asks for; each call through `network.do`

    def gather(self, workers: int) -> None:
        """Begin: worker 0 waits for the others, they turn to it."""
        self._awaited = workers
        if self.me.worker == 0:
            self._seen = 1
            self._folder.claim(
                Plan(generation=1, members=(self.me,), everyone=(self.me.worker,)), self.me
            )
            self._begin_when_all_are_here()
        else:
            self._joins = True
            self._seek_crew()

    def lead_alone(self) -> None:
        """Begin as the only worker of a job that is at work already."""
        number = self._folder.newest() + 1
        plan = Plan(generation=number, members=(self.me,), everyone=(self.me.worker,))
        if self._folder.claim(plan, self.me):
            self.plan, self._seen = plan, number
            self._board.note()
        else:
            self._expel()

    def join(self) -> None:
        """Begin as a worker that wants to join."""
        self._joins = True
        self._seek_crew()

    def want(self, crew: Sequence[int], asked: str | None) -> None:
        """These workers are wanted, in the name of that adjustment."""
        self._wanted = (tuple(crew), asked)
        plan = self._next.plan
        pending = plan is not None and not self._next.ordered and not plan.recovers
        if plan is not None and pending and set(plan.workers) != set(crew):
            self._withdraw(plan)
        self._consider()

    def give(self, order: Order) -> None:
        """Tell everyone an order."""
        self._next.order(order.plan)
        for line in self._peers:
            line.send({"type": "order", **order.as_json()})

    def entered(self, plan: Plan) -> None:
        """The training loop is in this generation now."""
        self.plan = plan
        self._told |= set(plan.lost)
        self._joins = False
        self._entered_s = time.monotonic()
        self._next.entered(plan.generation)
        leader = plan.members[0]
        if leader.worker == self.me.worker:
            self._peers.leader = None
            self._consider()
        elif self._peers.leader is None or self._peers.leader.worker != leader.worker:
            self._peers.turn_to(leader, joins=False)

    def broke(self, generation: int) -> None:
        """A collective of the training loop failed."""
        if self._leads():
            self._broken_generation = max(self._broken_generation, generation)
        else:
            self._peers.tell_leader({"type": "broken", "generation": generation})

    def wish_stop(self, reason: str) -> None:
        """Ask the leader to have all stop."""
        self._peers.tell_leader({"type": "wish", "reason": reason})

    def about_to_leave(self, leaves: bool) -> None:
        """Whether this worker is on its way out, so that who drops it is not missed."""
        self._leaving = leaves
        if leaves:
            return
        for worker in self.plan.workers if self.plan is not None else ():
            if self._leads() and worker not in self._peers:
                self._missed(worker)
        if not self._leads() and self._peers.leader is None:
            self._seek_leader()

    def part(self, *, over: bool) -> None:
        """This worker leaves, or training is `over`: say so, and miss nobody from now on."""
        self._leaving = True
        members = set(self.plan.workers) if self.plan is not None else set()
        if over:
            self._folder.finish()
        for line in self._peers:
            line.send({"type": "over" if over and line.worker not in members else "bye"})
        self._peers.tell_leader({"type": "bye"})
        self._next.discard()
        self._store.close()

    # ---- what the network tells

    def heard(self, line: Line, message: Message) -> None:
        """A message came; of a stranger only one that knows the secret."""
        if line.worker is None:
            if self._peers.admits(line, message):
                self._greet(line, message)
            else:
                self.network.drop(line)
        elif line.expects:
            if not self._peers.is_welcome(line, message):
                self.network.drop(line)
                self.lost(line)
        else:
            self._handle(line, message)

    def _handle(self, line: Line, message: Message) -> None:
        handler: Callable[[Line, Message], None] | None
        handler = getattr(self, f"_on_{message.get('type')}", None)
        if handler is not None:
            handler(line, message)

    def lost(self, line: Line) -> None:
        """A connection is gone."""
        if self._leaving or line.worker is None:
            return
        if line is self._peers.leader:
            self._peers.leader = None
            if self._joins:
                self._next.discard()  # turned to again at the next tick, whoever leads then
            else:
                self._lose(line.worker)
                self._seek_leader()
        elif self._peers.lose(line):
            self._missed(line.worker)

    def tick(self) -> None:
        """Every half second: say that this worker lives, see who does not."""
        now_s = time.monotonic()
        if self._leaving:
            return
        if self._joins and self._peers.leader is None:
            if self._folder.over:
                self._board.note(over=True)
            self._seek_crew()
        for line in self._peers.silent():
            self.network.drop(line)
            self.lost(line)
        if self._takeover_until_s is not None:
            if now_s > self._takeover_until_s:
                self._take_over()
        elif self.plan is not None and self._leads():
            self._look_for_the_missing(self.plan, now_s)
        elif self.plan is not None and self._peers.leader is None and self._next.plan is None:
            self._seek_leader()

    # ---- finding each other

    def _leads(self) -> bool:
        """Whether this worker decides: it leads, or took over and the others are on their way."""
        plan = self._next.plan
        if plan is not None and plan.recovers:
            return plan.members[0].worker == self.me.worker
        return self.plan is not None and self.plan.members[0].worker == self.me.worker

    def _seek_crew(self) -> None:
        """Turn to whoever leads, if there is somebody yet, or to one who can say who does."""
        for member in self._folder.known():
            if member.worker != self.me.worker and self._peers.turn_to(member, joins=True):
                return

    def _greet(self, line: Line, message: Message) -> None:
        worker, host, port = message["member"]
        line.worker = int(worker)
        known = self.plan is not None and worker in self.plan.workers
        if worker in self._lost or not (known or message["joins"] or self._next.holds(worker)):
            line.send({"type": "expelled"})
            return
        if message["joins"] and self.plan is not None and not self._leads():
            line.send({"type": "leader", "member": list(self.plan.members[0])})
            return
        self._peers.keep(line, Member(int(worker), str(host), int(port)))
        if self._awaited:
            self._begin_when_all_are_here()
        elif self._takeover_until_s is not None:
            self._take_over_when_all_are_here()
        else:
            self._consider()

    def _begin_when_all_are_here(self) -> None:
        here = self._peers.addresses
        if len(here) < self._awaited or self.plan is not None:
            return
        members = tuple(here[worker] for worker in sorted(here))
        self._awaited = 0
        self._propose(members, new=(), recovers=True)

    # ---- the leader's part

    def _consider(self) -> None:
        """Propose what is wanted, once all of it are here."""
        if self._next.plan is not None or self._wanted is None or not self._leads():
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
            generation=self._seen + 1,
            members=members,
            everyone=everyone,
            hosts=tuple(sorted({known[w].host for w in everyone if w in known})),
            new=new,
            store=self._store.address,
            recovers=recovers,
            lost=tuple(sorted(self._lost - self._gone - self._told)) if recovers else (),
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
        while not self._folder.claim(plan, self.me):
            others = self._folder.involved(plan.generation)
            if self._folder.over or any(
                not self.network.refuses(member.host, member.port)
                for member in others
                if member.worker != self.me.worker
            ):
                return None
            plan = replace(plan, generation=plan.generation + 1)
        self._seen = plan.generation
        return plan

    def _withdraw(self, plan: Plan) -> None:
        self._next.discard()
        self._peers.tell(plan.everyone, {"type": "withdraw", "generation": plan.generation})

    def _missed(self, worker: int) -> None:
        """A worker's connection to this one, the leader, is gone."""
        if worker in self._gone or not self._leads():
            return
        if self.plan is not None and worker in self.plan.workers:
            self._lose(worker)
            self._recover()
        elif self._next.holds(worker):
            self._do_without(worker)

    def _do_without(self, worker: int) -> None:
        """A worker of the generation on its way will not come."""
        plan = self._next.plan
        if plan is not None and self._next.committed:
            self._lose(worker)
            self._recover()
        elif plan is not None:
            self._withdraw(plan)

    def _look_for_the_missing(self, plan: Plan, now_s: float) -> None:
        newest = self._next.generation if self._next.committed else plan.generation
        if self._broken_generation >= newest:
            self._recover()  # nobody is lost, but a collective failed: all meet again
        elif self._next.plan is not None:
            return
        elif now_s - self._entered_s > _GATHER_S:
            missing = [worker for worker in plan.workers if worker not in self._peers]
            for worker in missing:
                self._lose(worker)
            if missing:
                self._recover()

    def _recover(self) -> None:
        """Go on with whoever is left."""
        base = list(self.plan.members) if self.plan is not None else []
        plan = self._next.plan
        if plan is not None and self._next.committed:
            base += [m for m in plan.members if m not in base]
        self._next.discard()
        away = self._lost | self._gone
        alive = [m for m in base if m.worker in self._peers and m.worker not in away]
        alive.sort(key=lambda member: member.worker != self.me.worker)
        self._propose(tuple(alive), new=(), recovers=True)

    def _lose(self, worker: int) -> None:
        self._lost.add(worker)
        self._peers.forget(worker)

    # ---- when the leader is lost

    def _seek_leader(self) -> None:
        """Turn to the first member before this one that still lives, or take over."""
        for member in self.plan.members if self.plan is not None else ():
            if member.worker == self.me.worker:
                break
            if member.worker not in self._lost and self._peers.turn_to(member, joins=False):
                return
            self._lost.add(member.worker)
        self._takeover_until_s = time.monotonic() + _GATHER_S
        self._take_over_when_all_are_here()

    def _take_over_when_all_are_here(self) -> None:
        plan = self.plan
        others = plan.workers if plan is not None else ()
        if all(worker in self._peers for worker in others if worker not in self._lost):
            self._take_over()

    def _take_over(self) -> None:
        self._takeover_until_s = None
        for worker in self.plan.workers if self.plan is not None else ():
            if worker not in self._peers:
                self._lost.add(worker)
        self._recover()

    # ---- messages

    def _on_ping(self, _line: Line, _message: Message) -> None:
        """That it came is all there is to it."""

    def _on_plan(self, _line: Line, message: Message) -> None:
        plan = Plan.of_json(message)
        self._seen = max(self._seen, plan.generation)
        now = self.plan.generation if self.plan is not None else 0
        if plan.generation > max(self._next.generation, now):
            self._next.discard()
            self._next.start(plan, cuts=plan.recovers and self.plan is not None)

    def _on_withdraw(self, _line: Line, message: Message) -> None:
        if self._next.generation == message["generation"]:
            self._next.discard()

    def _on_prepared(self, line: Line, message: Message) -> None:
        if line.worker is not None:
            self._prepared(line.worker, int(message["generation"]))

    def _on_unprepared(self, _line: Line, message: Message) -> None:
        self._unprepared(int(message["generation"]), str(message["why"]))

    def _on_order(self, line: Line, message: Message) -> None:
        fields = {name: message[name] for name in Order.__slots__}
        order = Order(**fields)
        self._next.order(order.plan)
        self._board.note(order=order)
        line.send({"type": "ack", "number": order.number})

    def _on_ack(self, line: Line, message: Message) -> None:
        order = self._board.order
        if order is not None and order.number == message["number"]:
            self._board.note(acknowledged=self._board.acknowledged | {line.worker})

    def _on_broken(self, _line: Line, message: Message) -> None:
        self._broken_generation = max(self._broken_generation, int(message["generation"]))

    def _on_wish(self, _line: Line, message: Message) -> None:
        self._board.note(stop_wished=str(message["reason"]))

    def _on_bye(self, line: Line, _message: Message) -> None:
        if line.worker is not None:
            self._gone.add(line.worker)
            if line is self._peers.leader:
                self._peers.leader = None
            self._peers.lose(line)
        self.network.drop(line)
        if line.worker is not None and self._leads() and self._next.holds(line.worker):
            self._do_without(line.worker)

    def _on_leader(self, _line: Line, message: Message) -> None:
        worker, host, port = message["member"]
        if self._joins and worker != self.me.worker:
            self._peers.turn_to(Member(int(worker), str(host), int(port)), joins=True)

    def _on_over(self, _line: Line, _message: Message) -> None:
        self._board.note(over=True)

    def _on_expelled(self, _line: Line, _message: Message) -> None:
        self._expel()

    def _expel(self) -> None:
        self._next.cut()
        self._board.note(expelled=True)

    # ---- the generation on its way

    def _ready(self, plan: Plan) -> None:
        """This worker's part of it is connected."""
        if not self._peers.tell_leader({"type": "prepared", "generation": plan.generation}):
            self._prepared(self.me.worker, plan.generation)

    def _not_ready(self, plan: Plan, why: str) -> None:
        message = {"type": "unprepared", "generation": plan.generation, "why": why}
        if not self._peers.tell_leader(message):
            self._unprepared(plan.generation, why)

    def _prepared(self, worker: int, generation: int) -> None:
        plan = self._next.plan
        if plan is None or plan.generation != generation:
            return
        self._next.prepared.add(worker)
        if not plan.recovers and self._next.prepared >= set(plan.everyone):
            self._board.note(ready=plan)

    def _unprepared(self, generation: int, why: str) -> None:
        """A worker cannot connect: the plan cannot be. What was wanted is not tried again."""
        plan = self._next.plan
        if plan is None or plan.generation != generation:
            return
        if plan.recovers:
            self._recover()
            return
        self._withdraw(plan)
        self._wanted = None
        if plan.id is not None:
            self._board.note(refused={**self._board.refused, plan.id: why})
