"""Texts, and pairs of texts, as the rows that an encoder takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from llmasos_hookspecs import EncoderInfo, EncoderRow, RequestError, TextKind, Tokenizer, TokenPrompt, UnsupportedModel
from llmasos_hookspecs.guarding.edge import kind_of

#: Most characters of a text that is encoded whole, for each token of the context: what is longer is cut, or refused, before it is encoded.
_LONGEST_TOKEN: Final = 256


@attrs.frozen
class EncoderRows:
    """Makes the rows of one encoder.

    Attributes:
        tokenizer: the model's.
        info: of the encoder: its prompts come before the texts.
        context_length: tokens of a row at most.
    """

    tokenizer: Tokenizer
    info: EncoderInfo
    context_length: int

    def texts(self, texts: Sequence[str | TokenPrompt], kind: TextKind, *, truncate: bool, first: int = 1) -> list[EncoderRow]:
        """A row for each text, after the prompt of its kind; token ids are taken as they are. ``truncate``: leave out the last tokens of a
        text that is too long; without it, the encoder's loop refuses such a row. ``first``: the number of the first text, for messages.

        Raises:
            RequestError: a text is empty, or the tokenizer cannot encode it.
        """
        prompt = self.info.prompts.get(kind, "")
        return [EncoderRow(self._tokens(prompt, text, place, truncate)) for place, text in enumerate(texts, first)]

    def pairs(self, query: str, documents: Sequence[str], *, truncate: bool) -> list[EncoderRow]:
        """A row for each document, behind the query.

        Raises:
            RequestError: a text is empty, or the tokenizer cannot encode it.
            UnsupportedModel: the tokenizer does not say how two texts are put together.
        """
        encode: Callable[..., Any] | None = getattr(self.tokenizer, "encode_pair", None)
        if encode is None:
            raise UnsupportedModel("The model's tokenizer does not say how two texts are put together; get its tokenizer.json.")
        _check("The query", query)
        rows = []
        for place, document in enumerate(documents, 1):
            _check(f"Document {place}", document)
            text = self._cut(document) if truncate else document
            tokens, types = encode(query, text, limit=self.context_length if truncate else None)
            rows.append(EncoderRow(tokens, types if any(types) else ()))
        return rows

    def _tokens(self, prompt: str, text: str | TokenPrompt, place: int, truncate: bool) -> Sequence[int]:
        if isinstance(text, TokenPrompt):
            return text.tokens[: self.context_length] if truncate else text.tokens
        _check(f"Text {place}", text)
        whole = prompt + (self._cut(text) if truncate else text)
        tokens = self.tokenizer.encode(whole)
        surplus = len(tokens) - self.context_length
        if surplus <= 0 or not truncate:
            return tokens
        # What stands around a text stays: a model that reads its last token was trained with the same one there.
        behind = len(tokens) - _start(tokens, plain := self.tokenizer.encode(whole, special=False)) - len(plain)
        return [*tokens[: self.context_length - behind], *tokens[len(tokens) - behind :]]

    def _cut(self, text: str) -> str:
        """No more of a text than can matter."""
        return text[: _LONGEST_TOKEN * self.context_length]


def _check(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise RequestError(f"{what} is {kind_of(text)}, and it must be a text.")
    if not text:
        raise RequestError(f"{what} is empty; give at least one character.")


def _start(tokens: Sequence[int], part: Sequence[int]) -> int:
    """Where ``part`` begins in ``tokens``; 0 where it is not in it as it stands."""
    ends = range(len(tokens) - len(part) + 1)
    return next((place for place in ends if list(tokens[place : place + len(part)]) == list(part)), 0)
