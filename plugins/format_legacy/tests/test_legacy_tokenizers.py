"""Folders without tokenizer.json: against transformers' and SentencePiece's tokens, on 800 strings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from libs.tokenizing.tests.sentencepiece_models import plain, same, train

from llmasos.compose.formats import formats
from llmasos_hookspecs import CheckpointError, UnsupportedModel
from llmasos_tokenizing.pretokenizers import PRE_TOKENIZERS

MARK = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def vocabulary(tmp_path: Path, train_byte_level: Any) -> Path:
    """vocab.json and merges.txt of a byte-level vocabulary whose merges cross all cuts that the classes make."""
    trained = train_byte_level(PRE_TOKENIZERS["superbpe"].build())
    tokens = [*trained.tokens[:-2], "<|endoftext|>"]
    write(tmp_path, vocab={token: place for place, token in enumerate(tokens)})
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(trained.merges) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_class": "GPT2Tokenizer"},
        {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True},
        {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True},
        {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]},
        {"tokenizer_class": "Qwen2TokenizerFast", "added_tokens_decoder": {
            "1202": {"content": "<think>", "special": False, **MARK}, "1201": {"content": "<sentinel:12>", "special": True, **MARK}}},
        {"tokenizer_class": "GPTNeoXTokenizer"},
    ],
    ids=["gpt2", "gpt2-prefix", "gpt2-bos", "qwen2", "qwen2-added", "neox"],
)  # fmt: skip
def test_a_vocabulary_and_its_merges_give_transformers_tokens(config: dict[str, Any], vocabulary: Path, strings: list[str]) -> None:
    from transformers import AutoTokenizer

    write(vocabulary, tokenizer_config=config)
    tokenizer = formats().tokenizer(vocabulary)
    reference = AutoTokenizer.from_pretrained(vocabulary)
    # transformers 5 leaves out a BOS that the config asks for; GPT-2's slow tokenizer of transformers 4 puts it before the text.
    begins = [tokenizer.bos_token_id] if config.get("add_bos_token") else []
    texts = [text for text in strings if "<s>" not in text]
    expected = [[*begins, *ids] for ids in reference(texts, add_special_tokens=False).input_ids]
    assert [tokenizer.encode(text) for text in texts] == expected
    for name in ("eos_token", "unk_token"):
        assert tokenizer.special_tokens[name] == getattr(reference, name)
    assert tokenizer.eos_token_ids == {reference.eos_token_id}


def test_the_class_is_the_models_where_no_config_names_one(vocabulary: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"vocab\.json of no class that it names, and those read are GPT2Tokenizer"):
        formats().tokenizer(vocabulary)
    write(vocabulary, config={"model_type": "qwen3"})
    digits = formats().tokenizer(vocabulary).encode("12")
    assert len(digits) == 2  # Qwen's rule
    write(vocabulary, tokenizer_config={"tokenizer_class": "CLIPTokenizer"})
    with pytest.raises(UnsupportedModel, match="the class CLIPTokenizer"):
        formats().tokenizer(vocabulary)


PIECES = {"model_type": "bpe", "byte_fallback": True, "remove_extra_whitespaces": False, "normalization_rule_name": "identity"}


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model"])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_model_file_gives_sentencepieces_tokens(kind: str, name: str, tmp_path: Path, strings: list[str]) -> None:
    data = train(**PIECES | {"model_type": kind})
    (tmp_path / name).write_bytes(data)
    write(tmp_path, tokenizer_config={"tokenizer_class": "LlamaTokenizer"})
    tokenizer, library = formats().tokenizer(tmp_path), sentencepiece.SentencePieceProcessor(model_proto=data)
    texts = plain(strings)
    same(tokenizer, library, texts)
    assert [tokenizer.encode(text) for text in texts[:100]] == [[1, *ids] for ids in library.encode(texts[:100])]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, frozenset({2}))


def test_added_tokens_and_flags_of_the_config_count(tmp_path: Path) -> None:
    data = train(**PIECES)
    library = sentencepiece.SentencePieceProcessor(model_proto=data)
    size = library.get_piece_size()
    (tmp_path / "tokenizer.model").write_bytes(data)
    config: dict[str, Any] = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": False,
        "add_eos_token": True,
        "eos_token": {"content": "<|im_end|>"},
        "added_tokens_decoder": {str(size + 2): {"content": "<|im_end|>", "special": True, **MARK}},
    }
    write(tmp_path, tokenizer_config=config, added_tokens={"<tool>": size}, generation_config={"eos_token_id": [2]})
    tokenizer = formats().tokenizer(tmp_path)
    assert tokenizer.encode("the<tool>the<|im_end|>") == [*library.encode("the"), size, *library.encode("the"), size + 2, size + 2]
    assert [tokenizer.is_special(token) for token in (size, size + 2)] == [False, True]
    assert tokenizer.eos_token_ids == frozenset({2, size + 2})
    assert tokenizer.vocab_size == size + 3

    write(tmp_path, tokenizer_config=config | {"legacy": False, "add_eos_token": False})
    # Only at the beginning of a text does a space go before it.
    piece = formats().tokenizer(tmp_path).encode("the<tool>the")
    assert piece[: piece.index(size)] == library.encode("the")
    assert "".join(map(library.id_to_piece, piece[piece.index(size) + 1 :])) == "the"
    write(tmp_path, tokenizer_config=config | {"add_prefix_space": False})
    assert formats().tokenizer(tmp_path).decode(formats().tokenizer(tmp_path).encode("  a")) == "  a"


def test_t5_ends_a_text_and_marks_gaps(tmp_path: Path) -> None:
    """No BOS, an EOS after the text, and ``<extra_id_0>`` as the last of the vocabulary, as transformers has it."""
    data = train(**PIECES | {"model_type": "unigram"})
    library = sentencepiece.SentencePieceProcessor(model_proto=data)
    (tmp_path / "spiece.model").write_bytes(data)
    write(tmp_path, config={"model_type": "t5"}, tokenizer_config={"tokenizer_class": "T5Tokenizer", "extra_ids": 3})
    tokenizer, size = formats().tokenizer(tmp_path), library.get_piece_size()
    assert tokenizer.encode("the cat") == [*library.encode("the cat"), 2]
    assert tokenizer.encode("<extra_id_0><extra_id_2>", special=False) == [size + 2, size]
    assert tokenizer.vocab_size == size + 3
    write(tmp_path, tokenizer_config={"tokenizer_class": "MT5Tokenizer", "extra_ids": 0})
    assert formats().tokenizer(tmp_path).vocab_size == size
    write(tmp_path, tokenizer_config={"tokenizer_class": "T5Tokenizer", "extra_ids": "many"})
    with pytest.raises(CheckpointError, match="extra_ids = 'many'"):
        formats().tokenizer(tmp_path)


def test_what_cannot_be_read_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")  # tiktoken's form
    with pytest.raises(CheckpointError, match="is no SentencePiece model"):
        formats().tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(train(**PIECES))
    write(tmp_path, tokenizer_config={"tokenizer_class": "XGLMTokenizer"})
    with pytest.raises(UnsupportedModel, match="class XGLMTokenizer, and those read are LlamaTokenizer"):
        formats().tokenizer(tmp_path)
    write(tmp_path, tokenizer_config={}, added_tokens={"<far>": 10**12})
    with pytest.raises(CheckpointError, match="id 1000000000000, far past"):
        formats().tokenizer(tmp_path)


@pytest.mark.parametrize("text", ['{"a": "b"}', "[]", "{"])
def test_a_damaged_vocabulary_is_one_clear_sentence(text: str, vocabulary: Path) -> None:
    write(vocabulary, tokenizer_config={"tokenizer_class": "GPT2Tokenizer"})
    (vocabulary / "vocab.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        formats().tokenizer(vocabulary)
    assert "\n" not in str(caught.value)
