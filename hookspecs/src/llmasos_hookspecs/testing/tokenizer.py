"""A byte tokenizer: 256 bytes and a few control tokens, the same in Python and as ``tokenizer.json``."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Mapping
from typing import Any, Final

BOS: Final = 256
EOS: Final = 257
IM_START: Final = 258
IM_END: Final = 259

#: Text of each control token.
SPECIALS: Final = {BOS: "<|bos|>", EOS: "<|eos|>", IM_START: "<|im_start|>", IM_END: "<|im_end|>"}

#: ChatML, written as a Jinja template.
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

#: The bytes of the tokens that stand for any: those of texts alone, and control tokens too.
_PLAIN: Final = {token: bytes((token,)) for token in range(256)}
_ALL: Final = {**_PLAIN, **{token: text.encode() for token, text in SPECIALS.items()}}


class ByteTokenizer:
    """One token a byte, so that any text encodes and every sequence of tokens decodes.

    Token ids 0 to 255 are the bytes; ``SPECIALS`` follow; ids above them, up to ``vocab_size``, stand for nothing.
    """

    def __init__(self, vocab_size: int = 288) -> None:
        self._vocab_size = vocab_size
        self._by_text = {text: token for token, text in SPECIALS.items()}

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def bos_token_id(self) -> int | None:
        return BOS

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return frozenset({EOS, IM_END})

    @property
    def special_tokens(self) -> Mapping[str, str]:
        return {"bos_token": SPECIALS[BOS], "eos_token": SPECIALS[EOS]}

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Bytes of ``text`` in UTF-8; the text of a control token becomes that token. Nothing is added around a text."""
        tokens: list[int] = []
        rest = text
        while rest:
            at, name = min(((rest.find(name), name) for name in self._by_text if name in rest), default=(len(rest), ""))
            tokens.extend(rest[:at].encode())
            if name:
                tokens.append(self._by_text[name])
            rest = rest[at + len(name) :]
        return tokens

    def decode(self, tokens: Iterable[int], *, skip_special: bool = True) -> str:
        tokens = list(tokens)
        with contextlib.suppress(ValueError):  # of bytes alone, which most are
            return bytes(tokens).decode(errors="replace")
        spelling = _PLAIN if skip_special else _ALL
        return b"".join([spelling.get(token, b"") for token in tokens]).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return _ALL.get(token, b"")

    def is_special(self, token: int) -> bool:
        return token in SPECIALS


def tokenizer_files() -> dict[str, dict[str, Any]]:
    """Contents of ``tokenizer.json`` and ``tokenizer_config.json`` for the same tokenizer.

    ``tokenizer.json`` is a byte-level BPE without merges, whose vocabulary spells bytes as GPT-2 does (Radford et al., 2019).
    """
    control = [
        {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, text in SPECIALS.items()
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {_spell(byte): byte for byte in range(256)},
        "merges": [],
    }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": control,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": model,
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIALS[BOS],
        "eos_token": SPECIALS[EOS],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 256,
        "chat_template": CHAT_TEMPLATE,
    }
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": settings}


@functools.cache
def _spell(byte: int) -> str:
    # GPT-2 keeps printable Latin-1 characters and moves the 68 other bytes to 256 and above, in order.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printable:
        return chr(byte)
    others = [b for b in range(256) if b not in printable]
    return chr(256 + others.index(byte))
