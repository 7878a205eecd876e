"""The loop of an encoder: many callers share its batches, and each hears of its own faults only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from core.tests.planted import ERRORS, Fault

from llmasos_engine.encoder_loop import EncoderLoop
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import (
    Cancelled,
    CapacityExceeded,
    ContextLengthExceeded,
    EncoderInfo,
    EncoderRow,
    EngineFailed,
    LLMasOSError,
    ModelClosed,
    RequestError,
    ResourceError,
)

SECONDS = 60.0
BATCH = 16


class SumEncoder:
    """A row's vector is the count of its tokens and their sum; ``fault`` looks at each batch first."""

    def __init__(self, fault: Callable[[Sequence[EncoderRow]], Any] = lambda _: None) -> None:
        self.info = EncoderInfo(
            dimensions=2, pooling="mean", context_length=8, max_batch_tokens=BATCH, vocab_size=100, weight_bytes=10, batch_bytes=5
        )
        self.batches: list[list[int]] = []
        self.shut_down = False
        self._fault = fault

    def encode(self, rows: Sequence[EncoderRow]) -> npt.NDArray[np.float32]:
        found = self._fault(rows)
        if found is not None:
            return found  # type: ignore[no-any-return]  # what a wrong plugin gives
        self.batches.append([len(row.tokens) for row in rows])
        return np.array([[len(row.tokens), sum(row.tokens)] for row in rows], dtype=np.float32)

    def shutdown(self) -> None:
        self.shut_down = True


def rows(*lengths: int) -> list[EncoderRow]:
    return [EncoderRow(list(range(length))) for length in lengths]


def right(found: Any, *lengths: int) -> bool:
    return bool(np.array_equal(found, [[length, sum(range(length))] for length in lengths]))


class Gate:
    """Holds the first batch until it is opened, so that what comes meanwhile is queued together."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, _: Sequence[EncoderRow]) -> None:
        if not self.reached.is_set():
            self.reached.set()
            assert self.opened.wait(SECONDS)


Make = Callable[..., EncoderLoop]


@pytest.fixture
def make() -> Iterator[Make]:
    loops: list[EncoderLoop] = []

    def start(encoder: Any, **options: Any) -> EncoderLoop:
        loops.append(EncoderLoop(encoder, label='loader "sum"', **options))
        return loops[-1]

    yield start
    for loop in loops:
        loop.close()


def gated(make: Make, encoder: SumEncoder, gate: Gate) -> tuple[EncoderLoop, Ticket[Any]]:
    loop = make(encoder)
    first = loop.submit("first", rows(1))
    assert gate.reached.wait(SECONDS)
    return loop, first


def test_rows_of_many_callers_share_batches_that_never_pass_the_budget(make: Make) -> None:
    """Two callers' texts come back in their own order, from fewer batches than callers have texts."""
    gate = Gate()
    encoder = SumEncoder(gate)
    loop, first = gated(make, encoder, gate)
    tickets = {name: loop.submit(name, rows(*lengths)) for name, lengths in (("a", (1, 5, 3)), ("b", (2, 8, 4, 1)))}
    gate.opened.set()
    assert right(first.result(SECONDS), 1)
    assert right(tickets["a"].result(SECONDS), 1, 5, 3)
    assert right(tickets["b"].result(SECONDS), 2, 8, 4, 1)
    assert [sum(batch) for batch in encoder.batches] == [1, 16, 8], "24 tokens of both fit into two batches of 16 at most"


def test_one_text_does_not_wait_for_a_long_list(make: Make) -> None:
    """A caller that comes last is in the next batch, whatever others have queued."""
    gate = Gate()
    encoder = SumEncoder(gate)
    loop, _ = gated(make, encoder, gate)
    many = loop.submit("many", rows(*[4] * 100))
    one = loop.submit("one", rows(3))
    gate.opened.set()
    assert right(one.result(SECONDS), 3)
    many.result(SECONDS)
    assert 3 in encoder.batches[1]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([EncoderRow([])], RequestError), ([EncoderRow([100])], RequestError), ([EncoderRow([-1])], RequestError),
        ([EncoderRow([1, 2], [0])], RequestError), (rows(9), ContextLengthExceeded),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_encoded_is_refused_before_it_is_queued(make: Make, given: list[EncoderRow], error: type[Exception]) -> None:
    encoder = SumEncoder()
    with pytest.raises(error, match="Text 7"):
        make(encoder).submit("x", given, first=7)
    assert not encoder.batches


def test_a_row_that_fails_fails_its_caller_alone(make: Make) -> None:
    """A batch that fails is tried again in halves: the text that breaks the plugin ends one request, with the plugin's name."""
    gate = Gate()

    def fault(found: Sequence[EncoderRow]) -> None:
        gate(found)
        if any(len(row.tokens) == 5 for row in found):
            raise RuntimeError("five")

    loop, _ = gated(make, SumEncoder(fault), gate)
    bad, good = loop.submit("bad", rows(1, 5)), loop.submit("good", rows(2, 3))
    gate.opened.set()
    assert right(good.result(SECONDS), 2, 3)
    with pytest.raises(EngineFailed, match='loader "sum" failed on a text of 5 tokens: RuntimeError: five'):
        bad.result(SECONDS)
    assert right(loop.submit("later", rows(4)).result(SECONDS), 4)


