"""Bounds on a scheduler's queue."""

from __future__ import annotations

import pytest

from llmasos_hookspecs import Admit, QueueBounds, Reject, Request, Stats, expected_seconds


def request(prompt: int = 10, new: int = 10) -> Request:
    return Request(id="r", model="m", tokens=range(prompt), max_new_tokens=new, arrival=0.0)


def test_an_empty_server_admits_anything() -> None:
    """A request that is larger than the whole token bound is served when nobody else waits."""
    bounds = QueueBounds(max_queue=1, max_queue_tokens=5, max_wait=0.1)
    assert isinstance(bounds.check(request(1000, 1000), Stats(now=0.0, prefill_rate=1.0, decode_rate=1.0)), Admit)


def test_zero_means_no_bound() -> None:
    """Nothing is refused where nothing is bounded."""
    stats = Stats(now=0.0, waiting=10**6, waiting_tokens=10**9, decode_rate=1.0)
    assert isinstance(QueueBounds(max_queue=0).check(request(), stats), Admit)


@pytest.mark.parametrize(
    ("bounds", "stats", "words", "retry"),
    [
        (QueueBounds(max_queue=3), Stats(now=0.0, waiting=3, waiting_tokens=300, decode_rate=50.0), "3 requests wait", 2.0),
        (QueueBounds(max_queue=3), Stats(now=0.0, waiting=3, waiting_tokens=300), "3 requests wait", 1.0),
        (
            QueueBounds(max_queue_tokens=100),
            Stats(now=0.0, waiting=2, waiting_tokens=90, waiting_prompt_tokens=45, prefill_rate=100.0, decode_rate=10.0),
            "90 tokens wait, 20 more would come",
            0.05 + 0.5,
        ),
        (
            QueueBounds(max_wait=3.0),
            Stats(now=0.0, waiting=2, waiting_tokens=90, waiting_prompt_tokens=50, prefill_rate=50.0, decode_rate=10.0),
            "about 5 seconds, and max_wait is 3",
            2.0,
        ),
    ],
)
def test_a_full_queue_says_why_and_when_to_come_again(bounds: QueueBounds, stats: Stats, words: str, retry: float) -> None:
    """The reason has the figures; the time is what the excess takes at the measured rates."""
    answer = bounds.check(request(), stats)
    assert isinstance(answer, Reject)
    assert words in answer.reason
    assert answer.retry_after == pytest.approx(retry)


def test_nothing_is_expected_before_it_was_measured() -> None:
    """Without rates there is no estimate; one rate stands in for the other."""
    assert expected_seconds(10, 10, Stats(now=0.0)) is None
    assert expected_seconds(10, 10, Stats(now=0.0, decode_rate=10.0)) == 2.0
    assert expected_seconds(10, 10, Stats(now=0.0, prefill_rate=20.0)) == 1.0


@pytest.mark.parametrize("field", ["max_sequences", "step_tokens"])
def test_there_must_be_room_for_one(field: str) -> None:
    """A server without a slot, or a step without a token, is refused."""
    with pytest.raises(ValueError, match=field):
        QueueBounds(**{field: 0})
