"""Which pieces SentencePiece takes where scores decide: models of a few pieces, made at random, against the SentencePiece library."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings, strategies as st

from llmasos_tokenizing.sentencepiece import SentencePieceTokenizer
from llmasos_tokenizing.sentencepiece_file import sentencepiece_bytes
from llmasos_tokenizing.sentencepiece_model import BYTE, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, SentencePieceModel

ALPHABET = "aé▁="
SCORES = {
    "a few scores, so that many are alike": st.integers(-3, 0).map(float),
    "any score": st.floats(-9, 0, width=32),
}


@st.composite
def models(draw: Any, scores: st.SearchStrategy[float]) -> SentencePieceModel:
    """Pieces that are made of one another, as those of a trained model are, some of them user-defined or unused."""
    pieces = list(ALPHABET)[draw(st.integers(0, 1)) :]
    for _ in range(draw(st.integers(1, 12))):
        joint = draw(st.sampled_from(pieces)) + draw(st.sampled_from(pieces))
        if joint not in pieces and len(joint) < 9:
            pieces.append(joint)
    kinds = [draw(st.sampled_from([NORMAL] * 8 + [USER_DEFINED, UNUSED])) for _ in pieces]
    found = [draw(scores) for _ in pieces]
    more = [f"<0x{byte:02X}>" for byte in range(256)] if draw(st.booleans()) else []
    return SentencePieceModel(
        ["<unk>", *pieces, *more],
        [0.0, *found, *[0.0] * len(more)],
        [UNKNOWN, *kinds, *[BYTE] * len(more)],
        is_bpe=draw(st.booleans()),
        prefix=draw(st.booleans()),
        squeeze=draw(st.booleans()),
    )


def tokenizer_of(model: SentencePieceModel) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(model, named={}, eos_token_ids=frozenset())


def library_of(model: SentencePieceModel) -> Any:
    return sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_bytes(model))


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_any_model_gives_the_librarys_tokens(scores: st.SearchStrategy[float]) -> None:
    """And its tokenizer.json too, where there is one: it is written in place of the model where it says the same."""

    @settings(max_examples=min(300, settings.default.max_examples))
    @given(models(scores), st.lists(st.text("aaéé▁ =z", max_size=30), min_size=1, max_size=8))
    def check(model: SentencePieceModel, texts: list[str]) -> None:
        tokenizer, expected = tokenizer_of(model), library_of(model).encode(texts)
        assert [tokenizer.encode(text, special=False) for text in texts] == expected
        if tokenizer.model_file is None:
            assert [tokenizer.backend.encode(text, add_special_tokens=False).ids for text in texts] == expected

    check()


def bpe(pieces: dict[str, float], **kinds: int) -> SentencePieceModel:
    return SentencePieceModel(
        ["<unk>", *pieces],
        [0.0, *pieces.values()],
        [UNKNOWN, *(kinds.get(piece, NORMAL) for piece in pieces)],
        is_bpe=True,
        prefix=False,
        squeeze=False,
    )


def spelt(model: SentencePieceModel, text: str) -> list[str]:
    found = tokenizer_of(model).encode(text)
    assert found == library_of(model).encode(text)
    return [model.pieces[token] for token in found]


def test_of_pieces_that_score_alike_the_leftmost_is_joined() -> None:
    """Whichever stands first in the vocabulary. Pieces that were added to a model later often have the score 0."""
    characters = {"a": -1.0, "b": -1.0, "c": -1.0}
    for pieces in ({"ab": 0.0, "bc": 0.0}, {"bc": 0.0, "ab": 0.0}):
        model = bpe(characters | pieces)
        assert spelt(model, "abc") == ["ab", "c"]
        assert tokenizer_of(model).model_file is not None  # an order of merges cannot say it
    assert spelt(bpe(characters | {"bc": -0.5, "ab": -1.0}), "abc") == ["a", "bc"]


def test_an_unused_piece_is_joined_and_taken_apart_again() -> None:
    characters = {"a": -1.0, "b": -1.0, "c": -1.0}
    assert spelt(bpe(characters | {"ab": -2.0, "abc": -3.0}, ab=UNUSED), "abcab") == ["abc", "a", "b"]
    assert spelt(bpe(characters, b=UNUSED), "abc") == ["a", "<unk>", "c"]


def unigram(scores: dict[str, float], user_defined: tuple[str, ...] = ()) -> SentencePieceModel:
    stored = [struct.unpack("f", struct.pack("f", score))[0] for score in scores.values()]
    kinds = [USER_DEFINED if piece in user_defined else NORMAL for piece in scores]
    return SentencePieceModel(["<unk>", *scores], [0.0, *stored], [UNKNOWN, *kinds], is_bpe=False, prefix=False, squeeze=False)


def test_cuts_of_equal_likelihood_are_told_apart_by_the_rounding_of_float32() -> None:
    model = unigram({".": -4.7, "...": -6.1, "-": -3.3, "x": -5.2})
    ways = set()
    for before in range(12):
        found = spelt(model, "-" * before + "x.....")
        ways.add(tuple(found[before + 1 :]))
    assert len(ways) > 1  # the same five points, after other texts
    assert all(sorted(way) == [".", ".", "..."] for way in ways)


def test_scores_of_texts_that_pass_100_000_are_counted_anew() -> None:
    model = unigram({".": -41.3, "...": -50.7, "-": -30.1, "x": -5.2})
    text = "x.....-" * 1500
    assert spelt(model, text)  # equal to the library's
    worst = sum(model.scores[token] for token in tokenizer_of(model).encode(text))
    assert worst < -100_000


def test_a_user_defined_piece_scores_more_the_more_bytes_it_has() -> None:
    """More than any log probability, and still less than what a path may gain elsewhere."""
    model = unigram({"a": 0.0, "b": -9.0, "ab": -0.05, "aa": -3.0, "é": 0.0, "éé": -3.0}, user_defined=("aa", "éé"))
    assert spelt(model, "aaéé") == ["aa", "éé"]
    assert spelt(model, "aab") == ["a", "ab"]
