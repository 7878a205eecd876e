"""Small tokenizers, trained on the spot, and GGUF files that hold them."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import attrs
import gguf
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

TEXT = [
    *(topics[name] for name in sorted(topics)[:25]),
    "今天天气很好，我们去公园散步。春天来了，花都开了。" * 20,
    "Ça coûte 12345 euros, n'est-ce pas ? Größenänderung, naïveté.\r\n\r\n\tI'll say WE'VE done it; they'd not.",
    "🙂🙃 emoji 👩‍👩‍👧 and ½ ² ٣ Ⅷ 2024-01-31 3.14159    four    spaces\n\n\n1. list\n  2. list",
    "日本語のテキストとかな、カナ。한국어 텍스트입니다. Привет, мир! Γειά σου Κόσμε.",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<think>", "</think>"]


@attrs.frozen
class Trained:
    """A trained tokenizer and what a GGUF file holds of it."""

    backend: Tokenizer
    tokens: list[str]
    merges: list[str]
    kinds: list[int]
    scores: list[float] | None = None


def kinds_of(tokens: Sequence[str]) -> list[int]:
    def kind(token: str) -> int:
        if token == "<unk>":
            return 2
        if token in SPECIAL:
            return 3
        if token in USER_DEFINED:
            return 4
        return 6 if token.startswith("<0x") else 1

    return [kind(token) for token in tokens]


@pytest.fixture(scope="session")
def train_byte_level() -> Callable[[Any], Trained]:
    """Train a byte-level BPE of 1,200 tokens that cuts text in a given way."""
    made: dict[str, Trained] = {}

    def train(cut: Any) -> Trained:
        key = str(cut.__getstate__())
        if key not in made:
            backend = Tokenizer(BPE())
            backend.pre_tokenizer, backend.decoder = cut, decoders.ByteLevel()
            alphabet = pre_tokenizers.ByteLevel.alphabet()
            backend.train_from_iterator(
                TEXT, BpeTrainer(vocab_size=1200, special_tokens=SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False)
            )
            backend.add_tokens(USER_DEFINED)
            vocab = backend.get_vocab()
            tokens = sorted(vocab, key=vocab.__getitem__)
            made[key] = Trained(backend, tokens, merges_of(backend), kinds_of(tokens))
        return made[key]

    return train


@pytest.fixture(scope="session")
def train_sentencepiece() -> Callable[[], Trained]:
    """Train a BPE over stand-ins for spaces, with a token for each byte, scored by the order of its merges."""
    made: list[Trained] = []

    def train() -> Trained:
        if not made:
            backend = Tokenizer(BPE(fuse_unk=True, byte_fallback=True))
            backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
            words = [line for text in TEXT for line in text.splitlines()]
            special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
            backend.train_from_iterator(words, BpeTrainer(vocab_size=1500, special_tokens=special, show_progress=False))
            vocab = backend.get_vocab()
            tokens = [*sorted(vocab, key=vocab.__getitem__), *USER_DEFINED]
            scores = [0.0 if token in special else -float(index) for index, token in enumerate(tokens)]
            made.append(Trained(backend, tokens, merges_of(backend), kinds_of(tokens), scores))
        return made[0]

    return train


def merges_of(backend: Tokenizer) -> list[str]:
    import json

    merges = json.loads(backend.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


class GGUFWriter(gguf.GGUFWriter):
    """Writes bytes as they are, the rules for characters say, which the library packs one by one in seconds."""

    def _pack_val(self, val: Any, vtype: gguf.GGUFValueType, add_vtype: bool, sub_type: gguf.GGUFValueType | None = None) -> bytes:
        if not isinstance(val, bytes) or vtype != gguf.GGUFValueType.ARRAY:
            return bytes(super()._pack_val(val, vtype, add_vtype, sub_type))
        head = struct.pack("<I", vtype) if add_vtype else b""
        return head + struct.pack("<IQ", gguf.GGUFValueType.UINT8, len(val)) + val


@pytest.fixture
def write_tokenizer(tmp_path: Path) -> Callable[..., Path]:
    """Write a GGUF file that holds a tokenizer and no weights."""

    def write(trained: Trained, model: str, *, arch: str = "llama", pre: str | None = None, merges: bool = True, **flags: Any) -> Path:
        path = tmp_path / "tokenizer.gguf"
        writer = GGUFWriter(path, arch)
        for key, value in (
            ("block_count", 1), ("context_length", 64), ("embedding_length", 64), ("feed_forward_length", 64), ("attention.head_count", 4),
            ("attention.head_count_kv", 4), ("attention.key_length", 16), ("rope.dimension_count", 16), ("vocab_size", len(trained.tokens)),
        ):  # fmt: skip
            writer.add_uint32(f"{arch}.{key}", value)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(1e4)
        writer.add_tokenizer_model(model)
        writer.add_token_list(trained.tokens)
        writer.add_token_types(trained.kinds)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        if pre is not None:
            writer.add_tokenizer_pre(pre)
        if merges:
            writer.add_token_merges(trained.merges)
        if trained.scores is not None:
            writer.add_token_scores(trained.scores)
        for name, value in flags.items():
            getattr(writer, name)(value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture
def theirs() -> Callable[[Path], Any]:
    """transformers' tokenizer of the same file."""

    def load(path: Path) -> Any:
        from transformers import AutoTokenizer

        logging.disable(logging.WARNING)
        try:
            return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        finally:
            logging.disable(logging.NOTSET)

    return load


@pytest.fixture(scope="session")
def strings() -> list[str]:
    """80 texts (`make test-long`: 8,000): anything in Unicode, and words of several scripts, code, spaces and special tokens
    thrown together; each of these words also alone, so that what only one of them tells apart is always there."""
    words = [
        "hello", " world", "  ", "\n\n", "\r\n", "\t", "今天天气很好", "，", "😀", "👩‍👩‍👧", "def f(x):\n    return x + 1", "12", "2024",
        "e\u0301", "é", "\u3000", "don't", "I'LL", "WE'Ve", "٣", "²", "Ⅷ", "\x00", "▁", "Ġ", "한국어", "!!!", "a/b",
        "<think>", "<|im_start|>", "</s>", "1234567", " 3 33 4444", "½", "HELLO", "helloWorld", "'\u017f",
        "e x", " x", "-----------", "........", "====", "Ωμέγα", "Жук", "\u0e01\u0e34", "ㄅㄆ",
        "<sentinel:12>", "IMGIMGABZ", "(", "|[", "。", "://", "\n/", " ", "12ab", "x\n\n1", "    ", "\r\n\r\n",
        "a  12", "'tis", " \nx", "天a",
    ]  # fmt: skip
    found: list[str] = []

    @settings(
        max_examples=8000 if settings.default.max_examples >= 500 else 80,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(st.text(), st.lists(st.sampled_from(words) | st.text(max_size=4)).map("".join)))
    def collect(text: str) -> None:
        found.append(text)

    # Drawn once: every tokenizer is then compared on the same texts, in a few batches rather than one by one.
    collect()
    return [*found, *words]
