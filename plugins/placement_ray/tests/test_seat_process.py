"""What a seat's process says through its connection; here on threads of this process."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from llmasos_hookspecs.placement import Receive, Send
from llmasos_hookspecs.seat_program import ENTRY
from llmasos_placement_ray.frames import BEAT, END, MESSAGE, Frames
from llmasos_placement_ray.handshake import connect

from .threads import SECONDS

HERE = "127.0.0.1"


def connected(entry: str) -> Frames:
    """The connection to a new seat."""
    from llmasos_placement_ray.actor import SeatProcess

    port, key = SeatProcess(entry, []).listen(HERE)
    assert isinstance(port, int)
    assert isinstance(key, bytes)
    return Frames(connect(HERE, port, key, SECONDS), SECONDS)


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmasos_placement_ray.actor.BEAT_SECONDS", 0.01)


@pytest.fixture
def seat() -> Iterator[Frames]:
    frames = connected(ENTRY)
    yield frames
    frames.close()


def next_but_beats(frames: Frames) -> tuple[int, bytes]:
    while (frame := frames.receive())[0] == BEAT:
        pass
    return frame


def test_a_seat_with_nothing_to_say_gives_signs_of_life(seat: Frames) -> None:
    assert [seat.receive() for _ in range(3)] == [(BEAT, b"")] * 3
    seat.send(MESSAGE, b"echo here")
    assert next_but_beats(seat) == (MESSAGE, b"here")


def test_the_end_of_the_entry_comes_after_all_that_it_sent(seat: Frames) -> None:
    seat.send(MESSAGE, b"count 100")
    seat.send(MESSAGE, b"return")
    assert [next_but_beats(seat) for _ in range(101)] == [*((MESSAGE, b"%d" % number) for number in range(100)), (END, b"ended by itself")]


def test_what_comes_after_the_end_of_the_entry_is_dropped_and_breaks_nothing(seat: Frames) -> None:
    """A connection that is closed before all of it is read would be reset, and with it what the other side has not read."""
    seat.send(MESSAGE, b"return")
    assert next_but_beats(seat)[0] == END
    for _ in range(100):
        seat.send(MESSAGE, b"echo " + bytes(100_000))


def test_an_entry_that_fails_says_why() -> None:
    frames = connected("llmasos_hookspecs.no_such_module:serve")
    kind, why = next_but_beats(frames)
    frames.close()
    assert kind == END
    assert why.startswith(b"failed: PluginError: The seat cannot run")


def test_the_entry_hears_that_the_other_side_has_left(seat: Frames) -> None:
    """Also in the middle of a message; its threads end."""
    seat.send(MESSAGE, b"echo here")
    assert next_but_beats(seat) == (MESSAGE, b"here")
    mine = [each for each in threading.enumerate() if each.name in ("llmasos-seat", "llmasos-beat")]
    assert mine
    seat.close()
    for each in mine:
        each.join(SECONDS)
    assert not any(each.is_alive() for each in mine)


def test_a_connection_that_is_reset_is_an_end_too() -> None:
    """As the contract of ``receive`` has it."""
    from llmasos_placement_ray.actor import SeatProcess

    port, key = SeatProcess(f"{__name__}:listen", []).listen(HERE)
    connection = connect(HERE, int(port), bytes(key), SECONDS)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert isinstance(heard.get(timeout=SECONDS), EOFError)


heard = SimpleQueue[Exception]()


def listen(receive: Receive, send: Send) -> None:
    """An entry that tells what ends its messages."""
    try:
        while True:
            receive()
    except Exception as error:
        heard.put(error)
