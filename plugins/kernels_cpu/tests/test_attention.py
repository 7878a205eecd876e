"""Attention by every instruction set of this processor: that of float64, with the same bits in any batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from plugins.kernels_cpu.tests.matrices import SETS

from llmasos_hookspecs import LLMasOSError
from llmasos_kernels_cpu.library import Attention, attend

LENGTH = 90
#: Sequence and position of new tokens: one after fifty others, three in a row, and a prompt that crosses blocks of keys.
PLACES = [(0, 50), (1, 70), (1, 71), (1, 72), *((2, at) for at in range(40))]
#: Heads, heads of keys, width, and what else a layer may have.
SHAPES: list[tuple[int, int, int, dict[str, Any]]] = [
    (9, 3, 64, {}),
    (4, 4, 48, {"window": 5}),
    (8, 1, 80, {"softcap": 20.0}),
    (7, 1, 16, {"window": 33, "softcap": 3.0}),
    (2, 1, 128, {"window": 1}),
]


@attrs.frozen(eq=False)
class Case:
    attention: Attention
    states: np.ndarray
    keys: np.ndarray
    values: np.ndarray

    def compute(self, tokens: Sequence[int], name: str, threads: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The results of some tokens, and keys and values with them."""
        keys, values, places = self.keys.copy(), self.values.copy(), np.array(PLACES)
        found = attend(self.attention, self.states[tokens], places[tokens], keys, values, name=name, threads=threads)
        return found, keys, values


def case(heads: int, kv_heads: int, width: int, extra: dict[str, Any], *, rotated: bool = True) -> Case:
    random = np.random.default_rng(heads)
    angles = random.uniform(0, 6, (LENGTH, width // 2))
    tables = (np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)) if rotated else None
    cache = [random.normal(size=(3, kv_heads, LENGTH, width)).astype(np.float32) for _ in range(2)]
    states = random.normal(size=(len(PLACES), (heads + 2 * kv_heads) * width)).astype(np.float32)
    return Case(Attention(heads=heads, kv_heads=kv_heads, scale=0.3, rotations=tables, **extra), states, *cache)


def expected(given: Case) -> np.ndarray:
    """In float64, token by token."""
    attention, (_, kv_heads, _, width) = given.attention, given.keys.shape
    keys, values = given.keys.astype(np.float64), given.values.astype(np.float64)
    states = given.states.astype(np.float64).reshape(len(PLACES), -1, width)

    def rotate(heads: np.ndarray, position: int) -> np.ndarray:
        if attention.rotations is None:
            return heads
        cosines, sines = (table[position].astype(np.float64) for table in attention.rotations)
        low, high = np.split(heads, 2, axis=1)
        return np.concatenate((low * cosines - high * sines, high * cosines + low * sines), axis=1)

    results = []
    for (sequence, position), heads in zip(PLACES, states, strict=True):
        queries, key, value = np.split(heads, [attention.heads, attention.heads + kv_heads])
        keys[sequence, :, position], values[sequence, :, position] = rotate(key, position), value
        seen = slice(max(0, position - attention.window + 1) if attention.window else 0, position + 1)
        for head, query in enumerate(rotate(queries, position)):
            group = head * kv_heads // attention.heads
            scores = keys[sequence, group, seen] @ query * attention.scale
            if attention.softcap:
                scores = attention.softcap * np.tanh(scores / attention.softcap)
            weights = np.exp(scores - scores.max())
            results.append(weights / weights.sum() @ values[sequence, group, seen])
    return np.array(results).reshape(len(PLACES), -1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_is_that_of_float64(shape: Any) -> None:
    """By plain C++, to whose bits the other instruction sets are held; what keys and values become too."""
    for rotated in (True, False):
        given = case(*shape, rotated=rotated)
        every = range(len(PLACES))
        found, keys, values = given.compute(every, "scalar")
        assert np.abs(found - expected(given)).max() < 1e-5
        assert not np.array_equal(keys, given.keys)
        for name in SETS:
            for mine, theirs in zip(given.compute(every, name, threads=3), (found, keys, values), strict=True):
                np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_token_has_the_same_bits_in_any_batch(shape: Any, name: str) -> None:
    """Alone after the others, in pieces of its prompt, and with a repeated token behind it."""
    given = case(*shape)
    found, keys, values = given.compute(range(len(PLACES)), name)
    later = attrs.evolve(given, keys=keys, values=values)
    for token in (0, 1, 3, 4, 20, 36, 43):
        np.testing.assert_array_equal(later.compute([token], name)[0][0], found[token])
    np.testing.assert_array_equal(later.compute([1, 2, 3, 3], name)[0], found[[1, 2, 3, 3]])
    np.testing.assert_array_equal(later.compute(range(30, 44), name, threads=2)[0], found[30:44])


@pytest.mark.parametrize("name", SETS)
def test_what_a_token_does_not_see_changes_nothing(name: str) -> None:
    """Neither NaN behind it or before its window, nor in another sequence; what sees NaN is NaN."""
    given = case(4, 2, 32, {"window": 20})
    found, keys, values = given.compute(range(len(PLACES)), name)
    for array in (keys, values):
        array[0, :, 51:], array[0, :, :31], array[2, :, 30] = np.nan, np.nan, np.nan
    spoiled = attrs.evolve(given, keys=keys, values=values)
    np.testing.assert_array_equal(spoiled.compute([0], name)[0], found[:1])
    np.testing.assert_array_equal(spoiled.compute(range(4, 34), name)[0], found[4:34])
    assert np.isnan(spoiled.compute([43], name)[0]).all()


def test_places_that_do_not_exist_are_refused() -> None:
    given = case(2, 1, 16, {})
    for places in ([(0, LENGTH)], [(0, -1)], [(-1, 0)], [(1, 5), (1, 4)]):
        with pytest.raises(LLMasOSError, match="place of a token is beyond the memory"):
            attend(given.attention, given.states[: len(places)], np.array(places), given.keys, given.values)
    with pytest.raises(ValueError, match="sequence 3 of 3"):
        attend(given.attention, given.states[:1], np.array([(3, 0)]), given.keys, given.values)
