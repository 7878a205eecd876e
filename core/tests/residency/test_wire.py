"""What crosses from process to process: plain data, and all of it comes out as it went in."""

from __future__ import annotations

import math
import pickle
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, strategies as st

from llmasos.compose.replicas.wire import WireError, pack, unpack
from llmasos_hookspecs import CheckpointError, EngineFailed, Rejected, SamplingParams, TokenLogprob

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=()), max_size=9)
    | st.binary(max_size=9)
)
KEYS = st.text(max_size=4) | st.integers(-9, 9) | st.tuples(st.integers(0, 9))
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=40)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.frozensets(st.integers(), max_size=4)
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """As ``==``, and of the same types throughout: 1 is neither True nor 1.0, and a tuple no list."""
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, list | tuple):
        return all(map(same, one, other))
    return not isinstance(one, dict) or all(same(one[key], other[key]) for key in one)


def is_plain(value: Any) -> bool:
    """Whether it is of the types that MessagePack itself has."""
    if isinstance(value, dict):
        return all(map(is_plain, (*value, *value.values())))
    return all(map(is_plain, value)) if isinstance(value, list) else isinstance(value, str | bytes | int | float | None)


@given(VALUES)
@example({"m": {"t": []}, "c": "Request"})
@example(list(range(40)))
@example(tuple(range(2**63 - 20, 2**63 + 20)))
@example("\ud800 \U0001f600")
def test_a_message_comes_out_as_it_went_in(value: Any) -> None:
    """Values that look like tags, numbers that no machine word holds, and texts that are no Unicode too; on the way all is plain data."""
    data = pack(("verb", value, 1.5))
    assert is_plain(msgspec.msgpack.decode(data))
    assert same(unpack(data), ["verb", value, 1.5])


def test_objects_and_arrays_come_out_as_they_went_in() -> None:
    """Those of the contract; an array can be written to, and a number of numpy is one of Python."""
    sent = (SamplingParams(stop=("a", "b"), logit_bias={3: -1.0}), TokenLogprob(token=1, text="\ud83d", logprob=-math.inf, top=()))
    assert tuple(unpack(pack(sent))) == sent
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    (found,) = unpack(pack((array[:, ::2],)))
    assert (found.dtype, found.tolist()) == (np.float16, [[0, 2], [3, 5]])
    found[0, 0] = 9
    assert same(unpack(pack((np.float32(0.5), np.int64(7), np.bool_(True)))), [0.5, 7, True])
    (nan,) = unpack(pack((math.nan,)))
    assert math.isnan(nan)


def test_errors_come_out_as_their_kind_with_their_sentence() -> None:
    """And what callers read of them; a class of a plugin as the kind of the contract that it is."""

    class Own(EngineFailed):
        def __init__(self, one: int, other: int) -> None:
            super().__init__(f"{one} of {other}")

    own, rejected, checkpoint = unpack(pack((Own(1, 2), Rejected("Full.", 2.5), CheckpointError("It is cut."))))
    assert (type(own), str(own)) == (EngineFailed, "1 of 2")
    assert (type(rejected), str(rejected), rejected.retry_after) == (Rejected, "Full.", 2.5)
    assert (type(checkpoint), str(checkpoint)) == (CheckpointError, "It is cut.")


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j, np.array([object()]), print, [[object()]], ValueError("x"), int])
def test_what_is_no_plain_data_is_not_sent(value: Any) -> None:
    with pytest.raises(WireError, match="cannot be sent to a replica"):
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
