"""Who may make the connection to a seat."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from llmasos_placement_ray.handshake import Listener, connect

from .threads import SECONDS, open_files, started

HERE = "127.0.0.1"
WRONG = bytes(32)


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener(HERE)
    yield made
    made.close()


@pytest.fixture
def accepted(listener: Listener) -> Iterator[Future[socket.socket]]:
    """The connection that the listener waits for."""
    found = started(listener.accept)
    yield found
    if not found.done():
        connect(HERE, listener.port, listener.key, SECONDS).close()
    found.result(SECONDS).close()


def stranger(listener: Listener) -> socket.socket:
    return socket.create_connection((HERE, listener.port), timeout=SECONDS)


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side closes it; it may say something before."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(1024):
            pass
    return True


def test_the_right_key_is_let_in_and_a_wrong_one_is_not(listener: Listener, accepted: Future[socket.socket]) -> None:
    almost = bytes([listener.key[0] ^ 1]) + listener.key[1:]
    for key in (almost, WRONG, b""):
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{listener.port} is no seat that can be reached"):
            connect(HERE, listener.port, key, SECONDS)
    assert not accepted.done()
    with connect(HERE, listener.port, listener.key, SECONDS) as connection:
        connection.sendall(b"here")
        assert accepted.result(SECONDS).recv(4, socket.MSG_WAITALL) == b"here"


def test_each_listener_has_a_key_of_its_own(listener: Listener) -> None:
    other = Listener(HERE)
    other.close()
    assert other.key != listener.key
    assert len(other.key) == 32


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(63), bytes(64), bytes(100_000)], ids=len)
def test_others_that_connect_hold_nobody_up(listener: Listener, accepted: Future[socket.socket], said: bytes) -> None:
    """Whatever they say. The oldest are closed when there are too many, all once the right one is there, and nobody comes after it."""
    with contextlib.ExitStack() as strangers:
        others = [strangers.enter_context(stranger(listener)) for _ in range(40)]
        for each in others:
            with contextlib.suppress(ConnectionError):  # it may be closed already
                each.sendall(said)
        assert all(map(is_closed, others[:20]))
        with connect(HERE, listener.port, listener.key, SECONDS):
            accepted.result(SECONDS)
            assert all(map(is_closed, others[20:]))
            with pytest.raises(ConnectionError):
                connect(HERE, listener.port, listener.key, SECONDS)


def test_a_proof_that_was_overheard_is_worth_nothing(listener: Listener, accepted: Future[socket.socket]) -> None:
    """Somebody between the two learns neither the key nor anything that is good for a second connection."""
    heard: list[bytes] = []

    def listen_in(between: socket.socket) -> None:
        with between.accept()[0] as caller, stranger(listener) as seat:
            caller.sendall(seat.recv(32, socket.MSG_WAITALL))
            heard.append(caller.recv(64, socket.MSG_WAITALL))

    with socket.create_server((HERE, 0)) as between:
        listening = started(lambda: listen_in(between))
        with pytest.raises(ConnectionError, match="closed the connection"):
            connect(HERE, between.getsockname()[1], listener.key, SECONDS)
        listening.result(SECONDS)
    with stranger(listener) as again:
        again.recv(32, socket.MSG_WAITALL)
        again.sendall(heard[0])
        assert is_closed(again)
    assert listener.key not in heard[0]
    assert not accepted.done()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [([WRONG], "its proof is wrong"), ([], "closed the connection"), ([b"\0"] * 32, "timed out")],
    ids=["wrong", "end", "slow"],
)
def test_what_listens_in_place_of_the_seat_is_told_nothing(answer: list[bytes], problem: str) -> None:
    """And not waited for beyond the time: each part of the slow answer comes when a third of it is over."""

    def pretend(impostor: socket.socket) -> bytes:
        with impostor.accept()[0] as caller:
            caller.sendall(bytes(32))
            said = caller.recv(64, socket.MSG_WAITALL)
            with contextlib.suppress(ConnectionError):  # the caller has given up
                for part in answer:
                    time.sleep(0.1 if len(answer) > 1 else 0)
                    caller.sendall(part)
                caller.shutdown(socket.SHUT_WR)
                said += caller.recv(1024)
            return said

    with socket.create_server((HERE, 0)) as impostor:
        said = started(lambda: pretend(impostor))
        with pytest.raises(ConnectionError, match=problem):
            connect(HERE, impostor.getsockname()[1], b"k" * 32, 0.3 if len(answer) > 1 else SECONDS)
        assert len(said.result(SECONDS)) <= 64  # a nonce and a proof


def test_the_own_proof_of_a_side_is_not_taken_from_it(listener: Listener) -> None:
    """A peer that sends back what the caller said, nonce and proof, knows no key."""

    def reflect(impostor: socket.socket) -> None:
        with impostor.accept()[0] as caller:
            caller.sendall(bytes(32))
            caller.sendall(caller.recv(64, socket.MSG_WAITALL)[32:])
            caller.recv(1)

    with socket.create_server((HERE, 0)) as impostor:
        reflected = started(lambda: reflect(impostor))
        with pytest.raises(ConnectionError, match="its proof is wrong"):
            connect(HERE, impostor.getsockname()[1], listener.key, SECONDS)
        reflected.result(SECONDS)


def test_nothing_stays_open_of_connections_that_were_refused_or_closed() -> None:
    before = open_files()
    for _ in range(5):
        listener = Listener(HERE)
        accepted = started(listener.accept)
        with stranger(listener), stranger(listener), contextlib.suppress(ConnectionError):
            connect(HERE, listener.port, WRONG, SECONDS)
        with connect(HERE, listener.port, listener.key, SECONDS), accepted.result(SECONDS):
            pass
    assert open_files() <= before  # what was there before may be closed meanwhile


@pytest.mark.parametrize(
    ("channel", "here", "there", "found"),
    [
        ("auto", "127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("auto", "10.0.0.1", "10.0.0.1", "127.0.0.1"),
        ("auto", "10.0.0.1", "10.0.0.2", None),
        ("socket", "10.0.0.1", "10.0.0.2", "10.0.0.2"),
        ("socket", "10.0.0.1", "10.0.0.1", "127.0.0.1"),
        ("ray", "10.0.0.1", "10.0.0.1", None),
    ],
)
def test_a_seat_listens_for_other_machines_only_where_it_is_told_to(channel: str, here: str, there: str, found: str | None) -> None:
    from llmasos_placement_ray.placement import listens_at

    assert listens_at(channel, here, there) == found
