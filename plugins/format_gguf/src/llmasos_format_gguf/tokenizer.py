"""The tokenizer that a GGUF file's metadata describes."""

from __future__ import annotations

from typing import Any, Final

import attrs
from tokenizers import AddedToken, Tokenizer as Backend

from llmasos_checkpoint_kit.end_tokens import end_tokens
from llmasos_format_gguf import metadata as meta
from llmasos_format_gguf.config import config_of
from llmasos_format_gguf.header import GGUFHeader
from llmasos_hookspecs import CheckpointError, LLMasOSError, UnsupportedModel
from llmasos_tokenizing.byte_level import byte_level_backend
from llmasos_tokenizing.ends import add_ends
from llmasos_tokenizing.fast import FastTokenizer
from llmasos_tokenizing.panics import guarded
from llmasos_tokenizing.pretokenizers import PIECES_WITH_MERGES, PRE_TOKENIZERS, UNREAD
from llmasos_tokenizing.sentencepiece import SentencePieceTokenizer, Whole, derived_merges, gemma_backend, gemma_spelling
from llmasos_tokenizing.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, SentencePieceModel, is_byte

_NAMED: Final = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",  # as GGUF spells it
}


@attrs.frozen
class _Vocabulary:
    """What all kinds of tokenizers have: the tokens, their kinds by id (None: not said), and ids by the name of their role."""

    tokens: list[str]
    kinds: list[int] | None
    named: dict[str, int]

    def of_kind(self, kind: int) -> list[int]:
        return [] if self.kinds is None else [index for index, found in enumerate(self.kinds) if found == kind]

    @property
    def special(self) -> list[int]:
        """Control tokens, and those that have a role."""
        return list(dict.fromkeys([*self.of_kind(CONTROL), *self.named.values()]))


def tokenizer_from_gguf(header: GGUFHeader) -> FastTokenizer:
    """Build the tokenizer of a GGUF file: byte-level BPE (``gpt2``), SentencePiece's BPE (``llama``) and unigram models (``t5``), or
    SentencePiece's pieces with their merges (``gemma4``).

    Raises:
        CheckpointError: the file holds no tokenizer, or one whose parts do not fit one another.
        UnsupportedModel: it is of another kind, or cuts text in a way that is not known.
    """
    model = meta.text(header, "tokenizer.ggml.model")
    if model is None:
        raise CheckpointError(f"{header.path} holds no tokenizer; get a file that does.")
    if model not in ("gpt2", "llama", "t5", "gemma4"):
        raise UnsupportedModel(f"{header.path} has a tokenizer of the kind {model[:40]!r}, and gpt2, llama, t5 and gemma4 are read.")
    tokens = meta.strings(header, "tokenizer.ggml.tokens")
    named = {name: token for name, key in _NAMED.items() if (token := meta.token_id(header, f"tokenizer.ggml.{key}")) is not None}
    kinds = meta.numbers(header, "tokenizer.ggml.token_type", len(tokens))
    vocabulary = _Vocabulary(tokens, None if kinds is None else [int(kind) for kind in kinds.tolist()], named)
    pre = meta.text(header, "tokenizer.ggml.pre") or "default"
    gemma = model == "gemma4" or (model == "gpt2" and pre in PIECES_WITH_MERGES) or meta.architecture(header).startswith("gemma")
    try:
        with guarded():
            if model in ("llama", "t5") and not gemma:
                return _sentencepiece(header, model, vocabulary)
            backend = _gemma(header, vocabulary) if gemma else _byte_level(header, vocabulary, pre)
            _add_special(backend, vocabulary)
            add_ends(backend, *_ends(header, vocabulary, model, pre))
    except LLMasOSError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise CheckpointError(f"{header.path} holds a tokenizer whose parts do not fit ({str(error)[:120]}); get it again.") from error
    return FastTokenizer(backend, **_roles(header, vocabulary))


def _roles(header: GGUFHeader, vocabulary: _Vocabulary) -> dict[str, Any]:
    texts = {name: vocabulary.tokens[token] for name, token in vocabulary.named.items()}
    return {"named": texts, "eos_token_ids": frozenset(end_tokens(config_of(header))), "size": len(vocabulary.tokens)}


def _byte_level(header: GGUFHeader, vocabulary: _Vocabulary, pre: str) -> Backend:
    if pre in UNREAD:
        raise UnsupportedModel(f"{header.path} cuts text as {pre!r}, which is for {UNREAD[pre]} and not read.")
    merges = _merges(header)
    if merges is None and pre == "kimi-k2":
        # tiktoken's vocabularies have no merges: two neighbours are joined where both together are a token, the first such one first.
        special = set(vocabulary.special)
        places = [place for place in range(len(vocabulary.tokens)) if place not in special]
        merges = derived_merges([vocabulary.tokens[place] for place in places], [float(-place) for place in places])
    if merges is None:
        raise CheckpointError(f"{header.path} has a byte-level vocabulary without tokenizer.ggml.merges; get it again.")
    plain = frozenset((*vocabulary.special, *vocabulary.of_kind(USER_DEFINED)))
    return byte_level_backend(vocabulary.tokens, merges, pre, plain, str(header.path))


