"""Prompts for measurements: prose of the standard library, each unlike the others from its first token on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from llmasos_hookspecs import RequestError, Tokenizer

#: Texts for prompts, used in a cycle.
_WINDOWS: Final = 160
#: Characters of a token at most, on average over English prose: bounds how much of the text is encoded.
_CHARACTERS: Final = 8


def texts(tokenizer: Tokenizer, length: int) -> Iterator[str]:
    """Prompts of about ``length`` tokens without end, no two of which share a prefix.

    Raises:
        RequestError: a prompt would be longer than all the text there is.
    """
    from pydoc_data.topics import topics

    prose = "\n\n".join(topics[name] for name in sorted(topics))
    size = length - 3  # the number before it takes a few tokens
    tokens = tokenizer.encode(prose[: _CHARACTERS * _WINDOWS * size], special=False)
    count = min(_WINDOWS, len(tokens) // size)
    if not count:
        raise RequestError(f"The text that prompts are cut from has {len(tokens)} tokens, and a prompt has {length}; ask for shorter ones.")
    windows = [tokenizer.decode(tokens[start : start + size]) for start in range(0, count * size, size)]
    # The number makes a text that comes again another one from its first token on.
    return (f"{number}. {text}" for number, text in enumerate(itertools.cycle(windows), 1))
