"""Seats whose replicas are scripted: they speak the protocol on the thread that sends to them, and compute nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmasos_hookspecs import EngineInfo, Generation, Host, Request, SeatSpec
from llmasos_replicas.numbered import Arrivals, numbered
from llmasos_replicas.spec import WorkerSpec, versions
from llmasos_replicas.wire import pack, unpack
from llmasos_residency.prediction import Need

INFO = EngineInfo(vocab_size=8, context_length=64, max_sequences=4, weight_bytes=8, kv_bytes_per_token=1)
NEED = Need(weights=8, peak=8, kv_bytes_per_token=1, context_length=64, load_seconds=0.0)
ANSWER = Generation(text="x", tokens=(1,), finish_reason="length", prompt_tokens=1)


class NowhereSpec:
    """A model whose source nothing reads."""

    def to_mapping(self) -> dict[str, Any]:
        return {"model": {"source": "/nowhere"}}


def specs(count: int) -> list[WorkerSpec]:
    """Of so many replicas of the model ``m``, whose source nothing reads."""
    config = NowhereSpec()
    return [WorkerSpec(config=config, seat=SeatSpec(model="m", number=number, entry="x:y")) for number in range(count)]


class ScriptedSeat:
    """Is ready as soon as it is opened; what it does with a request is for a subclass to say."""

    where = "here"

    def __init__(self, receive: Callable[[bytes], None], end: Callable[[str], None]) -> None:
        self._receive, self._end = receive, end
        self._told = 0
        self._arrivals = Arrivals()
        self.ended = False

    def tell(self, *message: Any) -> None:
        self._told += 1
        self._receive(numbered(self._told - 1, pack(message)))

    def send(self, message: bytes) -> bool:
        verb, *arguments = unpack(self._arrivals.take(message) or b"")
        if verb == "open":
            self.opened()
        if verb == "submit":
            self.submitted(arguments[1])
        return not self.ended

    def opened(self) -> None:
        self.tell("hello", versions())
        self.tell("ready", INFO, NEED, "a loader", 64, 64, 1)

    def submitted(self, request: Request) -> None: ...

    def answer(self, *requests: str) -> None:
        """Answer the requests with these ids."""
        for each in requests:
            self.tell("answers", [("done", each, ANSWER)])

    def kill(self) -> None:
        self.end("was killed")

    def end(self, why: str) -> None:
        """End once, however often that is asked."""
        if not self.ended:
            self.ended = True
            self._end(why)


class ScriptedPlacement:
    """Gives the seats that ``make`` makes; they are in ``seats``, in the order in which they were started."""

    def __init__(self, make: Callable[[SeatSpec, Callable[[bytes], None], Callable[[str], None]], ScriptedSeat]) -> None:
        self.seats: list[Any] = []
        self._make = make

    def hosts(self) -> Sequence[Host]:
        return []

    def start(self, spec: SeatSpec, on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> ScriptedSeat:
        self.seats.append(self._make(spec, on_message, on_end))
        return self.seats[-1]

    def close(self) -> None: ...
