"""A placement that loses, doubles, swaps or delays a message, or whose seat dies or falls silent at one: each request still ends once, with
the right answer or an error, and the replicas serve again."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

import llmasos
from llmasos.api.pipeline import Pipeline
from llmasos.compose.component_maker import ComponentMaker
from llmasos.compose.replicas.local import LocalPlacement
from llmasos_config import Config
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import EngineInfo, Generation, Host, LLMasOSError, Request, SeatSpec
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_hookspecs.testing.faulty_placement import DIRECTIONS, FAULTS, FaultyPlacement, PlacementFault
from llmasos_replicas import replica_set, restarts
from llmasos_replicas.numbered import Arrivals, numbered
from llmasos_replicas.replica_set import ReplicaSet
from llmasos_replicas.spec import WorkerSpec, versions
from llmasos_replicas.wire import WireError, pack, unpack
from llmasos_residency.prediction import Need

SECONDS = 20.0  # after which somebody counts as one who waits for ever
INFO = EngineInfo(vocab_size=32, context_length=64, max_sequences=8, weight_bytes=8, kv_bytes_per_token=1)
NEED = Need(weights=8, peak=8, kv_bytes_per_token=1, context_length=64, load_seconds=0.0)
#: Messages of either direction of a seat that a fault strikes: those of its start, and those of its first requests.
MESSAGES = 10
#: Those that ``make test`` tries: the start, and one of the first answers.
FEW = (0, 3)


def answer(tokens: Sequence[int]) -> str:
    """What the scripted replica says to a prompt: another text for each, in four pieces."""
    return "-".join(str(token * 7 % 11) for token in (*tokens, 1, 2, 3)[:4])


class ScriptedSeat:
    """A thread that speaks the protocol of replicas, with an answer that can be known beforehand."""

    where = "a thread"

    def __init__(self, on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> None:
        self._on_message, self._on_end = on_message, on_end
        self._inbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._arrivals = Arrivals()
        self._sent = 0
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, message: bytes) -> bool:
        self._inbox.put(message)
        return not self._over

    def kill(self) -> None:
        self._inbox.put(None)

    def _tell(self, *message: Any) -> None:
        self._on_message(numbered(self._sent, pack(message)))
        self._sent += 1

    def _run(self) -> None:
        self._tell("hello", versions())
        why = "was killed"
        while True:
            try:
                data = self._inbox.get(timeout=0.005)
            except Empty:
                self._tell("alive", self._arrivals.count)
                continue
            if data is None:
                break
            try:
                message = self._arrivals.take(data)
            except WireError as error:
                why = f"missed a message ({error})"
                break
            if message is not None:
                self._obey(*unpack(message))
        self._over = True
        self._on_end(why)

    def _obey(self, verb: str, *arguments: Any) -> None:
        if verb == "open":
            self._tell("ready", INFO, NEED, "a loader", 64, 64, 1)
        elif verb == "submit":
            request = arguments[1]
            text = answer(request.tokens)
            self._tell("started", [request.id])
            for piece in text.partition("-"):
                self._tell("answers", [("piece", request.id, (piece, (), ()))])
            done = Generation(text=text, tokens=(1,), finish_reason="length", prompt_tokens=len(request.tokens))
            self._tell("answers", [("done", request.id, done)])


class ScriptedPlacement:
    def hosts(self) -> Sequence[Host]:
        return [Host(name="here", cpus=1)]

    def start(self, spec: SeatSpec, on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> ScriptedSeat:
        return ScriptedSeat(on_message, on_end)

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that is silent is given up soon."""
    monkeypatch.setattr(replica_set, "_GRACE", 0.0)
    monkeypatch.setattr(restarts, "_REST", (0.01, 0.02))


def opened(fault: PlacementFault) -> tuple[ReplicaSet, FaultyPlacement]:
    config = Config.from_mapping({"model": {"source": "/nowhere"}})
    specs = [WorkerSpec(config=config, seat=SeatSpec(model="m", number=number, entry="x:y")) for number in range(2)]
    placement = FaultyPlacement(ScriptedPlacement(), fault)
    return ReplicaSet("m", specs, placement, step_timeout=0.3, load_timeout=0.5), placement