def test_a_batch_that_finds_no_memory_is_halved(make: Make) -> None:
    """``CapacityExceeded`` and ``MemoryError`` make batches smaller; only a text that finds no room alone fails."""

    def fault(found: Sequence[EncoderRow]) -> None:
        if sum(len(row.tokens) for row in found) > 6:
            raise CapacityExceeded("no room") if len(found) % 2 else MemoryError

    loop = make(SumEncoder(fault))
    assert right(loop.submit("fits", rows(3, 3, 2, 5)).result(SECONDS), 3, 3, 2, 5)
    with pytest.raises(ResourceError, match="text of 7 tokens"):
        loop.submit("long", rows(7)).result(SECONDS)


@pytest.mark.parametrize("name", sorted(set(ERRORS) - {"CapacityExceeded", "MemoryError"}))
def test_a_plugin_that_raises_whatever_it_likes_ends_in_an_error_of_ours(make: Make, name: str) -> None:
    """Every error, once, ends the request that met it; with ``rebuild`` the next one is answered."""
    fault = Fault(method="encode", at=0, error=ERRORS[name])
    loop = make(SumEncoder(lambda _: fault.strike("encode")), rebuild=SumEncoder)
    with pytest.raises(LLMasOSError):
        loop.submit("x", rows(1)).result(SECONDS)
    assert right(loop.submit("y", rows(2)).result(SECONDS), 2)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((1, 3), np.float32), np.zeros((1, 2)), [[0.0, 0.0]], np.zeros((2, 2), np.float32), "text"],
)
def test_what_is_no_vector_for_each_row_loses_the_encoder(make: Make, wrong: Any) -> None:
    lost = threading.Event()
    encoder = SumEncoder(lambda _: wrong)
    loop = make(encoder, on_lost=lost.set)
    with pytest.raises(EngineFailed, match='loader "sum" returned'):
        loop.submit("x", rows(1)).result(SECONDS)
    assert lost.wait(SECONDS)
    assert encoder.shut_down


def test_numbers_that_are_not_finite_reach_nobody(make: Make) -> None:
    """The text whose vector is no vector fails; its neighbour in the batch does not."""
    gate = Gate()

    def fault(found: Sequence[EncoderRow]) -> Any:
        gate(found)
        table = np.array([[len(row.tokens), sum(row.tokens)] for row in found], dtype=np.float32)
        table[[len(row.tokens) == 2 for row in found]] = np.nan
        return table

    loop, _ = gated(make, SumEncoder(fault), gate)
    bad, good = loop.submit("bad", rows(2)), loop.submit("good", rows(3))
    gate.opened.set()
    assert right(good.result(SECONDS), 3)
    with pytest.raises(EngineFailed, match="not finite for a text of 2 tokens"):
        bad.result(SECONDS)


def test_cancelled_and_late_requests_end_and_leave_the_queue(make: Make) -> None:
    gate = Gate()
    encoder = SumEncoder(gate)
    loop, first = gated(make, encoder, gate)
    left, late = loop.submit("left", rows(5)), loop.submit("late", rows(6), deadline=0.0)
    left.cancel()
    gate.opened.set()
    first.result(SECONDS)
    for ticket in (left, late):
        with pytest.raises(Cancelled):
            ticket.result(SECONDS)
    assert loop.submit("after", rows(2)).result(SECONDS) is not None
    assert not [batch for batch in encoder.batches if 5 in batch or 6 in batch]
    assert (loop.usage().waiting, loop.usage().running, loop.usage().finished) == (0, 0, 4)


def test_a_plugin_that_does_not_return_is_given_up(make: Make) -> None:
    """After ``step_timeout`` the caller gets an error that names the plugin, and the model is lost."""
    gate, lost = Gate(), threading.Event()
    loop = make(SumEncoder(gate), step_timeout=0.2, on_lost=lost.set)
    with pytest.raises(EngineFailed, match='loader "sum" in encode did not return'):
        loop.submit("x", rows(1)).result(SECONDS)
    assert lost.wait(SECONDS)
    gate.opened.set()


def test_closing_ends_what_waits_and_shuts_the_encoder_down(make: Make) -> None:
    gate = Gate()
    encoder = SumEncoder(gate)
    loop, first = gated(make, encoder, gate)
    waiting = loop.submit("waiting", rows(3))
    threading.Timer(0.05, gate.opened.set).start()
    loop.close()
    first.result(SECONDS)
    with pytest.raises(ModelClosed):
        waiting.result(SECONDS)
    with pytest.raises(ModelClosed):
        loop.submit("after", rows(1))
    assert encoder.shut_down


def test_a_record_tells_of_each_request(make: Make) -> None:
    records: list[Any] = []
    loop = make(SumEncoder(), on_finished=records.append, model="m")
    loop.submit("a", rows(2, 3), tenant="t").result(SECONDS)
    facts = [(each.id, each.model, each.tenant, each.prompt_tokens, each.generated_tokens, each.finish_reason) for each in records]
    assert facts == [("a", "m", "t", 5, 0, "stop")]
