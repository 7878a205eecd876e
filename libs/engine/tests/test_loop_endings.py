"""How requests end before they are served: cancelled, refused, past their deadline."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from llmasos_engine.ticket import ResultTimeout
from llmasos_hookspecs import (
    Admit,
    Cancelled,
    ContextLengthExceeded,
    Reject,
    Rejected,
    RequestError,
    RequestRecord,
    ResourceError,
)

SECONDS = 120.0  # after which a test that hangs is given up


def test_cancel_frees_the_slot_and_keeps_the_text(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """A cancelled request ends within a step, with the text it has; one that waits for its slot begins."""
    gate = make_gate()
    engine = hash_engine(max_sequences=1, fault=gate)
    loop = make_loop(engine)
    first = loop.submit(request_of([1, 2, 3], 50, ignore_eos=True))
    second = loop.submit(request_of([4, 5, 6], 5, ignore_eos=True))
    assert gate.reached.wait(SECONDS)
    first.cancel()
    gate.open.set()
    generation = first.result(SECONDS)
    assert generation.finish_reason == "cancelled"
    assert len(generation.tokens) <= 1
    assert len(second.result(SECONDS).tokens) == 5


def test_what_has_no_text_ends_in_an_error_where_it_is_cancelled(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Half of the scores or logits are none."""
    gate = make_gate()
    loop = make_loop(hash_engine(fault=gate), step_tokens=4)
    scores, logits = loop.submit_score(request_of([1] * 9, id="a"), [[3]]), loop.submit_logits(request_of([2] * 9, id="b"))
    assert gate.reached.wait(SECONDS)
    for ticket in (scores, logits):
        ticket.cancel()
    gate.open.set()
    for ticket, said in ((scores, "Request a was cancelled before its scores"), (logits, "Request b was cancelled before its logits")):
        with pytest.raises(Cancelled) as caught:
            ticket.result(SECONDS)
        assert str(caught.value) == f"{said} were complete."


def test_leaving_a_stream_cancels(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Who breaks out of the iteration wants no more."""
    gate = make_gate(after=20)
    loop = make_loop(hash_engine(context_length=2000, fault=gate))
    ticket = loop.submit(request_of([1, 2, 3], 1900, ignore_eos=True))
    for _ in ticket:
        break
    gc.collect()
    gate.open.set()
    generation = ticket.result(SECONDS)
    assert generation.finish_reason == "cancelled"


def test_a_result_may_be_waited_for_in_vain(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """A timeout says so in one sentence, and the request goes on."""
    gate = make_gate()
    loop = make_loop(hash_engine(fault=gate))
    ticket = loop.submit(request_of([1, 2, 3], 5))
    with pytest.raises(ResultTimeout, match=r"is not finished after 0\.01 seconds"):
        ticket.result(0.01)
    gate.open.set()
    assert ticket.result(SECONDS).tokens


def test_async_callers(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Awaiting, streaming, and cancelling the task that awaits, on one event loop."""
    gate = make_gate()
    gate.open.set()
    loop = make_loop(hash_engine(context_length=2000, fault=gate))

    async def stream(ticket: Any) -> str:
        return "".join([piece async for piece in ticket])

    async def main() -> None:
        tickets = [loop.submit(request_of([i, 2, 3], 20, ignore_eos=True)) for i in range(6)]
        texts = await asyncio.gather(*(stream(ticket) for ticket in tickets))
        answers = await asyncio.gather(*(ticket.aresult() for ticket in tickets))
        assert [answer.text for answer in answers] == texts
        gate.open.clear()
        long = loop.submit(request_of([1, 2, 3], 1900, ignore_eos=True))
        task = asyncio.ensure_future(long.aresult())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open.set()
        assert (await long.aresult()).finish_reason == "cancelled"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("tokens", "options", "error", "words"),
    [
        ([], {}, RequestError, "prompt is empty"),
        ([1, 97], {}, RequestError, "token 97, and the vocabulary ends at 96"),
        ([-1], {}, RequestError, "token -1"),
        ([1] * 64, {}, ContextLengthExceeded, "64 tokens, and the model's context holds 64"),
        ([1] * 60, {}, ContextLengthExceeded, "ask for 4 at most"),
        ([1], {"logit_bias": {500: 1.0}}, RequestError, "logit_bias holds the token 500"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(
    make_loop: Any, hash_engine: Any, request_of: Any, tokens: list[int], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Each with one sentence that says what is wrong; nothing is cut silently."""
    with pytest.raises(error, match=words):
        make_loop(hash_engine()).submit(request_of(tokens, 8, **options))


def test_what_can_never_fit_into_memory_is_refused(make_loop: Any, hash_engine: Any, request_of: Any) -> None:
    """A budget for 30 tokens refuses 31, and serves 30."""
    loop = make_loop(hash_engine(), memory=1000 + 30 * 10)
    with pytest.raises(ResourceError, match="needs room for 31 tokens, and the KV cache holds 30"):
        loop.submit(request_of([1] * 21, 10))
    assert len(loop.submit(request_of([1] * 20, 10, ignore_eos=True)).result(SECONDS).tokens) == 10


def test_a_rejection_reaches_the_caller(make_loop: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """The policy's reason and its time to retry come out of the ticket, and the observer hears of it."""
    records: list[RequestRecord] = []
    fifo.admit = lambda request, _: Reject("the queue is full", 2.5) if request.tenant == "b" else Admit()
    loop = make_loop(hash_engine(), fifo, on_finished=records.append)
    ticket = loop.submit(request_of([1, 2], 3, tenant="b"))
    with pytest.raises(Rejected, match="the queue is full") as caught:
        ticket.result(SECONDS)
    assert caught.value.retry_after == 2.5
    assert loop.submit(request_of([1, 2], 3)).result(SECONDS).tokens
    assert [record.finish_reason for record in records] == ["rejected", "length"]
    assert records[0].error is not None
    assert records[0].started is None


def test_two_requests_with_one_id_are_not_mixed_up(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """The second is refused while the first is on its way."""
    gate = make_gate()
    loop = make_loop(hash_engine(fault=gate))
    first = loop.submit(request_of([1, 2], 3, id="same"))
    second = loop.submit(request_of([3, 4], 3, id="same"))
    gate.open.set()
    with pytest.raises(RequestError, match="id same is on its way already"):
        second.result(SECONDS)
    assert first.result(SECONDS).tokens


def test_a_deadline_ends_a_request(make_loop: Any, hash_engine: Any, request_of: Any, make_gate: Any) -> None:
    """Past its deadline a request fails with what it had, whether it waits or runs."""
    now = [100.0]
    gate = make_gate()
    loop = make_loop(hash_engine(max_sequences=1, fault=gate), clock=lambda: now[0])
    running = loop.submit(request_of([1, 2], 30, arrival=100.0, deadline=101.0, ignore_eos=True))
    waiting = loop.submit(request_of([3, 4], 30, arrival=100.0, deadline=101.0, ignore_eos=True))
    patient = loop.submit(request_of([5, 6], 3, arrival=100.0))
    assert gate.reached.wait(SECONDS)
    now[0] = 102.0
    gate.open.set()
    for ticket in (running, waiting):
        with pytest.raises(Cancelled, match="passed its deadline, 1 seconds after it came"):
            ticket.result(SECONDS)
    assert patient.result(SECONDS).tokens
