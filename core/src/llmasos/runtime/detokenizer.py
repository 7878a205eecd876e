"""Token ids to text as they come, never half a character."""

from __future__ import annotations

import codecs

from llmasos_hookspecs import Tokenizer


class Detokenizer:
    """Joins the bytes of tokens and lets only whole characters out.

    Byte-level tokens may split a character: 天 is three bytes, an emoji four. Bytes that can still become a character are
    held back; bytes that cannot become one any more come out as U+FFFD, as in ``Tokenizer.decode``. Where a text is cut inside a
    character, its bytes never come out.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def push(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is still open."""
        if self._skip_special and self._tokenizer.is_special(token):
            return ""
        return self._decode(self._tokenizer.token_bytes(token))
