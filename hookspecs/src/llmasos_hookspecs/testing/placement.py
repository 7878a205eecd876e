"""Conformance tests of placements."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
import pytest

from llmasos_hookspecs.errors import ResourceError
from llmasos_hookspecs.placement import Host, Placement, Seat, SeatSpec
from llmasos_hookspecs.seat_program import ENTRY
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext
from llmasos_hookspecs.testing.watching import within

#: Seconds in which a seat starts, answers or ends.
SECONDS: Final = 60.0
#: Seconds in which calls that must not wait return.
QUICK: Final = 20.0

#: Messages that a connection could change: nothing, what frames and lines are made of, more than any buffer holds.
MESSAGES: Final = (b"", b"\n", b"\0" * 9, bytes(range(256)), b"\xff\xfe\r\n\x1a\x04", b"x" * 3_000_000, b"last")

#: Needs that no host of any placement meets.
IMPOSSIBLE: Final = ({"cpus": 10**7}, {"memory": 2**62}, {"accelerators": 10**6})


@attrs.define(eq=False)
class Told:
    """What a seat's callbacks were told, and whether they kept the rules."""

    messages: list[bytes] = attrs.field(factory=list)
    ends: list[str] = attrs.field(factory=list)
    faults: list[str] = attrs.field(factory=list)
    changed: threading.Condition = attrs.field(factory=threading.Condition)
    inside: int = 0
    act: Callable[[], Any] | None = None

    def on_message(self, message: bytes) -> None:
        self._enter("on_message")
        with self.changed:
            if self.ends:
                self.faults.append("on_message was called after on_end.")
            self.messages.append(message)
            self.changed.notify_all()
        if self.act is not None:
            self.act()
        self._leave()

    def on_end(self, why: str) -> None:
        self._enter("on_end")
        with self.changed:
            self.ends.append(why)
            self.changed.notify_all()
        self._leave()

    def wait(self, count: int) -> list[bytes]:
        """The first ``count`` messages."""
        with self.changed:
            arrived = self.changed.wait_for(lambda: len(self.messages) >= count or bool(self.ends), SECONDS)
        assert arrived, f"{len(self.messages)} of {count} messages arrived in {SECONDS:g} seconds."
        assert len(self.messages) >= count, f"The seat ended ({self.ends}) after {len(self.messages)} of {count} messages."
        return self.messages[:count]

    def wait_end(self) -> str:
        """Why the seat ended; it ended once, and nothing came after."""
        with self.changed:
            assert self.changed.wait_for(lambda: bool(self.ends), SECONDS), f"on_end was not called within {SECONDS:g} seconds."
            self.changed.wait_for(lambda: len(self.ends) > 1, 0.2)
        assert len(self.ends) == 1, f"on_end was called {len(self.ends)} times."
        why = self.ends[0]
        assert isinstance(why, str), f"on_end was given {why!r}; give the end of a sentence."
        assert why.strip(), "on_end was given an empty text; say how the seat ended."
        self.check()
        return why

    def check(self) -> None:
        assert not self.faults, self.faults[0]

    def _enter(self, name: str) -> None:
        with self.changed:
            self.inside += 1
            if self.inside > 1:
                self.faults.append(f"{name} was called while another callback of the seat was running.")

    def _leave(self) -> None:
        with self.changed:
            self.inside -= 1


