"""Tokenizers whose pieces are a SentencePiece model's and whose token ids a vocabulary's of its own: those of Marian and M2M-100."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from llmasos_hookspecs import RequestError
from llmasos_tokenizing.pieces import SPACE, Spelling
from llmasos_tokenizing.scored_pairs import ScoredPairs
from llmasos_tokenizing.sentencepiece_model import SentencePieceModel
from llmasos_tokenizing.unigram import UnigramSearch

_ALL_SPACES = 1 << 16


class MappedTokenizer:
    """Implements ``Tokenizer``; nothing changes after the start.

    Attributes:
        special_tokens: what the model calls its special tokens.
        spelling: how tokens spell text.
        target: of the texts that a model writes, where these have another SentencePiece model; else itself.
    """

    def __init__(
        self,
        model: SentencePieceModel,
        vocabulary: Mapping[str, int],
        *,
        special: Iterable[str],
        named: Mapping[str, str],
        before: Sequence[str] = (),
        after: Sequence[str] = (),
        eos_token_ids: frozenset[int],
        target: SentencePieceModel | None = None,
    ) -> None:
        """
        Args:
            model: cuts texts into pieces.
            vocabulary: piece or special token -> id; what it lacks is ``unk_token``.
            special: the tokens that are found whole in text and skipped by ``decode``.
            named: ``eos_token``, ``unk_token`` and the like, all of them in the vocabulary.
            before, after: the tokens around a text.
            eos_token_ids: those that end a text.
            target: cuts the texts that the model writes; None: ``model``.
        """
        self.special_tokens = dict(named)
        self.spelling = Spelling(_bytes_of, dropped=_ALL_SPACES, joined=True)
        self._model = model
        self._vocabulary = vocabulary
        self._unknown = vocabulary[named["unk_token"]]
        self._eos = eos_token_ids
        self._pieces = {token: piece for piece, token in vocabulary.items()}
        self._special = {vocabulary[text] for text in special if text in vocabulary}
        texts = sorted((self._pieces[token] for token in self._special), key=len, reverse=True)
        self._whole = re.compile("|".join(map(re.escape, texts))) if texts else None
        self._before, self._after = ([vocabulary[text] for text in around] for around in (before, after))
        self._search = (ScoredPairs if model.is_bpe else UnigramSearch)(model)
        self.target: MappedTokenizer = self
        if target is not None:
            self.target = MappedTokenizer(
                target, vocabulary, special=texts, named=named, before=before, after=after, eos_token_ids=eos_token_ids
            )

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id."""
        return 1 + max(self._pieces, default=-1)

    @property
    def bos_token_id(self) -> int | None:
        return self._vocabulary.get(self.special_tokens.get("bos_token", ""))

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return self._eos

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError("The text is no Unicode text, or holds half a surrogate pair; give it as UTF-8.") from error
        found: list[int] = []
        place = 0
        for stop in self._whole.finditer(text) if self._whole is not None else ():
            found += [*self._of_section(text[place : stop.start()]), self._vocabulary[stop.group()]]
            place = stop.end()
        found += self._of_section(text[place:])
        return [*self._before, *found, *self._after] if special else found

    def _of_section(self, text: str) -> list[int]:
        spelt = self._model.normalize(text, prefix=self._model.prefix)
        return [self._vocabulary.get(piece, self._unknown) for piece in _runs(self._parts(spelt))]

    def _parts(self, spelt: str) -> Iterator[tuple[str, int | None]]:
        """Pieces, each with its number in the SentencePiece model; None for what that does not know."""
        place = 0
        for start, end in self._model.user_defined.spans(spelt) if self._model.is_bpe else ():
            yield from self._search.parts(spelt[place:start])
            yield spelt[start:end], -1
            place = end
        yield from self._search.parts(spelt[place:])

    def decode(self, tokens: Iterable[int], *, skip_special: bool = True) -> str:
        data = b"".join(self.token_bytes(token) for token in tokens if not (skip_special and token in self._special))
        return data.decode("utf-8", "replace").lstrip(" ")

    def token_bytes(self, token: int) -> bytes:
        return _bytes_of(self._pieces.get(token, ""))

    def is_special(self, token: int) -> bool:
        return token in self._special

    def __repr__(self) -> str:
        return f"MappedTokenizer(vocab_size={self.vocab_size}, eos={sorted(self._eos)})"


def _bytes_of(piece: str) -> bytes:
    return piece.replace(SPACE, " ").encode()


def _runs(parts: Iterable[tuple[str, int | None]]) -> Iterator[str]:
    """The pieces of a text; neighbours that the SentencePiece model does not know are one, as in that library."""
    unknown = ""
    for text, token in parts:
        if token is None:
            unknown += text
            continue
        if unknown:
            yield unknown
            unknown = ""
        yield text
    if unknown:
        yield unknown
