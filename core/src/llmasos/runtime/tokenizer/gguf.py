"""The tokenizer that a GGUF file's metadata describes."""

from __future__ import annotations

from typing import Any, Final

import attrs
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from llmasos.runtime.checkpoint import gguf_metadata as meta
from llmasos.runtime.checkpoint.gguf_config import config_of
from llmasos.runtime.checkpoint.gguf_header import GGUFHeader
from llmasos.runtime.checkpoint.huggingface import end_tokens
from llmasos.runtime.tokenizer.byte_level import byte_level_backend
from llmasos.runtime.tokenizer.ends import add_ends
from llmasos.runtime.tokenizer.fast import FastTokenizer
from llmasos.runtime.tokenizer.panics import guarded
from llmasos.runtime.tokenizer.sentencepiece import derived_merges, gemma_backend, gemma_spelling, llama_backend
from llmasos_hookspecs import CheckpointError, LLMasOSError, UnsupportedModel

#: ``tokenizer.ggml.token_type``.
_CONTROL: Final = 3
_USER_DEFINED: Final = 4

_NAMED: Final = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


@attrs.frozen
class _Vocabulary:
    tokens: list[str]
    kinds: Any  # int array [tokens], or None
    named: dict[str, int]

    def of_kind(self, kind: int) -> list[int]:
        return [] if self.kinds is None else [index for index, found in enumerate(self.kinds.tolist()) if found == kind]


def tokenizer_from_gguf(header: GGUFHeader) -> FastTokenizer:
    """Build the tokenizer of a GGUF file: byte-level BPE (``gpt2``), or SentencePiece's BPE (``llama``), Gemma's among it.

    Raises:
        CheckpointError: the file holds no tokenizer, or one whose parts do not fit one another.
        UnsupportedModel: it is of another kind, or cuts text in a way that is not known.
    """
    model = meta.text(header, "tokenizer.ggml.model")
    if model is None:
        raise CheckpointError(f"{header.path} holds no tokenizer; get a file that does.")
    tokens = meta.strings(header, "tokenizer.ggml.tokens")
    named = {name: token for name, key in _NAMED.items() if (token := meta.token_id(header, f"tokenizer.ggml.{key}")) is not None}
    vocabulary = _Vocabulary(tokens, meta.numbers(header, "tokenizer.ggml.token_type", len(tokens)), named)
    try:
        with guarded():
            backend = _backend(header, model, vocabulary)
            _add_special(backend, vocabulary)
            _add_ends(header, backend, vocabulary, model)
    except LLMasOSError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise CheckpointError(f"{header.path} holds a tokenizer whose parts do not fit ({str(error)[:120]}); get it again.") from error
    texts = {name: tokens[token] for name, token in named.items()}
    eos = frozenset(end_tokens(config_of(header)))
    return FastTokenizer(backend, named=texts, eos_token_ids=eos, size=len(tokens))


def _backend(header: GGUFHeader, model: str, vocabulary: _Vocabulary) -> Backend:
    tokens = vocabulary.tokens
    merges = meta.strings(header, "tokenizer.ggml.merges") if "tokenizer.ggml.merges" in header.metadata else None
    if model == "gpt2":
        if merges is None:
            raise CheckpointError(f"{header.path} has a byte-level vocabulary without tokenizer.ggml.merges; get it again.")
        pre = meta.text(header, "tokenizer.ggml.pre") or "default"
        control = frozenset((*vocabulary.of_kind(_CONTROL), *vocabulary.named.values()))
        return byte_level_backend(tokens, merges, pre, control, str(header.path))
    if model != "llama":
        raise UnsupportedModel(f"{header.path} has a tokenizer of the kind {model[:40]!r}, and 'gpt2' and 'llama' are read.")
    gemma = meta.architecture(header).startswith("gemma")
    pieces = gemma_spelling(tokens) if gemma else tokens
    pairs = _pairs(merges) if merges is not None else derived_merges(pieces, _scores(header, len(tokens), gemma))
    if gemma:
        unknown = vocabulary.named.get("unk_token")
        return gemma_backend(pieces, pairs, unknown=None if unknown is None else pieces[unknown])
    prefix = meta.flag(header, "tokenizer.ggml.add_space_prefix")
    return llama_backend(pieces, pairs, prefix=prefix is not False)


def _pairs(merges: list[str]) -> list[tuple[str, str]]:
    return [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]


def _scores(header: GGUFHeader, length: int, gemma: bool) -> list[float]:
    if gemma:
        # Gemma's pieces stand in the order of their merges, and their scores do not.
        return [float(-index) for index in range(length)]
    scores = meta.numbers(header, "tokenizer.ggml.scores", length)
    if scores is None:
        raise CheckpointError(f"{header.path} has a SentencePiece vocabulary without tokenizer.ggml.scores; get it again.")
    return [float(score) for score in scores.tolist()]


def _add_special(backend: Backend, vocabulary: _Vocabulary) -> None:
    """Control tokens are special and matched whole in text; user-defined ones are matched whole and are plain text otherwise."""
    tokens, special = vocabulary.tokens, dict.fromkeys([*vocabulary.of_kind(_CONTROL), *vocabulary.named.values()])
    backend.add_special_tokens([AddedToken(tokens[index], normalized=False, special=True) for index in special])
    plain = [tokens[index] for index in vocabulary.of_kind(_USER_DEFINED) if index not in special]
    known = [token for token in plain if backend.token_to_id(token) is not None]
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in known])


def _add_ends(header: GGUFHeader, backend: Backend, vocabulary: _Vocabulary, model: str) -> None:
    """BOS before and EOS after a text, where the file says so; SentencePiece files that do not say want the BOS."""
    add_bos, add_eos = meta.flag(header, "tokenizer.ggml.add_bos_token"), meta.flag(header, "tokenizer.ggml.add_eos_token")
    wanted = {"bos_token": model == "llama" if add_bos is None else add_bos, "eos_token": bool(add_eos)}
    ends = {name: vocabulary.tokens[token] for name, token in vocabulary.named.items() if wanted.get(name)}
    add_ends(backend, ends.get("bos_token"), ends.get("eos_token"))