class PlacementConformance(PluginConformance, standard=True):
    """Subclass it, name the plugin, and pytest proves its placement::

    class TestConformance(PlacementConformance):
        module = "llmasos_placement_mine"
    """

    kind = "placement"

    @pytest.fixture
    def placement(self, sandbox: PluginSandbox, context: SandboxContext) -> Iterator[Placement]:
        """A new placement."""
        made = sandbox.call("llmasos_create_placement", options=self.plugin_options(sandbox), context=context)
        yield made
        assert within(SECONDS, made.close), f"close did not return within {SECONDS:g} seconds."

    @staticmethod
    def spec(number: int = 0, **more: Any) -> SeatSpec:
        """The spec of a seat that runs the kit's own program."""
        return SeatSpec(**{"model": "m", "number": number, "entry": ENTRY, "path": tuple(sys.path), **more})

    def start(self, placement: Placement, number: int = 0, **more: Any) -> tuple[Seat, Told]:
        """A seat, and what its callbacks are told."""
        told = Told()
        seats: list[Seat] = []
        quick = within(QUICK, lambda: seats.append(placement.start(self.spec(number, **more), told.on_message, told.on_end)))
        assert quick, f"start did not return within {QUICK:g} seconds; it must not wait for the seat."
        return seats[0], told

    def test_names_its_hosts(self, placement: Placement) -> None:
        """There is a host that is alive, each has a name of its own and at least one core."""
        hosts = list(placement.hosts())
        assert all(isinstance(host, Host) for host in hosts), f"hosts returned {hosts!r}; return Host objects."
        assert any(host.alive for host in hosts), "No host is alive."
        assert len({host.name for host in hosts}) == len(hosts), "Two hosts have one name."
        assert all(host.name and host.cpus >= 1 for host in hosts), "A host has no name or no core."

    def test_messages_arrive_whole_and_in_order(self, placement: Placement) -> None:
        """Any bytes, empty and large, in both directions; one seat gets nothing of another's."""
        (one, first), (two, second) = self.start(placement), self.start(placement, 1)
        for message in MESSAGES:
            assert one.send(b"echo " + message), "send returned False for a seat that runs."
            assert two.send(b"echo 2" + message)
        assert first.wait(len(MESSAGES)) == list(MESSAGES), "Messages were changed, lost or arrived in another order."
        assert second.wait(len(MESSAGES)) == [b"2" + message for message in MESSAGES], "Messages of two seats were mixed up."
        assert one.where.partition(",")[0] in {host.name for host in placement.hosts()}, (
            f"where is {one.where!r}; begin it with the name of one of the hosts and a comma, then say what the seat is there."
        )
        first.check()
        second.check()

    def test_many_threads_may_send(self, placement: Placement) -> None:
        """Messages of four threads are neither lost, doubled nor torn, and those of one thread keep their order."""
        seat, told = self.start(placement)

        def send(thread: int) -> None:
            for number in range(50):
                seat.send(f"echo {thread}:{number}:".encode() + b"x" * 5000)

        threads = [threading.Thread(target=send, args=(thread,), daemon=True) for thread in range(4)]
        for thread in threads:
            thread.start()
        heads = [tuple(int(part) for part in message.split(b":")[:2]) for message in told.wait(200)]
        assert all(len(message) > 5000 for message in told.messages)
        for each in range(4):
            assert [number for which, number in heads if which == each] == list(range(50)), "A thread's messages lost their order."
        told.check()

    def test_what_the_seat_prints_is_no_message(self, placement: Placement) -> None:
        """Libraries print to standard output; the connection must not be there for them to write to."""
        seat, told = self.start(placement)
        seat.send(b"print")
        assert told.wait(1) == [b"printed"]

    @pytest.mark.parametrize("how", ["return", "exit"])
    def test_a_seat_that_ends_is_reported_once_and_last(self, placement: Placement, how: str) -> None:
        """All that it sent before arrives first; then ``on_end``, once; then ``send`` returns False."""
        seat, told = self.start(placement)
        seat.send(b"count 300")
        seat.send(how.encode())
        told.wait_end()
        if how == "return":
            assert told.messages == [str(number).encode() for number in range(300)], "Messages that were sent before the end were lost."
        assert seat.send(b"echo late") is False, "send must return False once the seat has ended."
        seat.kill()

    def test_a_seat_is_killed_whatever_it_does(self, placement: Placement) -> None:
        """``kill`` does not wait, may be called twice, and the other seats run on."""
        (seat, told), (other, others) = self.start(placement), self.start(placement, 1)
        seat.send(b"echo here")
        told.wait(1)
        seat.send(b"hang")
        assert within(QUICK, seat.kill), f"kill did not return within {QUICK:g} seconds."
        assert within(QUICK, seat.kill)
        told.wait_end()
        other.send(b"echo here")
        assert others.wait(1) == [b"here"]

    def test_a_seat_may_be_killed_by_its_own_callback(self, placement: Placement) -> None:
        """``kill`` inside ``on_message`` does not wait for that callback to end."""
        seat, told = self.start(placement)
        told.act = seat.kill
        seat.send(b"echo here")
        told.wait_end()

    def test_a_seat_that_cannot_run_is_reported(self, placement: Placement) -> None:
        """An entry that does not exist ends the seat; it does not make ``start`` fail, nor wait for ever."""
        _, told = self.start(placement, entry="llmasos_hookspecs.no_such_module:serve")
        told.wait_end()

    def test_a_seat_can_be_started_again(self, placement: Placement) -> None:
        """With the same number, in a process of its own."""
        pids = []
        for _ in range(2):
            seat, told = self.start(placement)
            seat.send(b"pid")
            pids += told.wait(1)
            seat.kill()
            told.wait_end()
        assert pids[0] != pids[1], "Two seats ran in one process; one that dies would take the other with it."

    @pytest.mark.parametrize("needs", IMPOSSIBLE, ids=lambda needs: next(iter(needs)))
    def test_impossible_needs_are_refused(self, placement: Placement, needs: dict[str, int]) -> None:
        """What no host has is a ``ResourceError`` at once, rather than a seat that never starts."""
        told = Told()
        with pytest.raises(ResourceError):
            placement.start(self.spec(**needs), told.on_message, told.on_end)
        assert not told.ends, "on_end was called for a seat that was refused."

    def test_closing_ends_every_seat(self, placement: Placement) -> None:
        """``close`` returns when all have ended; a second time it does nothing."""
        seats = [self.start(placement, number) for number in range(2)]
        for seat, told in seats:
            seat.send(b"echo here")
            told.wait(1)
        seats[0][0].send(b"hang")
        assert within(SECONDS, placement.close), f"close did not return within {SECONDS:g} seconds."
        assert all(told.ends for _, told in seats), "close returned before on_end was called for every seat."
        for _, told in seats:
            told.wait_end()
        placement.close()
