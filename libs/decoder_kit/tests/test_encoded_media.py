"""Encoder outputs are kept within their bytes, and apart for each sharer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from llmasos_decoder_kit.encoded_media import EncodedMedia, media_bytes
from llmasos_hookspecs import EngineLimits, Media

MEDIA = [Media.of("image", np.full((2, 2), number)) for number in range(6)]


def obtained(kept: EncodedMedia[int], made: list[Any], sharer: str, number: int, size: int = 10) -> None:
    """One use, which notes in ``made`` what had to be made."""
    found = kept.obtain(sharer, MEDIA[number], lambda: made.append((sharer, number)) or number, lambda _: size)  # type: ignore[func-returns-value] # notes it and goes on
    assert found == number


def test_an_output_is_made_once_for_each_sharer_and_content() -> None:
    """Not again for the same sharer; again for another, for other content, for another kind, and whenever nobody may share."""
    kept, made = EncodedMedia[int](100), []
    for sharer, number in [("a", 0), ("a", 0), ("b", 0), ("a", 1), ("b", 0), ("", 0), ("", 0)]:
        obtained(kept, made, sharer, number)
    assert made == [("a", 0), ("b", 0), ("a", 1), ("", 0), ("", 0)]
    assert kept.get("a", Media.of("sound", MEDIA[0].data)) is None
    assert (len(kept), kept.used) == (3, 30)
    kept.clear()
    assert (len(kept), kept.used, kept.get("a", MEDIA[0])) == (0, 0, None)


def test_the_least_recently_used_goes_first_and_what_is_too_large_is_not_kept() -> None:
    """A use counts as recent; an output larger than the whole displaces nothing."""
    kept, made = EncodedMedia[int](30), []
    for number in (0, 1, 2, 0, 3):
        obtained(kept, made, "a", number)
    obtained(kept, made, "a", 4, size=31)
    assert [kept.get("a", media) for media in MEDIA[:5]] == [0, None, 2, 3, None]
    assert EncodedMedia[int](0).obtain("a", MEDIA[0], lambda: 7, lambda _: 1) == 7


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.integers(0, 40))), st.integers(0, 60))
def test_the_bytes_are_those_of_what_is_kept_and_never_too_many(uses: list[tuple[str, int, int]], capacity: int) -> None:
    """Whatever is added, in whatever order and size."""
    kept, sizes = EncodedMedia[int](capacity), {}
    for sharer, number, size in uses:
        kept.add(sharer, MEDIA[number], number, size)
        if size <= capacity:
            sizes[sharer, number] = size
        assert kept.used <= capacity
    held = [key for key in sizes if kept.get(key[0], MEDIA[key[1]]) is not None]
    assert kept.used == sum(sizes[key] for key in held)


@pytest.mark.parametrize(("memory", "expected"), [(None, 64), (1000, 64), (300, 50), (100, 0), (50, 0)])
def test_a_memory_limit_leaves_a_quarter(memory: int | None, expected: int) -> None:
    """Of what the weights leave, and never less than nothing."""
    assert media_bytes(EngineLimits(memory=memory), 100, 64) == expected
