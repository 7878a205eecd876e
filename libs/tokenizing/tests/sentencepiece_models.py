"""SentencePiece models, trained on the spot, and the library's tokens to compare with."""

from __future__ import annotations

import functools
import io
from pydoc_data.topics import topics
from typing import Any

import sentencepiece

LINES = [line for name in sorted(topics)[:10] for line in topics[name].splitlines() if line.strip()]
MORE = ["今天天气很好，我们去公园散步。春天来了，花都开了。", "Ça coûte 12345 euros, n'est-ce pas ? Größe, naïveté ﬁ ½", "한국어 텍스트"]


@functools.cache
def train(**options: Any) -> bytes:
    """A model of some 700 pieces, three of them user-defined."""
    written = io.BytesIO()
    settings: dict[str, Any] = {"vocab_size": 900 if options.get("byte_fallback") else 700, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*LINES, *MORE * 20]),
        model_writer=written,
        user_defined_symbols=["<think>", "</think>", "e x"],
        character_coverage=0.9995,
        **(settings | options),
    )
    return written.getvalue()


def same(tokenizer: Any, library: Any, strings: list[str], *, special: bool = False) -> None:
    """Tokens, and text where it holds no unknown character, for which the library has a sign of its own."""
    expected = library.encode(strings)
    assert [tokenizer.encode(text, special=special) for text in strings] == expected
    known = [ids for ids in expected if library.unk_id() not in ids]
    assert [tokenizer.decode(ids) for ids in known] == [library.decode(ids) for ids in known]


def plain(strings: list[str]) -> list[str]:
    """Texts without control tokens: those the library takes for text, and every system that runs models for the token."""
    return [text for text in strings if "<s>" not in text and "</s>" not in text and "<unk>" not in text]
