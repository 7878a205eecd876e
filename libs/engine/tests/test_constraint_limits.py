"""What a constraint may be, and the tokens that forced text is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from llmasos_engine import constraint
from llmasos_engine.constraint import ConstraintCompiler, _Bridge
from llmasos_hookspecs import Constraint, RequestError
from llmasos_hookspecs.testing import ByteTokenizer


def refusal(given: Constraint, tokenizer: Any = None) -> str:
    with pytest.raises(RequestError) as caught:
        ConstraintCompiler(tokenizer or ByteTokenizer()).compile(given)
    return str(caught.value)


def taken(given: Constraint) -> bool:
    return ConstraintCompiler(ByteTokenizer()).compile(given) is not None


def test_a_constraint_of_the_largest_size_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters of all its strings, and one for each other value; one more is refused."""
    monkeypatch.setattr(constraint, "_LARGEST", 10)
    said = "cannot be used to constrain the text: it has more than 10 characters; make it smaller."
    assert taken(Constraint("choices", ["abcd", "efghi"]))
    assert refusal(Constraint("choices", ["abcd", "efghij"])) == f"The choices {said}"
    assert taken(Constraint("regex", "abcdefghij"))
    assert refusal(Constraint("regex", "abcdefghijk")) == f"The regex {said}"
    assert taken(Constraint("json_schema", {"enum": [1, 2, 3, 4]}))
    assert refusal(Constraint("json_schema", {"enum": [1, 2, 3, 4, 5]})) == f"The json schema {said}"


def test_a_constraint_of_the_deepest_nesting_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of values in one another, and of the brackets of a text, whichever they are; brackets one after the other are not deep."""
    monkeypatch.setattr(constraint, "_DEEPEST", 3)
    said = "cannot be used to constrain the text: it is nested deeper than 3 levels; make it flatter."
    assert taken(Constraint("json_schema", {"enum": ["a"]}))
    assert refusal(Constraint("json_schema", {"enum": [["a"]]})) == f"The json schema {said}"
    assert taken(Constraint("regex", "(((a)))(b)([c])(d)[(][{]"))
    for opened, closed in (("(", ")"), ("[", "]"), ("{", "}")):
        assert refusal(Constraint("regex", f"(([{opened}a{closed}]))")) == f"The regex {said}"
    assert taken(Constraint("json_schema", '{"enum": ["a", [1], [2], [3], [4]]}'))


def test_reasons_are_one_short_sentence() -> None:
    """A long one is cut, lines are joined, and there is one full stop."""
    start = "cannot be used to constrain the text: "
    assert refusal(Constraint("choices", [])) == f"The choices {start}it lists no choice."
    assert refusal(Constraint("grammar", 5)) == f"The grammar {start}5 is not a string."
    assert refusal(Constraint("regex", [7])) == f"The regex {start}[7] is not a string."
    long = refusal(Constraint("choices", [["x"] * 200]))
    assert long == f"The choices {start}{repr(['x'] * 200)[:300]}."
    assert refusal(Constraint("choices", [{"a\n": ". "}])) == f"The choices {start}" + "{'a\\n': '. '} is not a string."


@attrs.define
class Pieces:
    """Token i stands for the i-th piece of bytes, the last one ends a text; a space is put before a text, as SentencePiece does."""

    pieces: Sequence[bytes]
    behind_lines: bool = False
    reads: int = 0
    bos_token_id: int | None = None

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return frozenset({len(self.pieces) - 1})

    def is_special(self, token: int) -> bool:
        return token == len(self.pieces) - 1

    def token_bytes(self, token: int) -> bytes:
        self.reads += 1
        return self.pieces[token]

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        assert special is False
        text = text if self.behind_lines and text.startswith("\n") else " " + text.replace("\n", "\n ")
        data, found = text.encode(), []
        while data:
            token = next((token for token, piece in enumerate(self.pieces) if piece and data.startswith(piece)), None)
            if token is None:
                return found
            found.append(token)
            data = data[len(self.pieces[token]) :]
        return found


def test_forced_text_becomes_tokens_of_exactly_its_bytes() -> None:
    """Those of the tokenizer where it has them, also behind a line end; else the longest at each place, and of equal ones the first."""
    pieces = [b" h", b"\n", b"h", b"e", b"l", b"o", b"hel", b"he", b"lo", b"hel", b"", b"hello"]
    bridge = _Bridge(Pieces(pieces), 11)
    assert bridge("hello") == [6, 8], "Not the special token, whose text it is."
    assert bridge(b"hello") == [6, 8]
    assert bridge(" hello") == [0, 3, 4, 8]
    assert bridge("") == []
    assert bridge("hex") == [7], "It ends before a byte that no token begins with."
    assert bridge(b"\xffhe") == []
    assert _Bridge(Pieces(pieces, behind_lines=True), 11)("hello") == [2, 3, 4, 4, 5]
    assert (bridge.eos_token_id, bridge.bos_token_id, bridge.special_token_ids) == (11, None, [11])
    assert bridge.tokens == pieces


def test_the_vocabulary_is_read_once() -> None:
    tokenizer = Pieces([bytes([byte]) for byte in range(256)] + [b"<end>"])
    compiler = ConstraintCompiler(tokenizer)
    for _ in range(2):
        state = compiler.compile(Constraint("choices", ["ab"]))
        assert state.forced() == [97, 98]
        assert tokenizer.reads == 257
        assert state.allowed(257).nonzero()[0].tolist() == [97]


def test_a_text_ends_where_it_may_be_whole_and_not_before() -> None:
    """With the last choice's beginning the end is one of what may come; more of it may come too."""
    state = ConstraintCompiler(ByteTokenizer()).compile(Constraint("choices", ["a", "abc"]))
    assert set(state.allowed(288).nonzero()[0].tolist()) == {97}
    state.accept(97)
    assert set(state.allowed(288).nonzero()[0].tolist()) == {98} | ByteTokenizer().eos_token_ids
    assert not state.complete
    state.accept(98)
    assert set(state.allowed(288).nonzero()[0].tolist()) == {99}
    assert state.forced() == [99]


def test_vocabularies_that_no_constraint_can_hold() -> None:
    class Marked(ByteTokenizer):
        spelling = None

    class Endless(ByteTokenizer):
        eos_token_ids = frozenset()

    given = Constraint("choices", ["a"])
    assert refusal(given, Marked()) == (
        "Constrained decoding needs tokens that add the same bytes wherever they stand, and this model's (WordPiece, or with marks at the "
        "ends of words) do not; leave the constraint out, or take a model with a byte-level or SentencePiece vocabulary."
    )
    assert refusal(given, Endless()) == ("Constrained decoding needs a tokenizer with an end-of-sequence token, and this model's has none.")
