"""Who may talk to a worker, on which addresses it listens, and whose connections it cuts."""

from __future__ import annotations

import json
import queue
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from pytest_socket import socket_allow_hosts

from planner.sdk.crew import lines
from planner.sdk.crew.connections import Connections
from planner.sdk.crew.group import Store
from planner.sdk.crew.lines import Line, Message, Network
from planner.sdk.crew.peers import Peers
from planner.sdk.crew.plan import Member

HOST = "127.0.0.1"
ELSEWHERE = "127.0.0.2"
"""Another address of this machine."""
SECRET = "what all workers know"


class Worker:
    """One end: lets in who proves itself, and notes what it hears of whom."""

    def __init__(self, number: int, secret: str = SECRET) -> None:
        self.heard_of: queue.Queue[tuple[int | None, str]] = queue.Queue()
        self.network = Network(HOST, self)
        self.me = Member(number, HOST, self.network.port)
        self.peers = Peers(self.me, self.network, secret, silence_s=60.0)
        self.network.start()

    def heard(self, line: Line, message: Message) -> None:
        if line.worker is None:
            if self.peers.admits(line, message):
                line.worker = message["member"][0]
                self.heard_of.put((line.worker, "admitted"))
            else:
                self.network.drop(line)
                self.heard_of.put((None, "turned away"))
        elif line.expects:
            welcome = self.peers.is_welcome(line, message)
            self.heard_of.put((line.worker, "welcome" if welcome else "impostor"))
        else:
            self.heard_of.put((line.worker, message["type"]))

    def lost(self, line: Line) -> None:
        self.heard_of.put((line.worker, "lost"))

    def tick(self) -> None:
        pass

    def turn_to(self, other: Member) -> None:
        self.network.do(lambda: self.peers.turn_to(other, joins=True) and None)

    def hears(self) -> tuple[int | None, str]:
        return self.heard_of.get(timeout=10)


@pytest.fixture
def worker() -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def make(number: int, secret: str = SECRET) -> Worker:
        made.append(Worker(number, secret))
        return made[-1]

    yield make
    for one in made:
        one.network.close()


class Tap:
    """Stands in for a worker and keeps what is sent to it."""

    def __init__(self) -> None:
        self.server = socket.create_server((HOST, 0))
        self.member = Member(0, HOST, self.server.getsockname()[1])

    def first_line(self) -> bytes:
        self.server.settimeout(10)
        connection, _ = self.server.accept()
        with connection, connection.makefile("rb") as file:
            return file.readline()


@pytest.fixture
def tap() -> Iterator[Tap]:
    made = Tap()
    yield made
    made.server.close()


def closed(connection: socket.socket) -> bool:
    connection.settimeout(10)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:  # with something unread
        return True


def test_two_workers_of_an_attempt_know_each_other(worker: Callable[..., Worker]) -> None:
    leader, other = worker(0), worker(1)
    other.turn_to(leader.me)
    assert leader.hears() == (1, "admitted")
    assert other.hears() == (0, "welcome")


def test_a_worker_of_another_attempt_is_turned_away(worker: Callable[..., Worker]) -> None:
    leader, other = worker(0), worker(1, "of another attempt")
    other.turn_to(leader.me)
    assert leader.hears() == (None, "turned away")
    assert other.hears() == (0, "lost")


def test_what_a_worker_said_cannot_be_said_again(worker: Callable[..., Worker], tap: Tap) -> None:
    leader, other = worker(0), worker(1)
    tap.member = leader.me  # whoever listens in between
    said: list[bytes] = []
    real_send = Line.send

    def listened(line: Line, message: Message) -> None:
        said.append(json.dumps(message).encode() + b"\n")
        real_send(line, message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Line, "send", listened)
        other.turn_to(leader.me)
        assert leader.hears() == (1, "admitted")
    assert b"hello" in said[0] and SECRET.encode() not in said[0]
    with socket.create_connection((HOST, leader.me.port)) as again:
        again.sendall(said[0])
        assert leader.hears() == (None, "turned away")
        assert closed(again)


def test_what_was_said_to_one_worker_is_not_taken_by_another(
    worker: Callable[..., Worker], tap: Tap
) -> None:
    leader, other = worker(0), worker(1)
    other.turn_to(tap.member)
    said = tap.first_line()
    assert b"hello" in said
    with socket.create_connection((HOST, leader.me.port)) as elsewhere:
        elsewhere.sendall(said)
        assert leader.hears() == (None, "turned away")


