"""Streams of vocabularies whose tokens are not simply their bytes: spaces that the beginning of a text drops, and text that only the
tokenizer's own decoder can join."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
from hypothesis import example, given, strategies as st

from llmasos_engine.detokenizer import Detokenizer


@attrs.frozen
class Form:
    """As the spelling of a SentencePiece vocabulary."""

    dropped: int = 0
    bare: bool = False

    def opening(self, data: bytes) -> bytes:
        return data.removeprefix(b"_") if self.bare else data


class Spelled:
    """Token i stands for the i-th piece; the last one is special."""

    def __init__(self, pieces: Sequence[bytes], spelling: Form) -> None:
        self.pieces, self.spelling = pieces, spelling

    def token_bytes(self, token: int) -> bytes:
        return self.pieces[token]

    def is_special(self, token: int) -> bool:
        return token == len(self.pieces) - 1

    def decode(self, tokens: Iterable[int], *, skip_special: bool = True) -> str:
        data = [self.pieces[token] for token in tokens if not (skip_special and self.is_special(token))]
        if data:
            data[0] = self.spelling.opening(data[0])
        text = b"".join(data).decode()
        kept = text.lstrip(" ")
        return text[min(len(text) - len(kept), self.spelling.dropped) :]


PIECES = (b" ", b"  ", b"_ a", b"b", b" b", b"", b"<end>")
TOKENS = st.lists(st.integers(0, len(PIECES) - 1), max_size=6)


@given(TOKENS, TOKENS, st.integers(0, 3), st.booleans(), st.booleans())
@example([], [2, 2], 0, True, True)
@example([2], [2, 2], 0, True, True)
@example([0, 0], [1, 3, 4], 3, False, True)
def test_what_the_beginning_of_a_text_drops_is_dropped_once(
    after: list[int], tokens: list[int], dropped: int, bare: bool, skip_special: bool
) -> None:
    """From the prompt where there is one, else from the answer, over as many tokens as the spaces take; never from the middle."""
    tokenizer: Any = Spelled(PIECES, Form(dropped, bare))
    stream = Detokenizer(tokenizer, skip_special, after)
    whole, before = (tokenizer.decode(each, skip_special=skip_special) for each in ([*after, *tokens], after))
    assert "".join(stream.push(token) for token in tokens) == whole[len(before) :]


class Words:
    """WordPiece: words are joined with spaces, ``##`` continues one, and ``half`` is half of a character until ``rest`` completes it.
    ``later`` is text that the next token rewrites."""

    spelling = None

    def __init__(self) -> None:
        self.longest = 0

    def is_special(self, token: str) -> bool:
        return token == "<end>"

    def decode(self, tokens: Sequence[str], *, skip_special: bool = True) -> str:
        self.longest = max(self.longest, len(tokens))
        text = " ".join(token for token in tokens if not (skip_special and self.is_special(token))).replace(" ##", "")
        text = text.replace("half rest", "\u5929").replace("half", "\ufffd")
        return text if text.endswith("later") else text.replace("later", "LATER")


def streamed(tokens: Sequence[str], *, after: Sequence[str] = (), skip_special: bool = True) -> tuple[list[str], Words]:
    words: Any = Words()
    stream = Detokenizer(words, skip_special, after)
    return [stream.push(token) for token in tokens], words


def test_words_are_joined_as_the_decoder_joins_them() -> None:
    """Behind a prompt with what stands between; a token at a time, from the last few before it, however long the text is."""
    assert streamed(["to", "##day", "we", "go"])[0] == ["to", "day", " we", " go"]
    assert streamed(["##day", "we"], after=["so", "to"])[0] == ["day", " we"]
    found, words = streamed(["a", "##b"] * 40)
    assert "".join(found) == words.decode(["a", "##b"] * 40)
    assert streamed(["x"] * 50, after=["y"] * 50)[1].longest <= 17


def test_special_tokens_are_left_out_of_the_text_and_its_context() -> None:
    """Unless they are asked for."""
    assert streamed(["<end>", "##b", "<end>", "c"], after=["a", *["<end>"] * 20])[0] == ["", "b", "", " c"]
    assert streamed(["<end>", "c"], after=["a"], skip_special=False)[0] == [" <end>", " c"]


def test_half_a_character_waits_for_its_rest() -> None:
    assert streamed(["a", "half", "rest", "b"])[0] == ["a", "", " \u5929", " b"]


def test_text_that_its_decoder_rewrites_comes_once_more() -> None:
    """After eight tokens that might still have changed it, from where it differs."""
    found, _ = streamed(["a", "##later", *["b"] * 10])
    assert found == ["a", "later", *[""] * 8, "LATER" + " b" * 9, " b"]


def test_what_never_settles_comes_out_in_the_end() -> None:
    """After eight tokens that are held back the ninth brings what there is: a stream does not stand still for ever."""
    found, _ = streamed(["a", *["half"] * 12])
    assert found[:9] == ["a", *[""] * 8]
    assert found[9] == " \ufffd" * 9
