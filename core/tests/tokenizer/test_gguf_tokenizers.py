"""Tokenizers of GGUF files against transformers', on 2,000 strings each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmasos.runtime.checkpoint import open_checkpoint
from llmasos.runtime.tokenizer import FastTokenizer
from llmasos.runtime.tokenizer.pretokenizers import PRE_TOKENIZERS
from llmasos_hookspecs import CheckpointError, Tokenizer, UnsupportedModel

#: Ways of cutting that transformers reads from a GGUF file's ``tokenizer.ggml.pre``, and those that it reads as GPT-2's.
SHARED = ["llama-bpe", "qwen2", "deepseek-r1-qwen", "tekken", "gpt-4o", "smaug-bpe", "smollm", "gpt-2", "default", None]
OURS = ["starcoder", "refact", "command-r"]


def agree(tokenizer: Tokenizer, reference: Any, strings: list[str], *, special: bool = True) -> None:
    """Ids, and text with and without special tokens, agree on all strings."""
    expected = reference(strings, add_special_tokens=special).input_ids
    whole, plain = reference.batch_decode(expected), reference.batch_decode(expected, skip_special_tokens=True)
    for text, ids, decoded, without in zip(strings, expected, whole, plain, strict=True):
        assert tokenizer.encode(text, special=special) == ids
        assert tokenizer.decode(ids, skip_special=False) == decoded
        assert tokenizer.decode(ids) == without


def spelt(tokenizer: Tokenizer, strings: list[str]) -> None:
    """The bytes of the tokens of a text are its bytes, but for the space that SentencePiece puts before it."""
    for text in strings:
        found = b"".join(map(tokenizer.token_bytes, tokenizer.encode(text, special=False)))
        assert found.decode().removeprefix(" ") == text.removeprefix(" ")


@pytest.mark.parametrize("pre", SHARED, ids=str)
def test_byte_level_files_give_transformers_tokens(
    pre: str | None, train_byte_level: Any, write_tokenizer: Any, theirs: Any, strings: Any
) -> None:
    path = write_tokenizer(train_byte_level(PRE_TOKENIZERS[pre or "default"].build()), "gpt2", pre=pre)
    tokenizer = open_checkpoint(path).tokenizer()
    assert isinstance(tokenizer, Tokenizer)
    agree(tokenizer, theirs(path), strings)


@pytest.mark.parametrize("pre", OURS)
def test_byte_level_files_that_cut_digits_give_the_trained_tokenizers_tokens(
    pre: str, train_byte_level: Any, write_tokenizer: Any, strings: Any
) -> None:
    from transformers import PreTrainedTokenizerFast

    trained = train_byte_level(PRE_TOKENIZERS[pre].build())
    path = write_tokenizer(trained, "gpt2", pre=pre)
    reference = PreTrainedTokenizerFast(tokenizer_object=trained.backend, clean_up_tokenization_spaces=False)
    reference.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    agree(open_checkpoint(path).tokenizer(), reference, strings, special=False)


@pytest.mark.parametrize("merges", [True, False], ids=["merges", "scores"])
@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_sentencepiece_files_give_transformers_tokens(
    arch: str, merges: bool, train_sentencepiece: Any, write_tokenizer: Any, theirs: Any, strings: Any
) -> None:
    path = write_tokenizer(train_sentencepiece(), "llama", arch=arch, merges=merges)
    agree(open_checkpoint(path).tokenizer(), theirs(path), strings)


def test_without_a_space_before_the_text_its_bytes_are_kept(train_sentencepiece: Any, write_tokenizer: Any, strings: Any) -> None:
    path = write_tokenizer(train_sentencepiece(), "llama", add_add_space_prefix=False)
    tokenizer = open_checkpoint(path).tokenizer()
    assert tokenizer.decode(tokenizer.encode("  two")) == "  two"
    spelt(tokenizer, [text for text in strings if "▁" not in text])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_bytes_of_tokens_are_the_bytes_of_the_text(
    kind: str, train_byte_level: Any, train_sentencepiece: Any, write_tokenizer: Any, strings: Any
) -> None:
    trained = train_sentencepiece() if kind == "llama" else train_byte_level(PRE_TOKENIZERS["qwen2"].build())
    tokenizer = open_checkpoint(write_tokenizer(trained, kind, pre="qwen2")).tokenizer()
    plain = [text for text in strings if "▁" not in text]  # which SentencePiece cannot tell from a space
    spelt(tokenizer, plain)
    assert tokenizer.token_bytes(3) == b"<|im_start|>"
    assert tokenizer.token_bytes(10**6) == b""


@pytest.mark.parametrize(("bos", "eos"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_bos_and_eos_are_added_where_the_file_says_so(
    kind: str, bos: bool, eos: bool, train_byte_level: Any, train_sentencepiece: Any, write_tokenizer: Any, theirs: Any
) -> None:
    trained = train_sentencepiece() if kind == "llama" else train_byte_level(PRE_TOKENIZERS["qwen2"].build())
    path = write_tokenizer(trained, kind, pre="qwen2" if kind == "gpt2" else "default", add_add_bos_token=bos, add_add_eos_token=eos)
    tokenizer = open_checkpoint(path).tokenizer()
    ids = tokenizer.encode("hello")
    assert ids == theirs(path)("hello").input_ids
    assert (ids[0] == 1, ids[-1] == 2) == (bos, eos)
    assert tokenizer.encode("hello", special=False) == ids[bos : len(ids) - eos]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, frozenset({2, 4}))  # <|im_end|> ends a turn


def test_control_tokens_are_special_and_user_defined_ones_are_text(train_byte_level: Any, write_tokenizer: Any) -> None:
    trained = train_byte_level(PRE_TOKENIZERS["qwen2"].build())
    tokenizer = open_checkpoint(write_tokenizer(trained, "gpt2", pre="qwen2")).tokenizer()
    ids = tokenizer.encode("a<|im_start|>b<think>c")
    assert [tokenizer.is_special(token) for token in ids] == [False, True, False, False, False]
    assert tokenizer.decode(ids) == "ab<think>c"
    assert tokenizer.vocab_size == len(trained.tokens)
    assert repr(tokenizer) == f"FastTokenizer(vocab_size={len(trained.tokens)}, bos=1, eos=[2, 4])"


def test_a_file_without_a_tokenizer_or_with_an_unknown_one_says_so(train_byte_level: Any, write_tokenizer: Any) -> None:
    trained = train_byte_level(PRE_TOKENIZERS["qwen2"].build())
    with pytest.raises(UnsupportedModel, match="'martian'"):
        open_checkpoint(write_tokenizer(trained, "gpt2", pre="martian")).tokenizer()
    with pytest.raises(UnsupportedModel, match="kind 't5'"):
        open_checkpoint(write_tokenizer(trained, "t5")).tokenizer()
    with pytest.raises(CheckpointError, match=r"without tokenizer\.ggml\.merges"):
        open_checkpoint(write_tokenizer(trained, "gpt2", merges=False)).tokenizer()
    with pytest.raises(CheckpointError, match=r"without tokenizer\.ggml\.scores"):
        open_checkpoint(write_tokenizer(trained, "llama", merges=False)).tokenizer()


def test_merges_of_tokens_that_the_vocabulary_lacks_are_one_clear_sentence(train_byte_level: Any, write_tokenizer: Any) -> None:
    import attrs

    trained = attrs.evolve(train_byte_level(PRE_TOKENIZERS["qwen2"].build()), merges=["nonsense words"])
    with pytest.raises(CheckpointError, match="parts do not fit"):
        open_checkpoint(write_tokenizer(trained, "gpt2", pre="qwen2")).tokenizer()


@pytest.mark.model
def test_smollm2_gives_transformers_tokens(smollm2_gguf: Path, theirs: Callable[[Path], Any], strings: Any) -> None:
    checkpoint = open_checkpoint(smollm2_gguf)
    tokenizer = checkpoint.tokenizer()
    assert isinstance(tokenizer, FastTokenizer)
    agree(tokenizer, theirs(smollm2_gguf), strings)
    # Its vocabulary lacks a few bytes, which only control characters and planes without text need.
    spelt(tokenizer, [text for text in strings if text.isprintable() and max(text, default="") < "\U00020000"])
    assert (tokenizer.vocab_size, tokenizer.bos_token_id, tokenizer.eos_token_ids) == (49152, 1, frozenset({2}))
    assert checkpoint.tokenizer() is tokenizer
