"""An encoder's batches, records and figures, stepped by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import pytest

from llmasos_engine.encoder_loop import EncoderLoop
from llmasos_engine.encoding import EncodeJob, EncodingWork
from llmasos_engine.guarded_encoder import GuardedEncoder
from llmasos_engine.ticket import Ticket
from llmasos_engine.usage import Usage
from llmasos_hookspecs import Cancelled, CapacityExceeded, EncoderInfo, EncoderRow, EngineFailed, LLMasOSError, RequestError, RequestRecord

SECONDS = 60.0


def rows(*lengths: int) -> list[EncoderRow]:
    return [EncoderRow(list(range(length))) for length in lengths]


class SumEncoder:
    """A row's vector is the count of its tokens and their sum; ``fault`` looks at each batch first."""

    def __init__(self, fault: Callable[[Sequence[EncoderRow]], Any] = lambda _: None) -> None:
        self.info = EncoderInfo(dimensions=2, pooling="mean", context_length=8, max_batch_tokens=12, vocab_size=100, weight_bytes=10)
        self.batches: list[list[int]] = []
        self.fault = fault

    def encode(self, rows: Sequence[EncoderRow]) -> npt.NDArray[np.float32]:
        self.fault(rows)
        self.batches.append([len(row.tokens) for row in rows])
        return np.array([[len(row.tokens), sum(row.tokens)] for row in rows], dtype=np.float32)

    def shutdown(self) -> None:
        pass


class Stepped:
    """The work of an encoder with a clock that its batches advance by two seconds."""

    def __init__(self, encoder: SumEncoder, **options: Any) -> None:
        self.encoder, self.now = encoder, 100.0
        self.records: list[RequestRecord] = []
        fault = encoder.fault

        def compute(rows: Sequence[EncoderRow]) -> None:
            self.now += 2.0
            fault(rows)

        encoder.fault = compute
        options.setdefault("on_finished", self.records.append)
        self.work = EncodingWork(GuardedEncoder(encoder, 'loader "sum"'), model="m", clock=lambda: self.now, **options)

    def add(self, name: str, *lengths: int, deadline: float | None = None, tenant: str = "t") -> Ticket[Any]:
        ticket: Ticket[Any] = Ticket(name, lambda: None, deadline)
        results = np.empty((len(lengths), 2), np.float32)
        self.work.add(EncodeJob(tenant=tenant, rows=rows(*lengths), ticket=ticket, queued=self.now, results=results))
        return ticket


def told(call: Any, *arguments: Any) -> str:
    with pytest.raises(LLMasOSError) as caught:
        call(*arguments)
    return str(caught.value)


def test_each_job_has_its_share_of_a_batch_and_the_first_what_is_left() -> None:
    """Batches of 12 tokens, the longest rows first: a third each for three jobs, and at least one row in a batch, whatever its length."""
    stepped = Stepped(SumEncoder())
    stepped.add("a", *[2] * 9)
    stepped.add("b", 1, 4, 3)
    stepped.add("c", 8)
    while stepped.work.step():
        pass
    assert stepped.encoder.batches == [[2, 2, 4, 2, 2], [2, 2, 3, 1, 2, 2], [2, 8]]
    assert stepped.work.moves == 3
    assert stepped.work.rates.prefill == pytest.approx(5.62, abs=0.01), "34 tokens in 6 seconds, the first of which count a little less."
    assert stepped.work.rates.decode == 0.0
    assert not stepped.work.step()


