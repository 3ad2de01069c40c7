"""The wishes of a run between request and outcome: what the journal is told of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from planner.core.adjust import Adjustment, AdjustState, InForce, Wish
from planner.core.adjustrules import Facts, Verdict, decide
from planner.core.errors import PlannerError, StoreError
from planner.services.runs.facts import facts_of
from planner.services.supervisor.book import RunBook
from planner.services.supervisor.crew import TOO_LATE
from planner.services.supervisor.guards import Guards
from planner.services.supervisor.launcher import Launcher, require_price
from planner.services.supervisor.made import Made, emit_made
from planner.store.codec import to_json
from runners.base import Runner

GOES_ON = "the job goes on as it was"
_NO_ROOM = "the cap leaves no room for a clean stop at that price"


class Wishes:
    """Decides about wishes, and writes down what becomes of them.

    Args:
        runner_of: A runner by its name.
    """

    def __init__(
        self,
        book: RunBook,
        runner_of: Callable[[str], Runner],
        launcher: Launcher,
        guards: Guards,
    ) -> None:
        self._book = book
        self._runner_of = runner_of
        self._launcher = launcher
        self._guards = guards

    @property
    def pending(self) -> tuple[Adjustment, ...]:
        """What was asked for and is not settled, oldest first."""
        return self._book.record.adjust.pending

    def decide(self, wish: Wish, now: InForce, levers: Sequence[str] | None) -> Verdict:
        """What becomes of a wish.

        Raises:
            PlannerError: It is refused, or a runner does not answer.
        """
        more = [wish.move.runner] if wish.move else []
        return decide(wish, now, self.facts(now, levers, *more))

    def facts(self, now: InForce, levers: Sequence[str] | None, *more: str) -> Facts:
        """What the rules go by, with what the runner in force (and `more`) offers now.

        Raises:
            PlannerError: A runner does not answer.
        """
        runners = {now.resources.runner, *more}
        return facts_of(self._book.plan, levers, self._runner_of, runners)

    def require_room(self, usd_per_h: float, max_usd_per_h: float) -> None:
        """Raise unless the price was agreed to and leaves room for a clean stop under the cap.

        Raises:
            PriceMovedError: It is dearer than what was agreed to.
            PlannerError: The cap is too near.
        """
        require_price(usd_per_h, max_usd_per_h)
        if not self._guards.affords(usd_per_h):
            raise PlannerError(_NO_ROOM, hint="planner extend raises the cap")

    def apply(self, change: Adjustment, verdict: Verdict) -> str:
        """Write down that a change is being made; the decision's id. Repeatable."""
        if change.id is not None:
            return change.id
        text = f"by relaunch: {verdict.why}" if verdict.why else "in flight"
        told = {"command": change.command, "state": "going_on", "how": verdict.how}
        return self._book.decide(
            f"adjust: {verdict.what}",
            f"asked for; {text}",
            mode="manual",
            expected=self._book.record.adjust.expected(change.command),
            alternatives=(("hold", None, "not asked for"),),
            adjust=told | {"what": verdict.what, "target": to_json(verdict.target)},
        )

    def settle(self, change: Adjustment, state: AdjustState, text: str) -> None:
        """Write down what became of a change that was not made."""
        told = {"command": change.command, "state": state, "text": text}
        if change.id is not None:
            self._book.measured(change.id, text, adjust=told)
            return
        decision = self._book.decide(
            f"adjust: {change.what}", text, mode="manual", adjust={**told, "what": change.what}
        )
        if state != "done":
            self._book.measured(decision, text)

    def refuse(self, change: Adjustment, error: PlannerError) -> None:
        """Write down that a wish is refused, and why."""
        state: AdjustState = "refused" if change.id is None else "not_done"
        hint = f" ({error.hint})" if error.hint else ""
        self.settle(change, state, f"refused: {error.text}{hint}")

    def give_up(self, changes: Sequence[Adjustment], why: str) -> None:
        """Write down that changes were tried and not made."""
        after = "" if why == TOO_LATE else f"; {GOES_ON}"
        for change in changes:
            self.settle(change, "not_done", f"not done: {why}{after}")

    def end(self) -> None:
        """The run has ended for good: nothing that still waits will be made."""
        for change in self.pending:
            self.settle(change, "not_done", "not done: the run ended")

    def made(self, decision_id: str | None, made: Made) -> None:
        """Write down that a change was made: this is in force from now on."""
        emit_made(self._book, decision_id, made)

    def measured(self, decision_id: str, text: str, rates: Mapping[str, float | None]) -> None:
        """Add to a change that was made what came of it."""
        told = {"state": "done", "text": text, **rates}
        self._book.measured(decision_id, text, adjust=told)

    def catch_up(self) -> None:
        """Add what came of changes whose supervisor died before it had measured them."""
        for change in self._book.record.adjust.changes:
            decision = self._book.record.decisions.get(change.id or "")
            if change.state == "done" and decision is not None and decision.measured == "-":
                self.measured(decision.id, change.text or "done", {})

    def merged(
        self, now: InForce, *, take: Sequence[Adjustment] | None = None
    ) -> tuple[InForce, list[Adjustment]]:
        """What the next attempt starts with when all that was asked for is made part of it.

        Wishes that cannot be kept are settled as that. The second value are those that the launch
        is to make.
        """
        tried: list[Adjustment] = []
        for change in self.pending if take is None else take:
            if change.wish is None:
                continue
            try:
                verdict = self.decide(replace(change.wish, relaunch=True), now, None)
                if verdict.how != "nothing":
                    price = self._launcher.quote(verdict.target.resources)
                    usd_per_h = (price or verdict.target.price).usd_per_h
                    self.require_room(usd_per_h, verdict.target.max_usd_per_h)
            except StoreError:
                raise
            except PlannerError as error:
                self.refuse(change, error)
                continue
            if verdict.how == "nothing":
                self.settle(change, "done", verdict.what)
                continue
            decision_id = self.apply(change, verdict)
            found = self._book.record.adjust.find(decision_id)
            tried += [found] if found else []
            now = verdict.target
        return now, tried