def request(number: int) -> Request:
    return Request(id=f"r{number}", model="m", tokens=(number, 2), max_new_tokens=1, arrival=0.0)


def outcome(ticket: Ticket[Generation]) -> tuple[str, str] | LLMasOSError:
    """The text of its pieces and of its answer, or its error."""
    try:
        pieces = "".join(ticket)
        return pieces, ticket.result(SECONDS).text
    except LLMasOSError as error:
        return error


@pytest.mark.parametrize("at", [pytest.param(at, marks=() if at in FEW else pytest.mark.long) for at in range(MESSAGES)])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("what", FAULTS)
def test_no_fault_of_a_placement_is_silent(what: str, direction: str, at: int) -> None:
    """Whatever befalls which message: each request ends once, with the whole right answer or an error, and both replicas serve again."""
    replicas, placement = opened(PlacementFault(what, direction, at))
    ends: Counter[str] = Counter()
    try:
        tickets = [replicas.submit(request(number)) for number in range(20)]
        for ticket in tickets:
            ticket.add_done_callback(lambda each=ticket: ends.update([each.id]))
        for number, ticket in enumerate(tickets):
            found = outcome(ticket)
            assert not isinstance(found, TimeoutError), "somebody waits for ever"
            assert isinstance(found, LLMasOSError) or found == (answer((number, 2)),) * 2
        assert placement.struck.wait(SECONDS)
        whole = replicas._changes.wait_for(lambda: [each["state"] for each in replicas.describe()] == ["ready"] * 2, SECONDS)
        assert whole, "a replica was not started again"
        again = [replicas.submit(request(number)) for number in range(24, 28)]
        assert [each.result(SECONDS).text for each in again] == [answer((number, 2)) for number in range(24, 28)]
    finally:
        replicas.close()
    assert set(ends.values()) == {1}
    assert len(ends) == len(tickets)
    assert replicas.restarts <= 2


@pytest.mark.long
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("what", [what for what in FAULTS if what != "mute"])
def test_no_fault_between_processes_is_silent(what: str, direction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with replicas of a model in processes of their own."""
    tiny_checkpoint("llama", seed=3, folder=tmp_path / "model", max_position_embeddings=2048)
    made: list[FaultyPlacement] = []

    def placement(_: ComponentMaker, config: object) -> tuple[FaultyPlacement, str]:
        made.append(FaultyPlacement(LocalPlacement(), PlacementFault(what, direction, 4)))
        return made[0], "placement"

    loader = {"use": "onnx", "precision": "fp32", "threads": 1}
    plain = {"model": {"source": str(tmp_path / "model"), "context_length": 512}, "loader": loader}
    prompts = [f"{number} otters sleep" for number in range(20)]
    options = {"max_new_tokens": 8, "ignore_eos": True}
    with llmasos.Pipeline.from_config(plain) as pipeline:
        alone = [each.text for each in pipeline.model.batch(prompts, **options)]
    monkeypatch.setattr(ComponentMaker, "placement", placement)
    with Pipeline.from_config({**plain, "model": {**plain["model"], "replicas": 2}}) as pipeline:
        tickets = [pipeline.model._submit(prompt, options) for prompt in prompts]
        for ticket, right in zip(tickets, alone, strict=True):
            found = outcome(ticket)
            assert not isinstance(found, TimeoutError), "somebody waits for ever"
            assert isinstance(found, LLMasOSError) or found == (right, right)
        assert made[0].struck.is_set()
        with pipeline.hosts["default"].lease() as running:
            loop = running.loop
        assert loop._changes.wait_for(lambda: [each["state"] for each in loop.describe()] == ["ready"] * 2, SECONDS)
        assert [each.text for each in pipeline.model.batch(prompts, **options)] == alone