def _gemma(header: GGUFHeader, vocabulary: _Vocabulary) -> Backend:
    pieces = gemma_spelling(vocabulary.tokens)
    merges = _merges(header)
    if merges is None:
        # Gemma's pieces stand in the order of their merges, and their scores do not.
        merges = derived_merges(pieces, [float(-index) for index in range(len(pieces))])
    unknown = vocabulary.named.get("unk_token")
    return gemma_backend(pieces, merges, unknown=None if unknown is None else pieces[unknown])


def _sentencepiece(header: GGUFHeader, model: str, vocabulary: _Vocabulary) -> SentencePieceTokenizer:
    """``remove_extra_whitespaces`` and the rules for characters are written for unigram models; those of BPE models have none."""
    scores, merges = meta.numbers(header, "tokenizer.ggml.scores", len(vocabulary.tokens)), _merges(header)
    if scores is None and (merges is None or model == "t5"):
        raise CheckpointError(f"{header.path} has a SentencePiece vocabulary without tokenizer.ggml.scores; get it again.")
    charsmap = meta.array(header, "tokenizer.ggml.precompiled_charsmap")
    form = SentencePieceModel(
        vocabulary.tokens,
        [0.0] * len(vocabulary.tokens) if scores is None else [float(score) for score in scores.tolist()],
        _kinds(vocabulary),
        is_bpe=model == "llama",
        prefix=meta.flag(header, "tokenizer.ggml.add_space_prefix") is not False,
        squeeze=bool(meta.flag(header, "tokenizer.ggml.remove_extra_whitespaces")),
        charsmap=b"" if charsmap is None else charsmap.astype("u1").tobytes(),
    )
    bos, eos = _ends(header, vocabulary, model, "default")
    whole = [Whole(vocabulary.tokens[token]) for token in vocabulary.special]
    return SentencePieceTokenizer(form, whole=whole, bos=bos, eos=eos, merges=merges, **_roles(header, vocabulary))


def _kinds(vocabulary: _Vocabulary) -> list[int]:
    """Of each token; where the file does not say, as its spelling and its role tell."""
    kinds = list(vocabulary.kinds or [BYTE if is_byte(token) else NORMAL for token in vocabulary.tokens])
    unknown = vocabulary.named.get("unk_token")
    for token in vocabulary.named.values():
        kinds[token] = CONTROL
    # Converters also call fillers unknown, of which text never becomes any.
    for token in vocabulary.of_kind(UNKNOWN):
        kinds[token] = UNKNOWN if unknown in (None, token) else CONTROL
    return kinds if unknown is None else [UNKNOWN if token == unknown else kind for token, kind in enumerate(kinds)]


def _merges(header: GGUFHeader) -> list[tuple[str, str]] | None:
    if "tokenizer.ggml.merges" not in header.metadata:
        return None
    merges = meta.strings(header, "tokenizer.ggml.merges")
    return [(merge[:cut], merge[cut + 1 :]) for merge, cut in ((merge, merge.find(" ", 1)) for merge in merges)]


def _add_special(backend: Backend, vocabulary: _Vocabulary) -> None:
    """Control tokens are special and matched whole in text; user-defined ones are matched whole and are plain text otherwise."""
    tokens, special = vocabulary.tokens, vocabulary.special
    backend.add_special_tokens([AddedToken(tokens[index], normalized=False, special=True) for index in special])
    plain = [tokens[index] for index in vocabulary.of_kind(USER_DEFINED) if index not in special]
    known = [token for token in plain if backend.token_to_id(token) is not None]
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in known])


def _ends(header: GGUFHeader, vocabulary: _Vocabulary, model: str, pre: str) -> tuple[str | None, str | None]:
    """What goes before and after a text, where the file says so; where it does not, as llama.cpp has it for the kind of tokenizer."""

    def wanted(name: str, default: bool) -> bool:
        found = meta.flag(header, f"tokenizer.ggml.add_{name}_token")
        return default if found is None else found

    known = PRE_TOKENIZERS.get(pre)
    begins = model in ("llama", "gemma4") or (model == "gpt2" and known is not None and known.adds_bos)
    texts = {name: vocabulary.tokens[token] for name, token in vocabulary.named.items()}
    bos = texts.get("bos_token") if wanted("bos", begins) else None
    eos = texts.get("eos_token") if wanted("eos", model == "t5") else None
    return bos, eos or (texts.get("sep_token") if wanted("sep", False) else None)
