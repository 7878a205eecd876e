"""Tokenizers of GGUF files, on hundreds of strings each: the tokens around a text, kinds of tokens, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmasos.compose.formats import open_model
from llmasos_format_gguf.checkpoint import GGUFCheckpoint
from llmasos_format_gguf.header import read_header
from llmasos_hookspecs import CheckpointError, Tokenizer, UnsupportedModel
from llmasos_tokenizing.fast import FastTokenizer
from llmasos_tokenizing.pretokenizers import PRE_TOKENIZERS

from .published import published


def agree(tokenizer: Tokenizer, reference: Any, strings: list[str], *, special: bool = True) -> None:
    """Ids, and text with and without special tokens, agree on all strings."""
    expected = reference(strings, add_special_tokens=special).input_ids
    whole, plain = reference.batch_decode(expected), reference.batch_decode(expected, skip_special_tokens=True)
    for text, ids, decoded, without in zip(strings, expected, whole, plain, strict=True):
        assert tokenizer.encode(text, special=special) == ids
        assert tokenizer.decode(ids, skip_special=False) == decoded
        assert tokenizer.decode(ids) == without


def spelt(tokenizer: Tokenizer, strings: list[str], before: str = "") -> None:
    """The bytes of the tokens of a text are its bytes, but for the space that SentencePiece puts before it."""
    for text in strings:
        found = b"".join(map(tokenizer.token_bytes, tokenizer.encode(text, special=False)))
        assert found.decode() == (before + text if text else "")


@pytest.mark.parametrize("pre", ["llama-bpe", None, *(pytest.param(name, marks=pytest.mark.long) for name in ("tekken", "gpt-2"))], ids=str)
def test_byte_level_files_give_transformers_tokens(
    pre: str | None, train_byte_level: Any, write_tokenizer: Any, theirs: Any, strings: Any
) -> None:
    """Where transformers' reader of GGUF files keeps to the published rule; test_pretokenizers.py has all others."""
    path = write_tokenizer(train_byte_level(PRE_TOKENIZERS[pre or "default"].build()), "gpt2", pre=pre, add_add_bos_token=False)
    tokenizer = GGUFCheckpoint(path).tokenizer()
    assert isinstance(tokenizer, Tokenizer)
    agree(tokenizer, theirs(path), strings)


@pytest.mark.parametrize("merges", [True, False], ids=["merges", "scores"])
def test_gemmas_files_give_transformers_tokens(
    merges: bool, train_sentencepiece: Any, write_tokenizer: Any, theirs: Any, strings: Any
) -> None:
    path = write_tokenizer(train_sentencepiece(), "llama", arch="gemma2", merges=merges)
    agree(GGUFCheckpoint(path).tokenizer(), theirs(path), strings)


def test_without_a_space_before_the_text_its_bytes_are_kept(train_sentencepiece: Any, write_tokenizer: Any, strings: Any) -> None:
    path = write_tokenizer(train_sentencepiece(), "llama", add_add_space_prefix=False)
    tokenizer = GGUFCheckpoint(path).tokenizer()
    assert tokenizer.decode(tokenizer.encode("  two")) == "  two"
    spelt(tokenizer, [text for text in strings if "▁" not in text])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_bytes_of_tokens_are_the_bytes_of_the_text(
    kind: str, train_byte_level: Any, train_sentencepiece: Any, write_tokenizer: Any, strings: Any
) -> None:
    trained = train_sentencepiece() if kind == "llama" else train_byte_level(PRE_TOKENIZERS["llama-bpe"].build())
    tokenizer = GGUFCheckpoint(write_tokenizer(trained, kind, pre="llama-bpe")).tokenizer()
    # SentencePiece cannot tell ▁ from a space, and puts a space behind each control token.
    plain = [text for text in strings if "▁" not in text and "</s>" not in text and "<|im_start|>" not in text]
    spelt(tokenizer, plain, " " if kind == "llama" else "")
    assert tokenizer.token_bytes(3) == b"<|im_start|>"
    assert tokenizer.token_bytes(10**6) == b""


@pytest.mark.parametrize(
    ("bos", "eos"), [(True, False), (False, True), *(pytest.param(each, each, marks=pytest.mark.long) for each in (True, False))]
)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_bos_and_eos_are_added_where_the_file_says_so(
    kind: str, bos: bool, eos: bool, train_byte_level: Any, train_sentencepiece: Any, write_tokenizer: Any, theirs: Any
) -> None:
    trained = train_sentencepiece() if kind == "llama" else train_byte_level(PRE_TOKENIZERS["qwen2"].build())
    path = write_tokenizer(trained, kind, pre="qwen2" if kind == "gpt2" else "default", add_add_bos_token=bos, add_add_eos_token=eos)
    tokenizer = GGUFCheckpoint(path).tokenizer()
    ids = tokenizer.encode("hello")
    assert ids == theirs(path)("hello").input_ids
    assert (ids[0] == 1, ids[-1] == 2) == (bos, eos)
    assert tokenizer.encode("hello", special=False) == ids[bos : len(ids) - eos]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, frozenset({2, 4}))  # <|im_end|> ends a turn


