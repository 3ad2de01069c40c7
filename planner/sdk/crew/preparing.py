"""The generation on its way: its groups are connected beside those that train."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from planner.sdk.crew.board import Board, Entry
from planner.sdk.crew.group import Group, build, retire
from planner.sdk.crew.lines import Network
from planner.sdk.crew.plan import Member, Plan


class Preparation:
    """At most one plan at a time; all but the connecting happens on the network's thread.

    Attributes:
        plan: What is being prepared; None when nothing is.
        prepared: Workers that have connected its groups, as the leader hears of them.
        ordered: Whether the step was named at which it is entered.
    """

    def __init__(
        self,
        me: Member,
        device: Any,
        board: Board,
        network: Network,
        *,
        done: Callable[[Plan], None],
        failed: Callable[[Plan, str], None],
    ) -> None:
        """`done` and `failed` are told what became of this worker's part."""
        self.plan: Plan | None = None
        self.prepared: set[int] = set()
        self.ordered = False
        self._me = me
        self._device = device
        self._board = board
        self._network = network
        self._done = done
        self._failed = failed

    @property
    def generation(self) -> int:
        """Number of the plan; 0 when there is none."""
        return self.plan.generation if self.plan is not None else 0

    @property
    def committed(self) -> bool:
        """Whether workers may be entering the plan already, so that it cannot be withdrawn."""
        return self.plan is not None and (self.ordered or self.plan.recovers)

    def holds(self, worker: int) -> bool:
        """Whether the plan has that worker as a member."""
        return self.plan is not None and worker in self.plan.workers

    def start(self, plan: Plan, *, cuts: bool) -> None:
        """Begin to prepare a plan; `cuts` wakes the training loop from what cannot end."""
        self.plan, self.prepared, self.ordered = plan, set(), False
        if cuts:
            self.cut()
            self._board.note(recovering=plan.generation, order=None)
        if plan.alone:  # there is nothing to connect
            self._built(Entry(plan=plan, handing=None, training=None))
            return
        threading.Thread(
            target=self._build, args=(plan,), name="planner-crew-build", daemon=True
        ).start()

    def order(self, generation: int) -> None:
        """The step was named at which this generation is entered."""
        if generation and generation == self.generation:
            self.ordered = True

    def entered(self, generation: int) -> None:
        """The training loop is in that generation."""
        if self.generation <= generation:
            self.plan = None

    def discard(self) -> None:
        """Give the plan up."""
        self.plan = None
        entry = self._board.take_entry()
        self._board.note(ready=None)
        if entry is not None:
            retire(entry.handing, entry.training)

    def cut(self) -> None:
        """Wake the training loop from a collective that cannot end."""
        group = self._board.group
        if group is not None:
            group.abort()

    def _build(self, plan: Plan) -> None:
        """On a thread of its own: connecting blocks until the others have come."""
        handing: Group | None = None
        training: Group | None = None
        try:
            handing, training = build(plan, self._me.worker, self._me.host, self._device)
        except Exception as error:  # whatever it is, the plan cannot be
            why = f"{type(error).__name__}: {error}"
            self._network.do(lambda: self._not_built(plan, why))
            return
        entry = Entry(plan=plan, handing=handing, training=training)
        self._network.do(lambda: self._built(entry))

    def _built(self, entry: Entry) -> None:
        if self.plan is not entry.plan:
            retire(entry.handing, entry.training)
            return
        self._board.note(entry=entry)
        self._done(entry.plan)

    def _not_built(self, plan: Plan, why: str) -> None:
        if self.plan is plan:
            self._failed(plan, why)