def test_a_record_of_each_ending() -> None:
    """What was computed for a job that failed is no cost of it, and one that never started has no time of its start."""

    def fault(rows: Sequence[EncoderRow]) -> None:
        if any(len(row.tokens) == 5 for row in rows):
            raise CapacityExceeded("no room.")

    stepped = Stepped(SumEncoder(fault))
    good, bad = stepped.add("good", 3, 2), stepped.add("bad", 5, 6, tenant="other")
    left = stepped.add("left", 1, 1)
    stepped.work.cancel(left)
    stepped.now = 101.0
    while stepped.work.step():
        pass
    assert good.result().tolist() == [[3, 3], [2, 1]]
    sentence = "The memory does not suffice for a text of 5 tokens (no room); shorten it."
    assert told(bad.result) == sentence
    records = {record.id: record for record in stepped.records}
    ended = records["good"].finished
    assert records["good"] == RequestRecord(
        id="good",
        model="m",
        tenant="t",
        queued=100.0,
        started=101.0,
        first_token=ended,
        finished=ended,
        prompt_tokens=5,
        finish_reason="stop",
        cost=5,
    )
    failed = records["bad"].finished
    assert records["bad"] == RequestRecord(
        id="bad",
        model="m",
        tenant="other",
        queued=100.0,
        started=101.0,
        finished=failed,
        prompt_tokens=11,
        finish_reason="error",
        error=sentence,
    )
    assert records["left"] == RequestRecord(
        id="left",
        model="m",
        tenant="t",
        queued=100.0,
        finished=100.0,
        prompt_tokens=2,
        finish_reason="cancelled",
        error="Request left was cancelled.",
    )
    assert stepped.work.finished == 3
    assert stepped.work.jobs == []


def test_a_deadline_ends_a_job_at_its_time() -> None:
    """Not before; and one that was ended elsewhere leaves the queue."""
    stepped = Stepped(SumEncoder())
    at, later, ended = stepped.add("at", 1, deadline=100.0), stepped.add("later", 2, deadline=100.5), stepped.add("ended", 3)
    ended.fail(Cancelled("It was ended by the watchdog."))
    stepped.work.step()
    assert told(at.result) == "Request at passed its deadline."
    assert later.result().tolist() == [[2, 1]]
    assert {record.id: (record.finish_reason, record.error) for record in stepped.records} == {
        "at": ("cancelled", "Request at passed its deadline."),
        "ended": ("cancelled", "Request ended has ended."),
        "later": ("stop", None),
    }
    assert stepped.encoder.batches == [[2]]


def test_errors_of_the_plugin_name_it_and_the_text() -> None:
    """Its own errors pass as they are; what else it raises is told with the length of the text that it failed on."""

    def raising(error: Exception) -> str:
        def fault(rows: Sequence[EncoderRow]) -> None:
            raise error

        stepped = Stepped(SumEncoder(fault))
        ticket = stepped.add("x", 3)
        stepped.work.step()
        return told(ticket.result)

    assert raising(ValueError("odd")) == 'The loader "sum" failed on a text of 3 tokens: ValueError: odd.'
    assert raising(Cancelled("As it is.")) == "As it is."
    assert raising(MemoryError()) == (
        'The memory does not suffice for a text of 3 tokens (The loader "sum" ran out of memory in encode); shorten it.'
    )


def test_a_lost_encoder_fails_what_it_had_begun_and_the_next_goes_on() -> None:
    stepped = Stepped(SumEncoder())
    begun, waits = stepped.add("begun", *[8] * 9), stepped.add("waits", *[8])
    stepped.work.step()
    assert not waits.done
    later = stepped.add("later", 2)
    stepped.work.replace_engine(GuardedEncoder(SumEncoder()), EngineFailed("The encoder is lost."))
    assert told(begun.result) == "The encoder is lost."
    assert not stepped.work.step()
    assert [ticket.result().tolist() for ticket in (waits, later)] == [[[8, 28]], [[2, 1]]]
    last = stepped.add("last", 1)
    stepped.work.replace_engine(None, EngineFailed("There is no other."))
    assert told(last.result) == "There is no other."
    assert not stepped.work.step()
    gone = stepped.add("gone", 1)
    stepped.work.abandon(EngineFailed("It hangs."))
    assert not gone.done, "Its ticket is failed elsewhere."
    assert (stepped.records[-1].id, stepped.records[-1].finish_reason, stepped.records[-1].error) == ("gone", "error", "It hangs.")
    stepped.work.fail_all(EngineFailed("Closed."))
    assert told(gone.result) == "Closed."


def test_nobody_needs_to_listen() -> None:
    stepped = Stepped(SumEncoder(), on_finished=None)
    ticket = stepped.add("x", 3)
    stepped.work.step()
    assert ticket.result().tolist() == [[3, 3]]


