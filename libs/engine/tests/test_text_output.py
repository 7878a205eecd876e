"""Detokenising and stop strings."""

from __future__ import annotations

import codecs
import itertools
from typing import Any

import attrs
from hypothesis import given, strategies as st

from llmasos_engine.detokenizer import Detokenizer
from llmasos_engine.stops import StopScanner


@attrs.define
class PieceTokenizer:
    """Token i stands for the i-th piece of bytes; the last one is special."""

    pieces: list[bytes]

    def token_bytes(self, token: int) -> bytes:
        return self.pieces[token]

    def is_special(self, token: int) -> bool:
        return token == len(self.pieces) - 1


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(st.text(max_size=40), st.lists(st.integers(0, 200), max_size=30))
def test_pieces_join_to_the_text_and_are_whole(text: str, cuts: list[int]) -> None:
    """However the bytes of a text are split into tokens, the pieces join to it, and none holds half a character."""
    pieces = split(text.encode("utf-8"), cuts)
    detokenizer = Detokenizer(PieceTokenizer([*pieces, b"<end>"]))
    out = [detokenizer.push(token) for token in range(len(pieces) + 1)]
    assert "".join(out) == text
    assert "\ufffd" in text or all("\ufffd" not in piece for piece in out)


@given(st.binary(max_size=40), st.lists(st.integers(0, 200), max_size=30))
def test_broken_bytes_come_out_as_one_decode_would_have_them(data: bytes, cuts: list[int]) -> None:
    """Bytes that are no UTF-8 give the U+FFFD that decoding all of them at once gives, but for a character that is cut off at the end."""
    pieces = split(data, cuts)
    detokenizer = Detokenizer(PieceTokenizer([*pieces, b"<end>"]))
    out = "".join(detokenizer.push(token) for token in range(len(pieces)))
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    assert out == decoder.decode(data)  # without what a cut left of a last character


def test_a_character_waits_for_its_last_byte() -> None:
    """天 in three tokens comes out with the third."""
    detokenizer = Detokenizer(PieceTokenizer([b"\xe5", b"\xa4", b"\xa9!", b"<end>"]))
    assert [detokenizer.push(token) for token in (0, 1, 2)] == ["", "", "天!"]


def test_half_a_character_of_a_prompt_is_no_text_of_the_answer(tokenizer: Any) -> None:
    """Nor does it spoil what comes after it."""
    assert Detokenizer(tokenizer, after=[95]).push(34) == "B"
    assert Detokenizer(tokenizer, after=[95, 33]).push(34) == "B"


def test_special_tokens_are_text_only_when_asked_for() -> None:
    """A special token is skipped by default."""
    tokenizer = PieceTokenizer([b"a", b"<end>"])
    assert Detokenizer(tokenizer).push(1) == ""
    assert Detokenizer(tokenizer, skip_special=False).push(1) == "<end>"


@given(
    st.text("ab\n", max_size=30), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4), st.lists(st.integers(0, 60), max_size=20)
)
def test_stops_are_found_wherever_the_text_is_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    """The text ends before the stop that is complete first, nothing of a stop gets out before, and without one nothing is lost."""
    scanner = StopScanner(stops)
    shown, stop = "", None
    pieces = [piece.decode() for piece in split(text.encode(), cuts)]
    for number, piece in enumerate(pieces):
        out, stop = scanner.push(piece)
        shown += out
        if stop is not None:
            break
        seen = "".join(pieces[: number + 1])
        held = seen[len(shown) :]
        assert held == "" or any(other.startswith(held) for other in stops)
    if stop is None:
        assert not any(other in text for other in stops)
        assert shown + scanner.flush() == text
    else:
        assert stop in stops
        assert text.startswith(shown + stop)
        assert not any(other in shown for other in stops)


def test_only_what_can_become_a_stop_is_held() -> None:
    """Of 'say <' only '<' waits for '<end>'."""
    scanner = StopScanner(["<end>"])
    assert scanner.push("say <") == ("say ", None)
    assert scanner.push("e") == ("", None)
    assert scanner.push("at>") == ("<eat>", None)
    assert scanner.push("<end") == ("", None)
    assert scanner.push("> more") == ("", "<end>")
