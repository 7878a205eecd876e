"""What a replica tells its parent of the answers of a step, and whom its parent wakes."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from libs.replicas.tests.seats import ScriptedPlacement, ScriptedSeat, specs

from llmasos.compose.replicas.worker import PREFILL_SECONDS, Answers, PrefillTeller
from llmasos_engine.ticket import Piece, Ticket
from llmasos_hookspecs import SOURCE, Media, PlacedMedia, PromptProgress, Request, virtual_tokens
from llmasos_replicas.replica_set import ReplicaSet
from llmasos_replicas.wire import pack, unpack

SECONDS = 20.0


def test_media_cross_to_replicas_as_plain_bytes() -> None:
    """A request comes out of a message with its media and their content."""
    media = Media.of(SOURCE, np.arange(40))
    placed = PlacedMedia(media, 0, 40)
    request = Request(id="r", model="m", tokens=(*virtual_tokens(media, 40, 97), 3), max_new_tokens=6, arrival=0.0, media=(placed,))
    (received,) = unpack(pack((request,)))
    assert received == request
    assert received.media[0].media.data.tolist() == list(range(40))
    assert b"pickle" not in pack((request,))


def test_a_replica_tells_its_parent_seldom_and_always_the_end() -> None:
    """At most four times a second, in the message of the step."""
    sent: list[Any] = []
    ticket: Ticket[Any] = Ticket("r", lambda: None)
    now = [0.0]
    tell = PrefillTeller(ticket, Answers(lambda answers: sent.extend(answers)), lambda: now[0])
    steps = 20
    for step in range(steps + 1):
        tell(PromptProgress(total=steps, cached=0, processed=step, seconds=now[0]))
        now[0] += PREFILL_SECONDS / 4
    assert [(verb, name, progress.processed) for verb, name, progress in sent] == [("prefill", "r", at) for at in (0, 4, 8, 12, 16, 20)]
    assert unpack(pack(tuple(sent[1]))) == list(sent[1])
    now[0] = 0.0
    sent.clear()
    tell = PrefillTeller(ticket, Answers(lambda answers: sent.extend(answers)), lambda: now[0])
    for processed in (0, 7, 9):
        tell(PromptProgress(total=9, cached=0, processed=processed, seconds=0.0))
    assert [progress.processed for *_, progress in sent] == [0, 9]


def test_a_replica_tells_of_a_step_in_one_message(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """The pieces of eight answers, and their ends after them, in as many messages as there are steps; and each in its order."""
    engine = hash_engine(max_sequences=8)
    loop, gate = make_loop(engine, max_sequences=8), threading.Event()
    loop._inbox.send(lambda: gate.wait(SECONDS))
    sent: list[Sequence[tuple[str, str, Any]]] = []
    answers = Answers(sent.append)
    tickets = [loop.submit(request_of([place, 5], 40, ignore_eos=True)) for place in range(8)]
    ended = threading.Semaphore(0)

    def piece(ticket: Ticket[Any], found: Piece) -> None:
        answers.add(ticket, "piece", ticket.id, found.text)

    def done(ticket: Ticket[Any]) -> None:
        answers.add(ticket, "done", ticket.id, ticket.result().text)

    for ticket in tickets:
        ticket.listen(functools.partial(piece, ticket))
        ticket.add_done_callback(functools.partial(done, ticket))
        ticket.add_done_callback(ended.release)
    gate.set()
    for _ in tickets:
        assert ended.acquire(timeout=SECONDS)
    loop.close()
    assert 0 < len(sent) <= len(engine.steps)
    for ticket in tickets:
        *pieces, last = [(kind, text) for message in sent for kind, which, text in message if which == ticket.id]
        assert {kind for kind, _ in pieces} == {"piece"}
        assert last == ("done", "".join(text for _, text in pieces))


def test_a_replicas_message_wakes_an_event_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of its readers have a piece in it."""
    placement = ScriptedPlacement(lambda _, receive, end: ScriptedSeat(receive, end))
    replicas = ReplicaSet("m", specs(1), placement)
    posts: list[Any] = []

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        post = loop.call_soon_threadsafe
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *arguments: (posts.append(arguments), post(*arguments))[1])
        requests = [Request(id=str(number), model="m", tokens=(1, 2), max_new_tokens=1, arrival=0.0) for number in range(8)]
        readers = [replicas.submit(request).apieces() for request in requests]
        first = [asyncio.ensure_future(anext(reader)) for reader in readers]
        await asyncio.sleep(0)
        message = ("answers", [("piece", request.id, (request.id, (), ())) for request in requests])
        threading.Thread(target=placement.seats[0].tell, args=message, daemon=True).start()
        found = [piece.text for piece in await asyncio.gather(*first)]
        for reader in readers:
            await reader.aclose()
        return found

    try:
        assert asyncio.run(asyncio.wait_for(main(), SECONDS)) == list("01234567")
    finally:
        replicas.close()
    assert len(posts) == 1
