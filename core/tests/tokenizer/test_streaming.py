"""Streamed text is decoded text, wherever it is cut, for every way of joining tokens."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from libs.tokenizing.tests.conftest import SPECIAL, TEXT
from libs.tokenizing.tests.sentencepiece_models import train
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from llmasos_engine.constraint import ConstraintCompiler
from llmasos_engine.detokenizer import Detokenizer
from llmasos_hookspecs import Constraint, RequestError
from llmasos_tokenizing.fast import FastTokenizer
from llmasos_tokenizing.sentencepiece import SentencePieceTokenizer, whole_tokens
from llmasos_tokenizing.sentencepiece_file import read_sentencepiece

LINES = [line for text in TEXT for line in text.splitlines()][::3]


#: Random texts for each tokenizer, and how many cuts they must have come to.
TEXTS, CUTS = (600, 500) if settings.default.max_examples >= 500 else (60, 150)


def learnt(backend: Tokenizer, trainer: Any) -> Tokenizer:
    backend.train_from_iterator(LINES, trainer)
    return backend


def reading(backend: Tokenizer, decoder: Any) -> FastTokenizer:
    """What was learnt once, with a decoder of its own."""
    own = Tokenizer.from_str(backend.to_str())
    if decoder is not None:
        own.decoder = decoder
    return FastTokenizer(own, named={}, eos_token_ids=frozenset({2}))


@functools.cache
def bytes_learnt() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return learnt(backend, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False))


def byte_level(decoder: Any) -> FastTokenizer:
    return reading(bytes_learnt(), decoder)


@functools.cache
def pieces_learnt() -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return learnt(backend, trainers.WordPieceTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False))


def wordpiece(cleanup: bool) -> FastTokenizer:
    """As BERT's."""
    return reading(pieces_learnt(), decoders.WordPiece(cleanup=cleanup))


def ends_of_words() -> FastTokenizer:
    """As GPT-1's and CLIP's."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False)
    return reading(learnt(backend, trainer), decoders.BPEDecoder(suffix="</w>"))


@functools.cache
def unigram_learnt() -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return learnt(backend, trainers.UnigramTrainer(vocab_size=600, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False))


def metaspace(scheme: str) -> FastTokenizer:
    """As T5's."""
    reader = reading(unigram_learnt(), decoders.Metaspace(prepend_scheme=scheme))
    reader.backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return reader


@functools.cache
def fallback_learnt() -> Tokenizer:
    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    return learnt(backend, trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False, limit_alphabet=90))


def fallback(decoder: Any) -> FastTokenizer:
    """As Llama 2's and Gemma's."""
    return reading(fallback_learnt(), decoder)


def sequence(*steps: Any) -> Any:
    return decoders.Sequence(list(steps))


STEPS = (decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse())
MADE = {
    "byte-level": lambda: byte_level(decoders.ByteLevel()),
    "byte-level in a sequence": lambda: byte_level(sequence(decoders.ByteLevel())),
    "byte-level and more": lambda: byte_level(sequence(decoders.ByteLevel(), decoders.Strip(content=" ", left=1))),
    "wordpiece": lambda: wordpiece(cleanup=False),
    "wordpiece with cleanup": lambda: wordpiece(cleanup=True),
    "ends of words": ends_of_words,
    "metaspace": lambda: metaspace("always"),
    "metaspace without prefix": lambda: metaspace("never"),
    "byte fallback": lambda: fallback(sequence(*STEPS, decoders.Strip(content=" ", left=1))),
    "byte fallback without strip": lambda: fallback(sequence(*STEPS)),
    "byte fallback in nested sequences": lambda: fallback(sequence(sequence(*STEPS), decoders.Strip(content=" ", left=1))),
    "byte fallback in another order": lambda: fallback(sequence(decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " "))),
    "no decoder": lambda: byte_level(None),
}
SPELT = {"byte-level", "byte-level in a sequence", "metaspace", "metaspace without prefix", "byte fallback", "byte fallback without strip"}
SPELT |= {"byte fallback in nested sequences"}


#: Those whose decoders come to the same as others'.
ALIKE = {"byte-level in a sequence", "byte fallback in nested sequences", "metaspace without prefix"}
NAMES = [*MADE, "sentencepiece", "sentencepiece that squeezes"]