def test_usage_of_an_encoder() -> None:
    """Jobs with a row in a batch run, the others wait; there is no KV cache."""
    entered, proceed = threading.Semaphore(0), threading.Semaphore(0)

    def hold(_: Sequence[EncoderRow]) -> None:
        entered.release()
        assert proceed.acquire(timeout=SECONDS)

    with EncoderLoop(SumEncoder(hold), model="m") as loop:
        idle = Usage(
            model="m",
            waiting=0,
            running=0,
            waiting_tokens=0,
            running_tokens=0,
            finished=0,
            kv_used=0,
            kv_cached=0,
            kv_capacity=0,
            kv_bytes_per_token=0,
            cached_prefixes=0,
            cache_hits=0,
            prefill_rate=0.0,
            decode_rate=0.0,
            scheduler="",
            silent=0.0,
        )
        assert attrs.evolve(loop.usage(), silent=0.0) == idle
        first = loop.submit("first", rows(1))
        assert entered.acquire(timeout=SECONDS)
        tickets = [first, loop.submit("runs", rows(8, 8)), loop.submit("waits", rows(8)), loop.submit("waits too", rows(7))]
        proceed.release()
        assert entered.acquire(timeout=SECONDS)
        found = loop.usage()
        assert found.silent >= 0
        assert attrs.evolve(found, silent=0.0, prefill_rate=0.0) == attrs.evolve(
            idle, waiting=2, running=1, waiting_tokens=15, running_tokens=16, finished=1
        )
        proceed.release(100)
        for ticket in tickets:
            ticket.result(SECONDS)
        assert loop.usage().prefill_rate > 0
        assert loop.describe() == []
        assert repr(loop) == "<EncoderLoop m: mean>"
    assert repr(loop) == "<EncoderLoop m: closed>"


def test_an_encoder_s_loop_without_options() -> None:
    """Names what it was not told the names of; texts are the default tenant's, and are counted from 1."""
    records: list[RequestRecord] = []

    def fail(_: Any) -> Any:
        raise ValueError("planted")

    with EncoderLoop(SumEncoder(fail), on_finished=records.append) as loop:
        assert repr(loop) == "<EncoderLoop model: mean>"
        with pytest.raises(EngineFailed) as caught:
            loop.submit("a", rows(2)).result(SECONDS)
        with pytest.raises(RequestError, match=r"^Text 1 has no tokens"):
            loop.submit("b", [EncoderRow([])])
    assert str(caught.value) == "The encoder failed on a text of 2 tokens: ValueError: planted."
    assert [(record.model, record.tenant, record.finish_reason, record.cost) for record in records] == [("model", "default", "error", 0)]


def test_rows_that_no_encoder_takes_are_told_apart() -> None:
    """By the number of the text, from 1 or from what the caller counts from; a whole context and the last token are fine."""
    with EncoderLoop(SumEncoder(), context_length=6) as loop:
        for row, said in (
            (EncoderRow([]), "Text 2 has no tokens; give at least one character."),
            (EncoderRow([1] * 7), "Text 2 has 7 tokens, and the model takes 6; shorten it, or allow truncate=True."),
            (EncoderRow([1, 2], [0]), "Text 2 has 2 tokens and 1 types; each token needs one."),
            (EncoderRow([5, 100]), "Text 2 holds a token outside the vocabulary, whose ids are below 100."),
            (EncoderRow([-1, 5]), "Text 2 holds a token outside the vocabulary, whose ids are below 100."),
        ):
            assert told(loop.submit, "x", [EncoderRow([1]), row]) == said
        with pytest.raises(LLMasOSError) as caught:
            loop.submit("x", [EncoderRow([100])])
        assert vars(caught.value)["param"] == "tokens"
        assert loop.submit("x", [EncoderRow([0, 99] * 3, [0, 1] * 3)]).result(SECONDS).tolist() == [[6, 297]]
        assert loop.submit("none", []).result(SECONDS).shape == (0, 2)
    with EncoderLoop(SumEncoder()) as loop:
        assert loop.context_length == 8