def test_control_tokens_are_special_and_user_defined_ones_are_text(train_byte_level: Any, write_tokenizer: Any) -> None:
    trained = train_byte_level(PRE_TOKENIZERS["qwen2"].build())
    tokenizer = GGUFCheckpoint(write_tokenizer(trained, "gpt2", pre="qwen2")).tokenizer()
    ids = tokenizer.encode("a<|im_start|>b<think>c")
    assert [tokenizer.is_special(token) for token in ids] == [False, True, False, False, False]
    assert tokenizer.decode(ids) == "ab<think>c"
    assert tokenizer.vocab_size == len(trained.tokens)
    assert repr(tokenizer) == f"FastTokenizer(vocab_size={len(trained.tokens)}, bos=1, eos=[2, 4])"


def test_a_file_without_a_tokenizer_or_with_an_unknown_one_says_so(train_byte_level: Any, write_tokenizer: Any) -> None:
    trained = train_byte_level(PRE_TOKENIZERS["qwen2"].build())
    with pytest.raises(UnsupportedModel, match="'martian'"):
        GGUFCheckpoint(write_tokenizer(trained, "gpt2", pre="martian")).tokenizer()
    with pytest.raises(UnsupportedModel, match="kind 'rwkv'"):
        GGUFCheckpoint(write_tokenizer(trained, "rwkv")).tokenizer()
    with pytest.raises(CheckpointError, match=r"without tokenizer\.ggml\.merges"):
        GGUFCheckpoint(write_tokenizer(trained, "gpt2", merges=False)).tokenizer()
    with pytest.raises(CheckpointError, match=r"without tokenizer\.ggml\.scores"):
        GGUFCheckpoint(write_tokenizer(trained, "llama", merges=False)).tokenizer()


def test_merges_of_tokens_that_the_vocabulary_lacks_are_one_clear_sentence(train_byte_level: Any, write_tokenizer: Any) -> None:
    import attrs

    trained = attrs.evolve(train_byte_level(PRE_TOKENIZERS["qwen2"].build()), merges=["nonsense words"])
    with pytest.raises(CheckpointError, match="parts do not fit"):
        GGUFCheckpoint(write_tokenizer(trained, "gpt2", pre="qwen2")).tokenizer()


def test_tokens_that_a_user_defined_are_read_as_the_file_spells_them(train_byte_level: Any, write_tokenizer: Any) -> None:
    """GPT-NeoX's runs of spaces are such tokens; they are no runs in the byte alphabet."""
    import attrs

    trained = train_byte_level(PRE_TOKENIZERS["mpt"].build())
    trained = attrs.evolve(trained, tokens=[*trained.tokens, "   "], kinds=[*trained.kinds, 4])
    tokenizer = GGUFCheckpoint(write_tokenizer(trained, "gpt2", pre="mpt")).tokenizer()
    ids = tokenizer.encode("a    b")
    assert ids[1] == len(trained.tokens) - 1
    assert tokenizer.decode(ids) == "a    b"


def test_pieces_with_their_merges_are_read_as_gemmas(train_sentencepiece: Any, write_tokenizer: Any, strings: Any) -> None:
    """Gemma 4's kind has merges, SentencePiece's pieces, and a BOS where the file does not say."""
    trained = train_sentencepiece()
    expected = GGUFCheckpoint(write_tokenizer(trained, "llama", arch="gemma2")).tokenizer()
    found = GGUFCheckpoint(write_tokenizer(trained, "gemma4", arch="gemma2")).tokenizer()
    assert [found.encode(text) for text in strings[:500]] == [expected.encode(text) for text in strings[:500]]
    assert found.encode("a")[0] == 1


@pytest.mark.model
def test_smollm2_gives_the_tokens_of_its_published_tokenizer(smollm2_gguf: Path, strings: Any) -> None:
    """Digits, then GPT-2's words: not what transformers makes of the file, whose reader drops the digits."""
    checkpoint = open_model(smollm2_gguf)
    tokenizer = checkpoint.tokenizer()
    assert isinstance(tokenizer, FastTokenizer)
    metadata = read_header(smollm2_gguf).metadata
    tokens, merges = (metadata[f"tokenizer.ggml.{name}"].decoded() for name in ("tokens", "merges"))
    special = [token for token, kind in zip(tokens, metadata["tokenizer.ggml.token_type"].tolist(), strict=True) if kind == 3]
    reference = published(tokens, merges, "smollm", special)
    expected = [found.ids for found in reference.encode_batch(strings, add_special_tokens=False)]
    assert [tokenizer.encode(text, special=False) for text in strings] == expected
    assert [tokenizer.decode(ids) for ids in expected] == [reference.decode(ids) for ids in expected]
    assert [tokenizer.token_bytes(token) for token in tokenizer.encode("\n\n1")] == [b"\n\n", b"1"]
    # Its vocabulary lacks a few bytes, which only control characters and planes without text need.
    spelt(tokenizer, [text for text in strings if text.isprintable() and max(text, default="") < "\U00020000"])
    assert (tokenizer.vocab_size, tokenizer.bos_token_id, tokenizer.eos_token_ids) == (49152, 1, frozenset({2}))
    assert checkpoint.tokenizer() is tokenizer