def test_nobody_follows_a_leader_that_does_not_know_the_secret(
    worker: Callable[..., Worker], tap: Tap
) -> None:
    other = worker(1)
    other.turn_to(tap.member)
    tap.server.settimeout(10)
    connection, _ = tap.server.accept()
    with connection:
        connection.sendall(b'{"type": "welcome", "proof": "of nothing"}\n')
        assert other.hears() == (0, "impostor")


def hello(proof: str) -> bytes:
    return json.dumps({"type": "hello", "nonce": "n", "proof": proof}).encode()


NONSENSE = {
    "empty": b"{}",
    "list": b"[]",
    "text": b'"hello"',
    "no proof": b'{"type": "hello"}',
    "not text": b"\xff\n",
    "proof beyond ASCII": hello("\u00e9"),
    "proof that is no text": hello("\ud800"),
    "nested": b"[" * 4000,
    "many": b"\n".join([hello("\u00e9")] * 500),
}


@pytest.mark.parametrize("message", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_turned_away_without_a_word(
    worker: Callable[..., Worker], message: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    leader = worker(0)
    with socket.create_connection((HOST, leader.me.port)) as stranger:
        stranger.sendall(message + b"\n")
        assert closed(stranger)
    other = worker(1)
    other.turn_to(leader.me)
    while (heard := leader.hears()) != (1, "admitted"):
        assert heard[0] is None
    assert capsys.readouterr().err == ""


def test_a_stranger_whom_a_worker_fails_on_is_dropped(
    worker: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(_peers: Peers, _line: Line, _message: Message) -> bool:
        raise TypeError("of a kind that nobody thought of")

    monkeypatch.setattr(Peers, "admits", fails)
    leader = worker(0)
    with socket.create_connection((HOST, leader.me.port)) as stranger:
        stranger.sendall(b"{}\n")
        assert closed(stranger)
    assert leader.hears() == (None, "lost")
    assert capsys.readouterr().err == ""


def test_a_stranger_is_not_read_at_length(worker: Callable[..., Worker]) -> None:
    leader = worker(0)
    with socket.create_connection((HOST, leader.me.port)) as stranger:
        stranger.sendall(json.dumps({"type": "hello", "nonce": "n" * 4096}).encode() + b"\n")
        assert leader.hears() == (None, "lost")


def test_nobody_is_read_at_length_who_is_turned_to(worker: Callable[..., Worker], tap: Tap) -> None:
    other = worker(1)
    other.turn_to(tap.member)
    tap.server.settimeout(10)
    connection, _ = tap.server.accept()
    with connection:
        connection.sendall(json.dumps({"type": "welcome", "proof": "n" * 4096}).encode() + b"\n")
        assert other.hears() == (0, "lost")


def test_who_never_says_anything_is_not_kept(
    worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_STRANGERS_S", 0.2)
    leader = worker(0)
    with socket.create_connection((HOST, leader.me.port)) as stranger:
        assert closed(stranger)


def test_strangers_do_not_use_up_what_workers_need(
    worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_MOST_STRANGERS", 4)
    leader = worker(0)
    strangers = [socket.create_connection((HOST, leader.me.port)) for _ in range(12)]
    try:
        assert closed(strangers[0])
        other = worker(1)
        other.turn_to(leader.me)
        assert leader.hears() == (1, "admitted")
    finally:
        for stranger in strangers:
            stranger.close()


def test_a_flood_without_an_end_is_cut_off(worker: Callable[..., Worker]) -> None:
    leader = worker(0)
    with socket.create_connection((HOST, leader.me.port)) as stranger, pytest.raises(OSError):
        until_s = time.monotonic() + 10
        while time.monotonic() < until_s:
            stranger.sendall(b"x" * 4096)


@pytest.fixture
def elsewhere_allowed() -> None:
    socket_allow_hosts([HOST, ELSEWHERE], allow_unix_socket=True)


@pytest.mark.torch
@pytest.mark.usefixtures("elsewhere_allowed")
def test_the_store_listens_on_the_workers_own_address_only() -> None:
    pytest.importorskip("torch.distributed")
    store = Store(HOST)
    _, port = store.address
    socket.create_connection((HOST, port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ELSEWHERE, port))
    store.close()


@pytest.mark.usefixtures("elsewhere_allowed")
def test_cutting_a_group_leaves_what_the_script_connected_to_meanwhile() -> None:
    peer, service = socket.create_server((HOST, 0)), socket.create_server((ELSEWHERE, 0))
    with peer, service:
        group = Connections([HOST])
        of_group = socket.create_connection(peer.getsockname())
        of_script = socket.create_connection(service.getsockname())
        group.note()
        group.cut()
        with of_group, of_script:
            assert of_group.recv(1) == b""
            answer, _ = service.accept()
            with answer:
                answer.sendall(b"!")
                assert of_script.recv(1) == b"!"
