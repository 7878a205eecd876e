"""What is sent through a connection arrives whole, once, and in order, or not at all."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st

from llmasos_placement_ray.frames import BEAT, END, MESSAGE, Frames

from .threads import SECONDS, open_files, started

#: Longer than any buffer of the system.
LONG = 8_000_000


class Ends:
    """Both ends of a connection; the second is a plain socket too."""

    def __init__(self, silence: float | None = None) -> None:
        mine, self.plain = socket.socketpair()
        self.one, self.two = Frames(mine, silence), Frames(self.plain)

    def close(self) -> None:
        self.one.close()
        self.two.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def as_sent(*frames: tuple[int, bytes]) -> bytes:
    """What goes through the socket for these frames."""
    ends = Ends()
    for kind, content in frames:
        ends.one.send(kind, content)
    ends.one.close()
    data = b""
    while part := ends.plain.recv(1 << 16):
        data += part
    ends.close()
    return data


@given(
    frames=st.lists(st.tuples(st.sampled_from([MESSAGE, BEAT, END]), st.binary(max_size=300)), max_size=6),
    cuts=st.lists(st.integers(0, 1000), max_size=20),
)
def test_frames_arrive_as_they_were_sent_however_they_are_cut(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    ends, data = Ends(), as_sent(*frames)
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(data)]):
        ends.plain.sendall(data[begin:end])
    assert [ends.one.receive() for _ in frames] == frames
    ends.close()


def test_threads_on_both_ends_neither_mix_nor_lose_nor_reorder_frames(ends: Ends) -> None:
    """Short and long ones, in both directions at once."""
    lengths = [0, 1, 5000, 100_000]

    def send(side: Frames, thread: int) -> None:
        for number in range(40):
            side.send(MESSAGE, f"{thread}:{number}:".encode() + b"x" * lengths[number % 4])

    def receive(side: Frames) -> list[tuple[int, int, int]]:
        heads = [side.receive()[1].split(b":") for _ in range(120)]
        return [(int(thread), int(number), len(rest)) for thread, number, rest in heads]

    receiving = [started(lambda side=side: receive(side)) for side in (ends.one, ends.two)]
    for side in (ends.one, ends.two):
        for thread in range(3):
            started(lambda side=side, thread=thread: send(side, thread))
    for each in receiving:
        found = each.result(SECONDS)
        for thread in range(3):
            assert [rest for which, *rest in found if which == thread] == [[number, lengths[number % 4]] for number in range(40)]


@pytest.mark.parametrize("length", [1, 8, 9, 10, 108])
def test_a_frame_that_is_torn_is_no_frame(ends: Ends, length: int) -> None:
    """The one before it arrives, and then the end."""
    ends.two.send(MESSAGE, b"whole")
    ends.plain.sendall(as_sent((MESSAGE, b"x" * 100))[:length])
    ends.two.shut()
    assert ends.one.receive() == (MESSAGE, b"whole")
    with pytest.raises(EOFError):
        ends.one.receive()


def test_nothing_is_sent_after_a_frame_that_was_cut_off() -> None:
    """By Ctrl-C, say: the other side would take what follows for the rest of it."""

    class Interrupted(socket.socket):
        def sendall(self, data: Any, flags: int = 0) -> None:
            super().sendall(data[: len(data) // 2], flags)
            raise KeyboardInterrupt

    mine, plain = socket.socketpair()
    one, two = Frames(Interrupted(fileno=mine.detach())), Frames(plain)
    with pytest.raises(KeyboardInterrupt):
        one.send(MESSAGE, b"x" * 100)
    with pytest.raises(OSError, match="pipe"):
        one.send(MESSAGE, b"next")
    with pytest.raises(EOFError):
        two.receive()
    one.close()
    two.close()


@pytest.mark.parametrize("begun", [b"", b"\0\0\0"], ids=["nothing", "a part of a frame"])
def test_silence_is_told_from_the_end(begun: bytes) -> None:
    ends = Ends(silence=0.05)
    ends.plain.sendall(begun)
    with pytest.raises(TimeoutError):
        ends.one.receive()
    ends.two.close()
    with pytest.raises(EOFError):
        ends.one.receive()
    ends.close()


def test_one_that_sends_waits_for_one_that_does_not_receive() -> None:
    """And goes on when that one does; the time of silence is none of sending."""
    ends = Ends(silence=0.02)
    sending = started(lambda: ends.one.send(MESSAGE, b"x" * LONG))
    with pytest.raises(TimeoutError):
        sending.result(0.2)
    assert not sending.done()
    assert len(ends.two.receive()[1]) == LONG
    sending.result(SECONDS)
    ends.close()


@pytest.mark.parametrize("side", ["one", "two"])
def test_the_end_wakes_threads_that_send_or_receive_on_either_side(ends: Ends, side: str) -> None:
    sending = [started(lambda each=each: each.send(MESSAGE, b"x" * LONG)) for each in (ends.one, ends.two)]
    for each in sending:
        with pytest.raises(TimeoutError):
            each.result(0.05)
    getattr(ends, side).shut()
    for each in sending:
        assert isinstance(each.exception(SECONDS), OSError)
    receiving = started(ends.one.receive)
    assert isinstance(receiving.exception(SECONDS), EOFError | OSError)


def test_nothing_stays_open_after_close() -> None:
    before = open_files()
    ends = Ends()
    receiving = started(ends.two.receive)
    ends.close()
    ends.close()
    assert isinstance(receiving.exception(SECONDS), EOFError | OSError)
    assert open_files() <= before  # what was there before may be closed meanwhile
    with pytest.raises(OSError, match="descriptor"):
        ends.one.send(MESSAGE)
