"""Tokenizers over SentencePiece models, whatever file holds them: the same tokens as the SentencePiece library gives."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
from tokenizers import AddedToken, Regex, Tokenizer as Backend, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram

from llmasos_tokenizing.ends import add_ends
from llmasos_tokenizing.fast import FastTokenizer
from llmasos_tokenizing.pieces import SPACE
from llmasos_tokenizing.scored_pairs import ScoredPairs, ordered_by_scores
from llmasos_tokenizing.sentencepiece_file import sentencepiece_bytes
from llmasos_tokenizing.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, SentencePieceModel
from llmasos_tokenizing.unigram import UnigramSearch

#: No piece of a real vocabulary is longer (Gemma's runs of spaces and lines are 31); cuts of longer ones are not sought.
_LONGEST: Final = 256
#: By how much a piece that text never becomes scores below all others in a unigram model, which has no other way to leave it out.
_HIDDEN: Final = 10_000.0
_ALL: Final = 1 << 16


@attrs.frozen
class Whole:
    """A token that is found in text before the model sees it. ``lstrip``, ``rstrip``: with the white space before or after it."""

    text: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False

    def added(self) -> AddedToken:
        return AddedToken(self.text, normalized=False, special=self.special, lstrip=self.lstrip, rstrip=self.rstrip)


class SentencePieceTokenizer(FastTokenizer):
    """Encodes as SentencePiece does. The pipeline of the ``tokenizers`` library cannot: it knows no text within which user-defined
    pieces stand, applies rules for characters otherwise, and decides between pieces of equal scores in another way. Its BPE, given text
    in the right form, is SentencePiece's where no two pieces score alike.

    Args:
        model: the pieces and the form of text.
        whole: the tokens that are found in text first.
        bos, eos: what goes around a text.
        prefix_each: a text that such a token interrupts gets a space before each of its parts, not only at its beginning.
        merges: the merges of a BPE model; else those that its scores imply.
        named, eos_token_ids, size: as ``FastTokenizer`` has them.
    """

    def __init__(
        self,
        model: SentencePieceModel,
        *,
        whole: Sequence[Whole] = (),
        bos: str | None = None,
        eos: str | None = None,
        prefix_each: bool = True,
        merges: list[tuple[str, str]] | None = None,
        named: dict[str, str],
        eos_token_ids: frozenset[int],
        size: int = 0,
    ) -> None:
        # Damaged rules for characters are found here rather than at the first text, and before the ``tokenizers`` library reads them: it
        # takes what memory the first four bytes ask for, and ends the process where there is not so much.
        model.normalize("", prefix=False)
        pairs = (_implied(model) if merges is None else merges) if model.is_bpe else []
        backend = _backend(model, pairs)
        backend.add_special_tokens([token.added() for token in whole if token.special])
        backend.add_tokens([token.added() for token in whole if not token.special])
        backend.add_tokens([AddedToken(piece, normalized=False) for piece in model.of_kind(USER_DEFINED)])
        add_ends(backend, bos, eos)
        super().__init__(backend, named=named, eos_token_ids=eos_token_ids, size=size)
        self._form = model
        self._pieces: Any = backend.model
        self._ordered = merges is not None or ordered_by_scores(model, pairs)
        self._search = self._joined if model.is_bpe and self._ordered else (ScoredPairs if model.is_bpe else UnigramSearch)(model).tokens
        ordered = sorted((token for token in whole if token.text), key=lambda token: -len(token.text))
        self._whole = [token.text for token in ordered]
        self._stops, self._stop_ids = _stops(ordered), [self._id(text) for text in self._whole]
        self._before, self._after = ([] if text is None else [self._id(text)] for text in (bos, eos))
        self._prefix_each = prefix_each
        self._own_merges = merges is not None

    @property
    def form(self) -> SentencePieceModel:
        """The pieces and the form of text."""
        return self._form

    @property
    def model_file(self) -> tuple[bytes, dict[str, Any]] | None:
        """None where the pipeline of the ``tokenizers`` library is exact, or the model's merges are not those that its scores imply."""
        if self._own_merges or self._exact_elsewhere():
            return None
        form = self._form
        ends = {"add_bos_token": bool(self._before), "add_eos_token": bool(self._after)}
        return sentencepiece_bytes(form), {"tokenizer_class": "LlamaTokenizer", "legacy": self._prefix_each, **ends}

    def _exact_elsewhere(self) -> bool:
        """Whether the pipeline of the ``tokenizers`` library gives the same tokens of every text."""
        form, found_first = self._form, self._form.of_kind(USER_DEFINED)
        if not form.is_bpe or not self._ordered or form.charsmap or form.squeeze or (form.prefix and not self._prefix_each):
            return False
        # It seeks user-defined pieces in the text as it is: before a space is put before it, and before spaces become their stand-in. And
        # it seeks them together with tokens such as BOS, which are found first here.
        told_apart = not any(_overlap(piece, token) for piece in found_first for token in self._whole)
        return not found_first or (
            not form.prefix and told_apart and not any(sign in piece for piece in found_first for sign in (" ", SPACE))
        )

    def _ids(self, text: str, special: bool) -> list[int]:
        found = self._of_sections(text)
        return [*self._before, *found, *self._after] if special else found

    def _id(self, token: str) -> int:
        """The id of a token that the vocabulary holds."""
        found = self.backend.token_to_id(token)
        if found is None:
            raise ValueError(f"the vocabulary lacks {token[:40]!r}")
        return found

    def _of_sections(self, text: str) -> list[int]:
        """``text`` with the tokens that are found whole."""
        found: list[int] = []
        place = 0
        for stop in self._stops.finditer(text) if self._stops is not None else ():
            found += self._of_section(text[place : stop.start()], first=place == 0)
            found.append(self._stop_ids[(stop.lastindex or 1) - 1])
            place = stop.end()
        return found + self._of_section(text[place:], first=place == 0)

    def _of_section(self, text: str, *, first: bool) -> list[int]:
        spelt = self._form.normalize(text, prefix=self._form.prefix and (first or self._prefix_each))
        if not self._form.is_bpe:
            return self._search(spelt)  # the scores of user-defined pieces see to it that they are taken
        found: list[int] = []
        place = 0
        for start, end in self._form.user_defined.spans(spelt):
            found += [*self._search(spelt[place:start]), self._id(spelt[start:end])]
            place = end
        return found + self._search(spelt[place:])

    def _joined(self, spelt: str) -> list[int]:
        return [token.id for token in self._pieces.tokenize(spelt)] if spelt else []


