"""Streaming detokenisation: token ids to text as they come, in whole characters."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, Protocol

from llmasos_hookspecs import Tokenizer

#: Tokens before a new one that are decoded again with it, where the text of a token depends on its neighbours.
_CONTEXT: Final = 8
#: Most tokens that are held back until a character is complete, or a decoder no longer rewrites the text.
_HELD: Final = 8


class Detokenizer:
    """``push`` gives the text that each token adds to the text of the tokens before it.

    The pieces, joined, are what ``Tokenizer.decode`` gives for ``after`` and all tokens, less what it gives for ``after``. Byte-level
    tokens may split a character: 天 is three bytes, an emoji four. Bytes that can still become a character are held back; bytes that
    cannot become one any more come out as U+FFFD. Where a text is cut inside a character, its bytes never come out.

    Args:
        tokenizer: any; where it has no attribute ``spelling``, its tokens' bytes joined are its text.
        skip_special: special tokens add nothing.
        after: the tokens before the first, usually a prompt's.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True, after: Sequence[int] = ()) -> None:
        form: Any = getattr(tokenizer, "spelling", _ALWAYS)
        reader: _Reader = (
            _DecodingReader(tokenizer, skip_special, after) if form is None else _ByteReader(tokenizer, skip_special, after, form)
        )
        #: The text that a token completes; empty while a character is incomplete.
        self.push: Final = reader.push


class _Reader(Protocol):
    def push(self, token: int) -> str: ...


class _Always:
    """The spelling of tokens whose bytes are the text unchanged, also at the beginning of a text."""

    dropped = 0

    @staticmethod
    def opening(data: bytes) -> bytes:
        return data


_ALWAYS: Final = _Always()


class _ByteReader:
    """Joins the bytes of tokens."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool, after: Sequence[int], form: Any) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._form = form
        self._first = True
        self._droppable = int(form.dropped)
        self._held = b""
        for token in after:
            if not self._first and not self._droppable:
                break
            self.push(token)
        self._held = b""

    def push(self, token: int) -> str:
        if self._skip_special and self._tokenizer.is_special(token):
            return ""
        data = self._tokenizer.token_bytes(token)
        if self._first:
            data, self._first = self._form.opening(data), False
        if self._held:
            data = self._held + data
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._held = data[used:]
        if self._droppable and text:
            spaces = len(text) - len(text.lstrip(" "))
            dropped = min(spaces, self._droppable)
            self._droppable = self._droppable - dropped if spaces == len(text) else 0
            text = text[dropped:]
        return text


class _DecodingReader:
    """Decodes the last tokens again with each new one, for vocabularies whose tokens only the tokenizer can join."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool, after: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._tokens = list(islice((token for token in reversed(after) if not self._skipped(token)), _CONTEXT))[::-1]
        self._seen = len(self._tokens)
        self._text = self._decoded()

    def push(self, token: int) -> str:
        if self._skipped(token):
            return ""
        self._tokens.append(token)
        text = self._decoded()
        settled = text.startswith(self._text) and not text.endswith("\ufffd")
        if not settled and len(self._tokens) - self._seen <= _HELD:
            return ""
        new = text[_shared(text, self._text) :]
        if new:
            # The tokens that gave this piece are the context of the next.
            self._tokens = self._tokens[-_CONTEXT:]
            self._seen, self._text = len(self._tokens), self._decoded()
        return new

    def _skipped(self, token: int) -> bool:
        return self._skip_special and self._tokenizer.is_special(token)

    def _decoded(self) -> str:
        return self._tokenizer.decode(self._tokens, skip_special=self._skip_special)


def _shared(text: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    return next((index for index, (one, two) in enumerate(zip(text, other, strict=False)) if one != two), min(len(text), len(other)))
