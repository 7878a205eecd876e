"""Prompts of the benchmark: English prose of about the same length, no two with a common beginning."""

from __future__ import annotations

import pydoc_data.topics


def prompts(count: int, first: int, characters: int) -> list[str]:
    """``count`` prompts of so many characters; those of other ``first`` differ."""
    prose = " ".join(" ".join(pydoc_data.topics.topics.values()).split())
    places = [(number * 997) % (len(prose) - characters) for number in range(first, first + count)]
    return [f"{number}. {prose[place : place + characters]}" for number, place in zip(range(first, first + count), places, strict=True)]
