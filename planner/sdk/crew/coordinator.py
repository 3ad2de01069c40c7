"""How workers find each other, agree on the next generation, and notice a loss.

Runs on the network's thread. One worker, the leader, decides; the others keep a connection to it.
When it is lost the first of the others that still lives takes its place: each connects to those
before it, in order, and whoever finds nobody leads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from planner.sdk.crew.board import Board, Entry, Order
from planner.sdk.crew.group import Group, Store, build, retire
from planner.sdk.crew.lines import Line, Message, Network
from planner.sdk.crew.plan import CrewFolder, Member, Plan

_PING_S = 2.0
_GATHER_S = 5.0
"""What the others get to turn to a worker that takes over."""


@dataclass(slots=True)
class _Preparing:
    """A generation on its way: who has connected its groups, and whether it was ordered."""

    plan: Plan
    prepared: set[int] = field(default_factory=set)
    ordered: bool = False


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
        self._device = device
        self._board = board
        self._silence_s = silence_s
        self._secret = folder.secret()
        self._store = Store(host)
        self._lines: dict[int, Line] = {}
        self._addresses: dict[int, Member] = {worker: self.me}
        self._leader_line: Line | None = None
        self._preparing: _Preparing | None = None
        self._awaited = 0
        self._joins = False
        self._wanted: tuple[tuple[int, ...], str | None] | None = None
        self._seen = 0
        self._gone: set[int] = set()
        self._lost: set[int] = set()
        self._takeover_until_s: float | None = None
        self._broken_generation = 0
        self._entered_s = 0.0
        self._pinged_s = 0.0
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
        else:
            self._expel()

    def join(self) -> None:
        """Begin as a worker that wants to join."""
        self._joins = True
        self._seek_crew()

    def want(self, crew: Sequence[int], asked: str | None) -> None:
        """These workers are wanted, in the name of that adjustment."""
        self._wanted = (tuple(crew), asked)
        preparing = self._preparing
        if (
            preparing is not None
            and not preparing.ordered
            and not preparing.plan.recovers
            and set(preparing.plan.workers) != set(crew)
        ):
            self._withdraw(preparing.plan)
        self._consider()

    def give(self, order: Order) -> None:
        """Tell everyone an order."""
        if self._preparing is not None and order.plan == self._preparing.plan.generation:
            self._preparing.ordered = True
        for line in tuple(self._lines.values()):
            line.send({"type": "order", **order.as_json()})

    def entered(self, plan: Plan) -> None:
        """The training loop is in this generation now."""
        self.plan = plan
        self._joins = False
        self._entered_s = time.monotonic()
        if self._preparing is not None and self._preparing.plan.generation <= plan.generation:
            self._preparing = None
        leader = plan.members[0]
        if leader.worker == self.me.worker:
            self._leader_line = None
            self._consider()
        elif self._leader_line is None or self._leader_line.worker != leader.worker:
            self._turn_to(leader)

    def broke(self, generation: int) -> None:
        """A collective of the training loop failed."""
        if self._leads():
            self._broken_generation = max(self._broken_generation, generation)
        elif self._leader_line is not None:
            self._leader_line.send({"type": "broken", "generation": generation})

    def wish_stop(self, reason: str) -> None:
        """Ask the leader to have all stop."""
        if self._leader_line is not None:
            self._leader_line.send({"type": "wish", "reason": reason})

    def about_to_leave(self, leaves: bool) -> None:
        """Whether this worker is on its way out, so that who drops it is not missed."""
        self._leaving = leaves
        if leaves:
            return
        for worker in self.plan.workers if self.plan is not None else ():
            if self._leads() and worker != self.me.worker and worker not in self._lines:
                self._missed(worker)
        if not self._leads() and self._leader_line is None:
            self._seek_leader()

    def part(self) -> None:
        """This worker leaves, or training is over: say so, and miss nobody from now on."""
        self._leaving = True
        members = set(self.plan.workers) if self.plan is not None else set()
        for worker, line in tuple(self._lines.items()):
            line.send({"type": "bye" if worker in members else "over"})
        if self._leader_line is not None:
            self._leader_line.send({"type": "bye"})

    # ---- what the network tells

    def heard(self, line: Line, message: Message) -> None:
        """A message came; of a stranger only one that knows the secret."""
        kind = message.get("type")
        if line.worker is None:
            if kind != "hello" or message.get("secret") != self._secret:
                self.network.drop(line)
                return
            self._greet(line, message)
            return
        handler: Callable[[Line, Message], None] | None = getattr(self, f"_on_{kind}", None)
        if handler is not None:
            handler(line, message)

    def lost(self, line: Line) -> None:
        """A connection is gone."""
        if self._leaving or line.worker is None:
            return
        if line is self._leader_line:
            self._leader_line = None
            if self._joins:
                self._preparing = None  # turned to again at the next tick, whoever leads then
            else:
                self._lose(line.worker)
                self._seek_leader()
        elif self._lines.get(line.worker) is line:
            del self._lines[line.worker]
            self._missed(line.worker)

    def tick(self) -> None:
        """Every half second: say that this worker lives, see who does not."""
        now_s = time.monotonic()
        if self._leaving:
            return
        if self._joins and self._leader_line is None:
            self._seek_crew()
        if now_s - self._pinged_s >= _PING_S:
            self._pinged_s = now_s
            for line in self._all_lines():
                line.send({"type": "ping"})
        for line in self._all_lines():
            if now_s - line.heard_s > self._silence_s:
                self.network.drop(line)
                self.lost(line)
        if self._takeover_until_s is not None and now_s > self._takeover_until_s:
            self._take_over()
        elif self._leads() and self._preparing is None and self.plan is not None:
            self._look_for_the_missing(self.plan, now_s)

    # ---- finding each other

    def _all_lines(self) -> list[Line]:
        leader = [self._leader_line] if self._leader_line is not None else []
        return [*self._lines.values(), *leader]

    def _leads(self) -> bool:
        return self.plan is not None and self.plan.members[0].worker == self.me.worker

    def _seek_crew(self) -> None:
        """Turn to whoever leads, if there is somebody yet, or to one who can say who does."""
        for member in self._folder.known():
            if member.worker != self.me.worker and self._turn_to(member):
                return

    def _turn_to(self, leader: Member) -> bool:
        if self._leader_line is not None:
            self.network.drop(self._leader_line)
            self._leader_line = None
        try:
            line = self.network.connect(leader.host, leader.port)
        except OSError:
            return False
        line.worker = leader.worker
        self._leader_line = line
        generation = self.plan.generation if self.plan is not None else 0
        hello = {"type": "hello", "secret": self._secret, "member": list(self.me)}
        line.send({**hello, "joins": self._joins, "generation": generation})
        return True

    def _greet(self, line: Line, message: Message) -> None:
        worker, host, port = message["member"]
        line.worker = int(worker)
        known = self.plan is not None and worker in self.plan.workers
        if worker in self._lost or not (known or message["joins"] or self._is_preparing(worker)):
            line.send({"type": "expelled"})
            return
        if message["joins"] and self.plan is not None and not self._leads():
            line.send({"type": "leader", "member": list(self.plan.members[0])})
            return
        self._lines[line.worker] = line
        self._addresses[line.worker] = Member(int(worker), str(host), int(port))
        if self._awaited:
            self._begin_when_all_are_here()
        elif self._takeover_until_s is not None:
            self._take_over_when_all_are_here()
        else:
            self._consider()

    def _is_preparing(self, worker: int) -> bool:
        return self._preparing is not None and worker in self._preparing.plan.workers

    def _begin_when_all_are_here(self) -> None:
        if len(self._addresses) < self._awaited or self.plan is not None:
            return
        members = tuple(self._addresses[worker] for worker in sorted(self._addresses))
        self._awaited = 0
        self._propose(members, new=(), recovers=True)

    # ---- the leader's part

    def _consider(self) -> None:
        """Propose what is wanted, once all of it are here."""
        if self._preparing is not None or self._wanted is None or not self._leads():
            return
        crew, asked = self._wanted
        now = self.plan.workers if self.plan is not None else ()
        if set(crew) == set(now) or any(w not in self._addresses for w in crew):
            return
        if any(w not in self._lines and w != self.me.worker for w in crew):
            return
        stay = [w for w in now if w in crew]
        new = [w for w in crew if w not in now]
        members = tuple(self._addresses[w] for w in (*stay, *new))
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
        workers = [member.worker for member in members]
        plan = Plan(
            generation=self._seen + 1,
            members=members,
            everyone=tuple(dict.fromkeys((*before, *workers))),
            new=new,
            store=self._store.address,
            recovers=recovers,
            lost=tuple(sorted(self._lost - self._gone)) if recovers else (),
            id=asked,
        )
        claimed = self._claim(plan)
        if claimed is None:
            self._expel()
            return
        plan = claimed
        for worker in plan.everyone:
            if worker in self._lines:
                self._lines[worker].send({"type": "plan", **plan.as_json()})
        self._prepare(plan)

    def _claim(self, plan: Plan) -> Plan | None:
        """The plan under the next number that is free; None when others went on without this one.

        A number that is taken was claimed since this worker last heard of anything. If whoever did
        so is gone, its plan never came about; if not, or if nobody can tell, the job is theirs.
        """
        while not self._folder.claim(plan, self.me):
            claimer = self._folder.claimer(plan.generation)
            if claimer.worker != self.me.worker and not self.network.refuses(*claimer[1:]):
                return None
            plan = replace(plan, generation=plan.generation + 1)
        self._seen = plan.generation
        return plan

    def _withdraw(self, plan: Plan) -> None:
        self._discard()
        for worker in plan.everyone:
            if worker in self._lines:
                self._lines[worker].send({"type": "withdraw", "generation": plan.generation})

    def _missed(self, worker: int) -> None:
        """A worker's connection to this one, the leader, is gone."""
        if worker in self._gone or not self._leads():
            return
        preparing = self._preparing
        member = self.plan is not None and worker in self.plan.workers
        if member or (preparing is not None and preparing.ordered and self._is_preparing(worker)):
            self._lose(worker)
            self._recover()
        elif preparing is not None and self._is_preparing(worker):
            if preparing.plan.recovers:
                self._lose(worker)
                self._recover()
            else:
                self._withdraw(preparing.plan)

    def _look_for_the_missing(self, plan: Plan, now_s: float) -> None:
        if self._broken_generation >= plan.generation:
            self._recover()  # nobody is lost, but a collective failed: all meet again
        elif now_s - self._entered_s > _GATHER_S:
            missing = [w for w in plan.workers if w != self.me.worker and w not in self._lines]
            for worker in missing:
                self._lose(worker)
            if missing:
                self._recover()

    def _recover(self) -> None:
        """Go on with whoever is left."""
        base = list(self.plan.members) if self.plan is not None else []
        preparing = self._preparing
        if preparing is not None and (preparing.ordered or preparing.plan.recovers):
            base += [m for m in preparing.plan.members if m not in base]
        self._discard()
        here = {self.me.worker, *self._lines}
        alive = [m for m in base if m.worker in here - self._lost - self._gone]
        alive.sort(key=lambda member: member.worker != self.me.worker)
        self._propose(tuple(alive), new=(), recovers=True)

    def _lose(self, worker: int) -> None:
        self._lost.add(worker)
        self._forget(worker)

    def _forget(self, worker: int) -> None:
        line = self._lines.pop(worker, None)
        if line is not None:
            self.network.drop(line)

    # ---- when the leader is lost

    def _seek_leader(self) -> None:
        """Turn to the first member before this one that still lives, or take over."""
        for member in self.plan.members if self.plan is not None else ():
            if member.worker == self.me.worker:
                break
            if member.worker not in self._lost and self._turn_to(member):
                return
            self._lost.add(member.worker)
        self._takeover_until_s = time.monotonic() + _GATHER_S
        self._take_over_when_all_are_here()

    def _take_over_when_all_are_here(self) -> None:
        plan = self.plan
        others = plan.workers if plan is not None else ()
        if all(w in self._lines for w in others if w not in self._lost and w != self.me.worker):
            self._take_over()

    def _take_over(self) -> None:
        self._takeover_until_s = None
        for worker in self.plan.workers if self.plan is not None else ():
            if worker != self.me.worker and worker not in self._lines:
                self._lost.add(worker)
        self._recover()

    # ---- messages

    def _on_ping(self, _line: Line, _message: Message) -> None:
        """That it came is all there is to it."""

    def _on_plan(self, _line: Line, message: Message) -> None:
        plan = Plan.of_json(message)
        self._seen = max(self._seen, plan.generation)
        newest = self._preparing.plan.generation if self._preparing is not None else 0
        if plan.generation > max(newest, self.plan.generation if self.plan else 0):
            self._discard()
            self._prepare(plan)

    def _on_withdraw(self, _line: Line, message: Message) -> None:
        preparing = self._preparing
        if preparing is not None and preparing.plan.generation == message["generation"]:
            self._discard()

    def _on_prepared(self, line: Line, message: Message) -> None:
        if line.worker is not None:
            self._prepared(line.worker, int(message["generation"]))

    def _on_unprepared(self, _line: Line, message: Message) -> None:
        self._unprepared(int(message["generation"]), str(message["why"]))

    def _on_order(self, line: Line, message: Message) -> None:
        fields = {name: message[name] for name in Order.__slots__}
        order = Order(**fields)
        if self._preparing is not None and order.plan == self._preparing.plan.generation:
            self._preparing.ordered = True
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
            if line is self._leader_line:
                self._leader_line = None
            self._lines.pop(line.worker, None)
        self.network.drop(line)

    def _on_leader(self, _line: Line, message: Message) -> None:
        worker, host, port = message["member"]
        if self._joins and worker != self.me.worker:
            self._turn_to(Member(int(worker), str(host), int(port)))

    def _on_over(self, _line: Line, _message: Message) -> None:
        self._board.note(over=True)

    def _on_expelled(self, _line: Line, _message: Message) -> None:
        self._expel()

    def _expel(self) -> None:
        self._cut()
        self._board.note(expelled=True)

    # ---- preparing a generation

    def _prepare(self, plan: Plan) -> None:
        self._preparing = _Preparing(plan)
        if plan.recovers and self.plan is not None:
            self._cut()
            self._board.note(recovering=plan.generation, order=None)
        threading.Thread(
            target=self._build, args=(plan,), name="planner-crew-build", daemon=True
        ).start()

    def _build(self, plan: Plan) -> None:
        """On a thread of its own: connecting blocks until the others have come."""
        handing: Group | None = None
        training: Group | None = None
        try:
            handing, training = build(plan, self.me.worker, self.me.host, self._device)
        except Exception as error:  # whatever it is, the plan cannot be
            why = f"{type(error).__name__}: {error}"
            self.network.do(lambda: self._not_built(plan, why))
            return
        entry = Entry(plan=plan, handing=handing, training=training)
        self.network.do(lambda: self._built(entry))

    def _built(self, entry: Entry) -> None:
        preparing = self._preparing
        if preparing is None or preparing.plan is not entry.plan:
            retire(entry.handing, entry.training)
            return
        self._board.note(entry=entry)
        generation = entry.plan.generation
        if self._leader_line is not None:
            self._leader_line.send({"type": "prepared", "generation": generation})
        else:
            self._prepared(self.me.worker, generation)

    def _not_built(self, plan: Plan, why: str) -> None:
        if self._preparing is None or self._preparing.plan is not plan:
            return
        if self._leader_line is not None:
            message = {"type": "unprepared", "generation": plan.generation, "why": why}
            self._leader_line.send(message)
        else:
            self._unprepared(plan.generation, why)

    def _prepared(self, worker: int, generation: int) -> None:
        preparing = self._preparing
        if preparing is None or preparing.plan.generation != generation:
            return
        preparing.prepared.add(worker)
        if not preparing.plan.recovers and preparing.prepared >= set(preparing.plan.everyone):
            self._board.note(ready=preparing.plan)

    def _unprepared(self, generation: int, why: str) -> None:
        """A worker cannot connect: the plan cannot be. What was wanted is not tried again."""
        preparing = self._preparing
        if preparing is None or preparing.plan.generation != generation:
            return
        plan = preparing.plan
        if plan.recovers:
            self._recover()
            return
        self._withdraw(plan)
        self._wanted = None
        if plan.id is not None:
            self._board.note(refused={**self._board.refused, plan.id: why})

    def _discard(self) -> None:
        """Give up the generation on its way."""
        self._preparing = None
        entry = self._board.take_entry()
        self._board.note(ready=None)
        if entry is not None:
            retire(entry.handing, entry.training)

    def _cut(self) -> None:
        """Wake the training loop from a collective that cannot end."""
        group = self._board.group
        if group is not None:
            group.abort()
