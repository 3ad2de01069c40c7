"""Whom a worker is connected to: the leader, and those that turned to it.

Both ends prove that they know the attempt's secret: who turns to another by a message that counts
once and for that other only, the other by its answer. That keeps strangers out who can connect; it
does not hide or seal what is said afterwards.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from collections.abc import Iterable, Iterator

from planner.sdk.crew.lines import Line, Message, Network
from planner.sdk.crew.plan import Member

_PING_S = 2.0


class Peers:
    """Connections by worker number. Used on the network's thread only.

    Attributes:
        me: This worker.
        addresses: Where each worker is that was ever heard of.
        leader: The connection to the leader; None for the leader itself, and when it is lost.
    """

    def __init__(self, me: Member, network: Network, secret: str, silence_s: float) -> None:
        self.me = me
        self.addresses: dict[int, Member] = {me.worker: me}
        self.leader: Line | None = None
        self._network = network
        self._secret = secret
        self._nonces: set[str] = set()
        self._silence_s = silence_s
        self._lines: dict[int, Line] = {}
        self._pinged_s = 0.0

    def __contains__(self, worker: int) -> bool:
        """Whether that worker is connected to this one, or is this one."""
        return worker == self.me.worker or worker in self._lines

    def __iter__(self) -> Iterator[Line]:
        """Connections of those that turned to this worker."""
        return iter(tuple(self._lines.values()))

    def admits(self, line: Line, message: Message) -> bool:
        """Whether a first message is that of a worker of this attempt, who is told so."""
        nonce, proof = message.get("nonce"), message.get("proof")
        if message.get("type") != "hello" or not isinstance(nonce, str) or nonce in self._nonces:
            return False
        expected = self._proof("hello", nonce, self.me, message.get("member"), message.get("joins"))
        if not isinstance(proof, str) or not _same(proof, expected):
            return False
        self._nonces.add(nonce)
        line.send({"type": "welcome", "proof": self._proof("welcome", nonce, self.me)})
        return True

    def is_welcome(self, line: Line, message: Message) -> bool:
        """Whether whom this worker turned to is a worker of this attempt as well."""
        proof = message.get("proof")
        if message.get("type") != "welcome" or not isinstance(proof, str):
            return False
        welcome = _same(proof, line.expects)
        if welcome:
            line.expects = ""
        return welcome

    def _proof(self, *said: object) -> str:
        """That whoever says this knows the secret, without telling it."""
        return hmac.new(self._secret.encode(), json.dumps(said).encode(), "sha256").hexdigest()

    def keep(self, line: Line, member: Member) -> None:
        """A worker has turned to this one."""
        self._lines[member.worker] = line
        self.addresses[member.worker] = member

    def lose(self, line: Line) -> bool:
        """A connection is gone; whether it counted."""
        if line.worker is None or self._lines.get(line.worker) is not line:
            return False
        del self._lines[line.worker]
        return True

    def forget(self, worker: int) -> None:
        """Close the connection to a worker, if there is one."""
        line = self._lines.pop(worker, None)
        if line is not None:
            self._network.drop(line)

    def tell(self, workers: Iterable[int], message: Message) -> None:
        """Send a message to those of the workers that are connected."""
        for worker in workers:
            if worker in self._lines:
                self._lines[worker].send(message)

    def tell_leader(self, message: Message) -> bool:
        """Send a message to the leader; False when there is no connection to one."""
        if self.leader is None:
            return False
        self.leader.send(message)
        return True

    def turn_to(self, leader: Member, *, joins: bool) -> bool:
        """Connect to whoever leads; False when nobody is there."""
        if self.leader is not None:
            self._network.drop(self.leader)
            self.leader = None
        try:
            line = self._network.connect(leader.host, leader.port)
        except OSError:
            return False
        line.worker = leader.worker
        self.leader = line
        nonce = secrets.token_hex(16)
        line.expects = self._proof("welcome", nonce, leader)
        proof = self._proof("hello", nonce, leader, self.me, joins)
        hello = {"type": "hello", "member": self.me, "joins": joins, "nonce": nonce, "proof": proof}
        line.send(hello)
        return True

    def silent(self) -> list[Line]:
        """Say that this worker lives; connections whose other end has said nothing for long."""
        now_s = time.monotonic()
        lines = [*self._lines.values(), *([self.leader] if self.leader is not None else [])]
        if now_s - self._pinged_s >= _PING_S:
            self._pinged_s = now_s
            for line in lines:
                line.send({"type": "ping"})
        return [line for line in lines if now_s - line.heard_s > self._silence_s]


def _same(proof: str, expected: str) -> bool:
    """Whether a proof is the right one; as bytes, since a stranger's may be of any characters."""
    return hmac.compare_digest(proof.encode(errors="replace"), expected.encode())