@pytest.fixture(scope="module", params=[pytest.param(name, marks=[pytest.mark.long] * (name in ALIKE)) for name in NAMES])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, FastTokenizer]:
    if request.param in MADE:
        return request.param, MADE[request.param]()
    path: Path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    path.write_bytes(train(model_type="bpe", byte_fallback=True, remove_extra_whitespaces=request.param.endswith("squeezes")))
    model = read_sentencepiece(path)
    return request.param, SentencePieceTokenizer(model, whole=whole_tokens(model), named={}, eos_token_ids=frozenset({2}))


def streamed(tokenizer: FastTokenizer, after: list[int], tokens: list[int]) -> str:
    stream = Detokenizer(tokenizer, after=after)
    return "".join(stream.push(token) for token in tokens)


def test_streamed_text_is_decoded_text_wherever_it_is_cut(tokenizer: tuple[str, FastTokenizer], strings: list[str]) -> None:
    """A text streams as it decodes; behind a prompt it streams what it adds to the prompt's text. Only a character whose bytes
    are not all there yet is missing."""
    reader = tokenizer[1]
    cuts = 0
    for place, text in enumerate([*LINES[: TEXTS // 2], "the the the", "  two  spaces", *strings[:TEXTS]]):
        ids = reader.encode(text[:120], special=False)
        whole = reader.decode(ids)
        if "\ufffd" in whole:
            continue
        assert streamed(reader, [], ids) == whole
        for cut in range(1 + place % 3, len(ids), 3 + place % 5):
            head = reader.decode(ids[:cut])
            if head.endswith("\ufffd") or not whole.startswith(head):
                continue  # within a character
            cuts += 1
            assert streamed(reader, ids[:cut], ids[cut:]) == whole[len(head) :]
            assert streamed(reader, [], ids[:cut]) == head
    assert cuts > CUTS


def test_special_tokens_are_skipped_in_a_stream_too(tokenizer: tuple[str, FastTokenizer]) -> None:
    reader = tokenizer[1]
    words = reader.encode("the the the", special=False)
    special = reader.backend.token_to_id("</s>")
    mixed = [token for word in words for token in (special, word)]
    assert streamed(reader, [], mixed) == reader.decode(mixed) == reader.decode(words)
    assert streamed(reader, [special], words) == reader.decode(words)


def test_a_piece_comes_as_soon_as_it_is_whole(tokenizer: tuple[str, FastTokenizer]) -> None:
    reader = tokenizer[1]
    stream = Detokenizer(reader, after=reader.encode("so", special=False))
    ids = reader.encode("so the the the", special=False)[len(reader.encode("so", special=False)) :]
    assert all(stream.push(token) for token in ids)


def test_constraints_work_where_tokens_are_bytes_and_are_refused_elsewhere(tokenizer: tuple[str, FastTokenizer]) -> None:
    name, reader = tokenizer
    constraint = Constraint("regex", " the a?the")
    if name not in SPELT and not name.startswith("sentencepiece"):
        assert reader.spelling is None
        with pytest.raises(RequestError, match="tokens that add the same bytes wherever they stand"):
            ConstraintCompiler(reader).compile(constraint)
        return
    state = ConstraintCompiler(reader).compile(constraint)
    found: list[int] = []
    while not state.complete:
        allowed = [token for token in state.allowed(reader.vocab_size).nonzero()[0].tolist() if token not in reader.eos_token_ids]
        found.append(max(allowed, key=lambda token: len(reader.token_bytes(token))))
        state.accept(found[-1])
    assert streamed(reader, reader.encode("so", special=False), found) in (" the the", " the athe")


def test_a_text_that_its_decoder_rewrites_is_not_lost(strings: list[str]) -> None:
    """A decoder that changes what it gave before cannot be followed exactly; a piece is held back for some tokens, no longer."""
    reader = byte_level(sequence(decoders.ByteLevel(), decoders.Replace("t h", "t-h")))
    text = "at home " * 20
    found = streamed(reader, [], reader.encode(text, special=False))
    assert len(found) >= len(text) - 8
