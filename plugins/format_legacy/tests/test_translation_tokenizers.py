"""Tokenizers of Marian and M2M-100 folders: transformers' tokens on 300 strings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from libs.tokenizing.tests.sentencepiece_models import train

from llmasos.compose.formats import formats
from llmasos_engine.detokenizer import Detokenizer
from llmasos_hookspecs import CheckpointError, UnsupportedModel


def pieces_of(*models: bytes) -> list[str]:
    """All pieces of SentencePiece models, without their control tokens, and characters that none of them has."""
    found: dict[str, None] = {}
    for model in models:
        library = sentencepiece.SentencePieceProcessor(model_proto=model)
        texts = (library.id_to_piece(token) for token in range(library.get_piece_size()) if not library.is_control(token))
        found |= dict.fromkeys(text for text in texts if text != "<unk>")
    return [*found, "ø", "☃", "☃☃"]


@pytest.fixture
def marian(tmp_path: Path) -> Path:
    """A folder with two SentencePiece models and a vocabulary over both, in another order than theirs."""
    source, target = train(model_type="unigram"), train(model_type="bpe")
    (tmp_path / "source.spm").write_bytes(source)
    (tmp_path / "target.spm").write_bytes(target)
    texts = [
        "</s>",
        "<unk>",
        ">>fra<<",
        ">>deu<<",
        *sorted(pieces_of(source, target))[::3],
        *sorted(pieces_of(source, target))[1::3],
        "<pad>",
    ]
    (tmp_path / "vocab.json").write_text(json.dumps({text: token for token, text in enumerate(texts)}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MarianTokenizer"}))
    return tmp_path


@pytest.fixture
def m2m(tmp_path: Path) -> Path:
    """A folder as transformers saves it: a BPE model, a vocabulary, and languages after it."""
    from transformers import M2M100Tokenizer

    model = train(model_type="bpe")
    (tmp_path / "spm").write_bytes(model)
    texts = ["<s>", "<pad>", "</s>", "<unk>", *pieces_of(model)]
    (tmp_path / "vocab").write_text(json.dumps({text: token for token, text in enumerate(texts)}))
    folder = tmp_path / "model"
    M2M100Tokenizer(str(tmp_path / "vocab"), str(tmp_path / "spm"), src_lang="fr").save_pretrained(folder)
    return folder


def test_marian_gives_transformers_tokens(marian: Path, strings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources and targets, with a language's code before them, characters that only the vocabulary knows, and back to text."""
    from transformers import MarianTokenizer

    monkeypatch.setattr(MarianTokenizer, "_setup_normalizer", lambda self: setattr(self, "punc_normalizer", str))
    tokenizer, reference = formats().tokenizer(marian), MarianTokenizer.from_pretrained(marian)
    texts = [text for text in [*strings[:300], "a☃b☃☃c ø"] if not any(mark in text for mark in ("<", ">>"))]
    assert [tokenizer.encode(text) for text in texts] == reference(texts).input_ids
    assert [tokenizer.target.encode(text) for text in texts] == reference(text_target=texts).input_ids
    marked = [f">>deu<< {text}" for text in texts[:50]]
    assert [tokenizer.encode(text) for text in marked] == reference(marked).input_ids
    for text in texts[:100]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids).strip() == reference.decode(ids, skip_special_tokens=True)
    assert tokenizer.is_special(2)
    assert tokenizer.eos_token_ids == {0}


def test_m2m_gives_transformers_tokens(m2m: Path, strings: list[str]) -> None:
    """The mark of the folder's source language stands before a text; languages have the ids that transformers gives them."""
    from transformers import M2M100Tokenizer

    tokenizer, reference = formats().tokenizer(m2m), M2M100Tokenizer.from_pretrained(m2m)
    texts = [text for text in [*strings[:300], "a☃b☃☃c ø"] if "<" not in text and "__" not in text]
    assert [tokenizer.encode(text) for text in texts] == reference(texts).input_ids
    assert tokenizer.encode("", special=True)[0] == reference.get_lang_id("fr")
    assert all(tokenizer.is_special(reference.get_lang_id(code)) for code in ("en", "zu", "de"))


def test_pieces_stream_as_they_decode(marian: Path, strings: list[str]) -> None:
    """Joined pieces of a streamed text are the text; the space before its first word is left out."""
    tokenizer: Any = formats().tokenizer(marian)
    for text in strings[:100]:
        ids = tokenizer.encode(text, special=False)
        streamed = Detokenizer(tokenizer)
        assert "".join(streamed.push(token) for token in ids) == tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        ({"a": 1}, "lacks <unk>"),
        ({"<unk>": 0, "</s>": "1"}, "no whole number"),
        ({"<unk>": 0, "</s>": 1 << 40}, "far past"),
        ([1], "vocab"),
    ],
)
def test_a_damaged_vocabulary_is_refused(marian: Path, vocabulary: Any, said: str) -> None:
    (marian / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(CheckpointError, match=said):
        formats().tokenizer(marian)


def test_two_vocabularies_are_refused(marian: Path) -> None:
    """Their files are not read; the sentence says what is."""
    (marian / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MarianTokenizer", "separate_vocabs": True}))
    with pytest.raises(UnsupportedModel, match="one for both"):
        formats().tokenizer(marian)