def whole_tokens(model: SentencePieceModel) -> list[Whole]:
    """A model's control tokens, which SentencePiece itself never finds in text but templates write into it."""
    return [Whole(piece) for piece in model.of_kind(CONTROL)]


def _stops(tokens: Sequence[Whole]) -> re.Pattern[str] | None:
    """Finds tokens; the number of the group is the token's."""
    found = [(r"\s*" if each.lstrip else "") + f"({re.escape(each.text)})" + (r"\s*" if each.rstrip else "") for each in tokens]
    return re.compile("|".join(found)) if found else None


def _overlap(one: str, other: str) -> bool:
    """Whether there is a text in which both stand with characters in common."""
    if one in other or other in one:
        return True
    ends = range(1, min(len(one), len(other)))
    return any(one[-size:] == other[:size] or other[-size:] == one[:size] for size in ends)


def _backend(model: SentencePieceModel, merges: list[tuple[str, str]]) -> Backend:
    """The model in the ``tokenizers`` library, with a pipeline as near to its form as that library has: other software reads it."""
    fallback = BYTE in model.kinds
    unknown = model.kinds.index(UNKNOWN) if UNKNOWN in model.kinds else None
    if model.is_bpe:
        text = None if unknown is None else model.pieces[unknown]
        backend = Backend(BPE(vocab=_vocab(model.pieces), merges=merges, unk_token=text, fuse_unk=True, byte_fallback=fallback))
    else:
        backend = Backend(Unigram(list(zip(model.pieces, _log_probabilities(model), strict=True)), unk_id=unknown, byte_fallback=fallback))
    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.squeeze:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if model.prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    decode = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    # The space before a text is taken off again; where spaces are squeezed, all of them are.
    dropped = _ALL if model.squeeze else int(model.prefix)
    backend.decoder = decoders.Sequence([*decode, decoders.Strip(content=" ", left=dropped)] if dropped else decode)
    return backend


def _implied(model: SentencePieceModel) -> list[tuple[str, str]]:
    usable = [place for place, kind in enumerate(model.kinds) if kind in (NORMAL, UNUSED)]
    return derived_merges([model.pieces[place] for place in usable], [model.scores[place] for place in usable])


def _log_probabilities(model: SentencePieceModel) -> list[float]:
    """Scores of a unigram model as SentencePiece reads them: those of user-defined pieces are such that they are nearly always taken."""
    normal = [score for score, kind in zip(model.scores, model.kinds, strict=True) if kind == NORMAL] or [0.0]
    best, hidden = max(normal), min(normal) - _HIDDEN

    def score(piece: str, own: float, kind: int) -> float:
        if kind == USER_DEFINED:
            return len(piece.encode()) * best - 0.1
        return own if kind == NORMAL else hidden

    return [score(*entry) for entry in zip(model.pieces, model.scores, model.kinds, strict=True)]


def gemma_backend(tokens: list[str], merges: list[tuple[str, str]], *, unknown: str | None) -> Backend:
    """Gemma's: no space before the text, and none cut from it."""
    backend = Backend(BPE(vocab=_vocab(tokens), merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def gemma_spelling(tokens: Sequence[str]) -> list[str]:
    """Gemma's files write tokens of several spaces as spaces, where all other pieces write the stand-in."""
    return [SPACE * len(token) if " " in token and not token.strip(" ") else token for token in tokens]


def derived_merges(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges that a scored vocabulary implies.

    SentencePiece joins the two neighbours whose joint piece scores highest, the leftmost first. So every cut of a piece into two
    pieces is a merge, ordered by the piece's score; among cuts of equal score the one with the longer left, then the longer right
    half comes first, then the one of the earlier pieces, as transformers orders them.
    """
    place = _vocab(tokens)
    best: Mapping[str, float] = dict(zip(tokens, scores, strict=True))
    found: list[tuple[tuple[float, int, int], str, str]] = []
    for piece, score in best.items():
        if len(piece) > _LONGEST:
            continue
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in place and piece[i:] in place]
        if len(cuts) > 1:
            cuts.sort(key=lambda cut: (place[cut[0]], place[cut[1]]))
        found += [((score, len(left), len(right)), left, right) for left, right in cuts]
    # Stable even in reverse, so that equal keys stay in the order of the vocabulary.
    found.sort(key=lambda merge: merge[0], reverse=True)
    return [(left, right) for _, left, right in found]


def _vocab(tokens: Sequence[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}
