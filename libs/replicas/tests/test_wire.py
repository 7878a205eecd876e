"""What crosses from process to process: plain data, and all of it comes out as it went in."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from llmasos_hookspecs import ConfigError, Generation, Rejected, Request, RequestError, SamplingParams, TokenLogprob
from llmasos_hookspecs.sampling import Constraint
from llmasos_replicas.wire import WireError, pack, unpack

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.frozensets(st.text(), max_size=1),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.lists(st.integers(-(2**70), 2**70), min_size=30, max_size=40)
        | st.lists(st.integers(0, 2**31), min_size=30, max_size=40).map(tuple)
    ),
    max_leaves=20,
)


def is_plain(value: Any) -> bool:
    """Whether it is of the types that MessagePack itself has."""
    if isinstance(value, dict):
        return all(map(is_plain, (*value, *value.values())))
    return all(map(is_plain, value)) if isinstance(value, list) else isinstance(value, str | bytes | int | float | None)


@settings(max_examples=settings.default.max_examples // 2)
@given(st.lists(PLAIN))
@example([{"t": []}, {"c": "Request"}, "\ud800 \U0001f600", tuple(range(2**63 - 20, 2**63 + 20))])
def test_plain_data_crosses_as_it_is(message: list[Any]) -> None:
    """Whatever a message holds comes out the same, types and all, also what looks like a tag; on the way it is of MessagePack's types."""
    data = pack(tuple(message))
    assert is_plain(msgspec.msgpack.decode(data))
    found = unpack(data)
    assert found == message
    assert repr(found) == repr(message)


def test_requests_answers_and_arrays_cross_as_they_are() -> None:
    """The contract's own classes, with all that they hold."""
    sampling = SamplingParams(logit_bias={3: -1.0}, stop=("\ud800", "x"), constraint=Constraint("json_schema", {"type": ["object"]}))
    request = Request(id="请求", model="m", tokens=tuple(range(500)), max_new_tokens=3, arrival=1.5, sampling=sampling)
    logprob = TokenLogprob(token=1, text="a", logprob=-0.5, top=((2, "b", -1.0),))
    answer = Generation(text="t", tokens=(1, 2), finish_reason="stop", prompt_tokens=3, logprobs=(logprob,))
    assert unpack(pack((request, answer))) == [request, answer]
    logits = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
    (found,) = unpack(pack((logits,)))
    assert found.dtype == logits.dtype
    assert np.array_equal(found, logits)
    found[0] = 1  # it is the receiver's own


def test_errors_cross_as_kind_and_sentence() -> None:
    """An error of a plugin's own class is the nearest of ours; what no process understands is left behind."""

    class Mine(RequestError):
        def __init__(self, one: object, two: object) -> None:
            super().__init__(f"{one} {two}")
            self.problems = object()

    config, rejected, mine = unpack(pack((ConfigError("No.", "a.b"), Rejected("Full.", 2.5), Mine("this", "that"))))
    assert (type(config), str(config), config.path) == (ConfigError, "No.", "a.b")
    assert (type(rejected), str(rejected), rejected.retry_after) == (Rejected, "Full.", 2.5)
    assert (type(mine), str(mine)) == (RequestError, "this that")


@pytest.mark.parametrize("value", [object(), len, Path("x"), {1, 2}, np.array(["a"]), threading.Lock()])
def test_what_is_no_plain_data_is_refused_by_its_sender(value: Any) -> None:
    """With a sentence, and before anything is sent."""
    with pytest.raises(WireError, match="give plain data"):
        pack((value,))


def test_what_nests_too_deeply_is_not_sent() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(WireError, match="cannot be sent"):
        pack((value,))


#: Plain data as another program may send it: maps with and without tags.
FOREIGN = st.recursive(
    st.none() | st.integers(0, 99) | st.text(max_size=3) | st.binary(max_size=9) | st.sampled_from(("Request", "Rejected", "O", "<f4")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("t", "i", "n", "s", "f", "m", "a", "c", "e", "x", "tuple", "dtype", "shape", "fields")), inner)
    ),
    max_leaves=6,
)


@given(st.binary(max_size=60) | FOREIGN.map(msgspec.msgpack.encode) | st.lists(FOREIGN).map(msgspec.msgpack.encode))
@example(pickle.dumps(["verb", 1]))
@example(msgspec.msgpack.encode([msgspec.msgpack.Ext(5, b"x")]))
@example(msgspec.msgpack.encode([{"c": "Popen", "fields": {"args": "x"}}]))
@example(b"\x91" * 100_000)
def test_what_is_no_message_is_an_error(data: bytes) -> None:
    """Of one kind, whatever it is: a message makes nothing but the classes that are listed."""
    try:
        unpack(data)
    except WireError as error:
        assert "is no message" in str(error)  # noqa: PT017 - some of these bytes are a message


@pytest.mark.parametrize(
    "value",
    [
        {"c": "Popen", "fields": {}},
        {"e": "SystemExit", "sentence": "x", "details": {"m": []}},
        {"x": 1},
        {},
        {"a": b"12345678", "dtype": "O", "shape": [1]},
    ],
)
def test_a_message_makes_only_what_is_listed(value: Any) -> None:
    """No class, error, tag or array beside those of this format."""
    with pytest.raises(WireError, match="is no message"):
        unpack(msgspec.msgpack.encode([value]))
