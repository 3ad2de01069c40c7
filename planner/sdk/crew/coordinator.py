"""How workers find each other, agree on the next generation, and notice a loss.

Runs on the network's thread. One worker, the leader, decides; the others keep a connection to it.
When it is lost the first of the others that still lives takes its place: each connects to those
before it, in order, and whoever finds nobody leads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from planner.sdk.crew.board import Board, Order
from planner.sdk.crew.lead import Lead
from planner.sdk.crew.lines import Line, Message, Network
from planner.sdk.crew.peers import Peers
from planner.sdk.crew.plan import CrewFolder, Member, Plan
from planner.sdk.crew.preparing import Preparation

_TAKE_OVER_S = 5.0
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
        secret = folder.secret()  # before anything is opened: the folder may refuse
        self.network = Network(host, self)
        self.me = Member(worker, host, self.network.port)
        self._folder = folder
        self._board = board
        self._peers = Peers(self.me, self.network, secret, silence_s)
        self._next = Preparation(
            self.me, device, board, self.network, done=self._ready, failed=self._not_ready
        )
        self._lead = Lead(
            me=self.me,
            network=self.network,
            peers=self._peers,
            folder=folder,
            board=board,
            preparation=self._next,
            expel=self._expel,
        )
        self._joins = self._first = False
        self._takeover_until_s: float | None = None
        self._leaving = False

    @property
    def plan(self) -> Plan | None:
        """The generation that training is in; None before the first."""
        return self._lead.plan

    # ---- what the training loop asks for; each call through `network.do`

    def gather(self, workers: int) -> None:
        """Begin: worker 0 waits for the others, they turn to it."""
        if self.me.worker == 0:
            self._lead.await_first(workers)
        else:
            self._first = True
            self.join()

    def lead_alone(self) -> None:
        """Begin as the only worker of a job that is at work already."""
        self._lead.begin_alone()

    def join(self) -> None:
        """Begin as a worker that wants to join."""
        self._joins = True
        self._seek_crew()

    def want(self, crew: Sequence[int], asked: str | None) -> None:
        """These workers are wanted, in the name of that adjustment."""
        self._lead.want(crew, asked)

    def give(self, order: Order) -> None:
        """Tell everyone an order."""
        if order.plan and order.plan != self._next.generation:
            # It was withdrawn meanwhile: who waits to enter it enters this one.
            self._lead.recover()
            return
        self._next.order(order.plan)
        for line in self._peers:
            line.send({"type": "order", **order.as_json()})

    def entered(self, plan: Plan) -> None:
        """The training loop is in this generation now."""
        self._lead.entered(plan)
        self._joins = self._first = False
        self._next.entered(plan.generation)
        leader = plan.members[0]
        if leader.worker == self.me.worker:
            self._peers.leader = None
            self._lead.consider()
        elif self._peers.leader is None or self._peers.leader.worker != leader.worker:
            self._peers.turn_to(leader, joins=False)

    def broke(self, generation: int) -> None:
        """A collective of the training loop failed."""
        if self._lead.at_work:
            self._lead.broke(generation)
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
            if self._lead.at_work and worker not in self._peers:
                self._lead.missed(worker)
        if not self._lead.at_work and self._peers.leader is None:
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
        self._lead.close()

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
                self._board.note(deserted=self._first)
            else:
                self._lead.lose(line.worker)
                self._seek_leader()
        elif self._peers.lose(line):
            self._lead.missed(line.worker)

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
        elif self.plan is not None and self._lead.at_work:
            self._lead.look_for_the_missing(self.plan)
        elif self.plan is not None and self._peers.leader is None and self._next.plan is None:
            self._seek_leader()

    # ---- finding each other

    def _seek_crew(self) -> None:
        """Turn to whoever leads, if there is somebody yet, or to one who can say who does."""
        for member in self._folder.known():
            if member.worker != self.me.worker and self._peers.turn_to(member, joins=True):
                return

    def _greet(self, line: Line, message: Message) -> None:
        worker, host, port = message["member"]
        line.worker = int(worker)
        known = self.plan is not None and worker in self.plan.workers
        if worker in self._lead.lost or not (known or message["joins"] or self._next.holds(worker)):
            line.send({"type": "expelled"})
            return
        if message["joins"] and self.plan is not None and not self._lead.at_work:
            line.send({"type": "leader", "member": list(self.plan.members[0])})
            return
        self._peers.keep(line, Member(int(worker), str(host), int(port)))
        if self._takeover_until_s is not None:
            self._take_over_when_all_are_here()
        else:
            self._lead.here()

    # ---- when the leader is lost

    def _seek_leader(self) -> None:
        """Turn to the first member before this one that still lives, or take over."""
        for member in self.plan.members if self.plan is not None else ():
            if member.worker == self.me.worker:
                break
            if member.worker not in self._lead.lost and self._peers.turn_to(member, joins=False):
                return
            self._lead.lost.add(member.worker)
        self._takeover_until_s = time.monotonic() + _TAKE_OVER_S
        self._take_over_when_all_are_here()

    def _take_over_when_all_are_here(self) -> None:
        plan = self.plan
        others = plan.workers if plan is not None else ()
        if all(worker in self._peers for worker in others if worker not in self._lead.lost):
            self._take_over()

    def _take_over(self) -> None:
        self._takeover_until_s = None
        for worker in self.plan.workers if self.plan is not None else ():
            if worker not in self._peers:
                self._lead.lost.add(worker)
        self._lead.recover()

    # ---- messages

    def _on_ping(self, _line: Line, _message: Message) -> None:
        """That it came is all there is to it."""

    def _on_plan(self, _line: Line, message: Message) -> None:
        plan = Plan.of_json(message)
        self._lead.heard_of(plan)
        now = self.plan.generation if self.plan is not None else 0
        if plan.generation > max(self._next.generation, now):
            self._next.discard()
            self._next.start(plan, cuts=plan.recovers and self.plan is not None)

    def _on_withdraw(self, _line: Line, message: Message) -> None:
        if self._next.generation == message["generation"]:
            self._next.discard()

    def _on_prepared(self, line: Line, message: Message) -> None:
        if line.worker is not None:
            self._lead.prepared(line.worker, int(message["generation"]))

    def _on_unprepared(self, _line: Line, message: Message) -> None:
        self._lead.unprepared(int(message["generation"]), str(message["why"]))

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
        self._lead.broke(int(message["generation"]))

    def _on_wish(self, _line: Line, message: Message) -> None:
        self._board.note(stop_wished=str(message["reason"]))

    def _on_bye(self, line: Line, _message: Message) -> None:
        if line.worker is not None:
            self._lead.gone.add(line.worker)
            if line is self._peers.leader:
                self._peers.leader = None
            self._peers.lose(line)
        self.network.drop(line)
        if line.worker is not None and self._lead.at_work and self._next.holds(line.worker):
            self._lead.do_without(line.worker)

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
            self._lead.prepared(self.me.worker, plan.generation)

    def _not_ready(self, plan: Plan, why: str) -> None:
        message = {"type": "unprepared", "generation": plan.generation, "why": why}
        if not self._peers.tell_leader(message):
            self._lead.unprepared(plan.generation, why)
