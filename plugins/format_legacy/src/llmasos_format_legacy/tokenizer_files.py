"""Tokenizers of folders from before tokenizer.json: ``tokenizer.model``, or ``vocab.json`` with ``merges.txt``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from tokenizers import Tokenizer as Backend, pre_tokenizers

from llmasos_checkpoint_kit.folder import inside, read_json, read_json_if_there, read_small
from llmasos_format_legacy.translation_files import translation_tokenizer
from llmasos_hookspecs import CheckpointError, LLMasOSError, Tokenizer, UnsupportedModel
from llmasos_tokenizing.byte_level import backend_of
from llmasos_tokenizing.ends import add_ends
from llmasos_tokenizing.fast import FastTokenizer
from llmasos_tokenizing.named import config_ends, named_tokens
from llmasos_tokenizing.panics import guarded
from llmasos_tokenizing.pretokenizers import PRE_TOKENIZERS
from llmasos_tokenizing.sentencepiece import SentencePieceTokenizer, Whole, whole_tokens
from llmasos_tokenizing.sentencepiece_file import read_sentencepiece
from llmasos_tokenizing.sentencepiece_model import CONTROL, UNUSED, SentencePieceModel

_SENTENCEPIECE: Final = ("tokenizer.model", "spiece.model")
_MAX_VOCABULARY_BYTES: Final = 64 << 20
#: Tokens that a folder may add to a vocabulary; real ones add some hundred.
_MOST_ADDED: Final = 1 << 16

#: Classes over SentencePiece models whose token ids are the model's own. They put a BOS before a text unless told otherwise.
_PIECE_CLASSES: Final = (
    "LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "InternLMTokenizer", "InternLM2Tokenizer", "BaichuanTokenizer",
)  # fmt: skip
#: Those of T5 and mT5 put an EOS after a text instead, and add the marks of gaps behind the pieces, the last one first.
_T5_CLASSES: Final = ("T5Tokenizer", "MT5Tokenizer")
_T5_GAPS: Final = 100


@attrs.frozen
class _ByteLevel:
    """What a class of byte-level tokenizers knows without a file: how it cuts, and its special tokens."""

    pre: str
    named: Mapping[str, str]


_END: Final = "<|endoftext|>"
_GPT2: Final = _ByteLevel("gpt-2", {"bos_token": _END, "eos_token": _END, "unk_token": _END})
_QWEN2: Final = _ByteLevel("qwen2", {"eos_token": _END, "pad_token": _END, "unk_token": _END})
_BYTE_LEVEL_CLASSES: Final[Mapping[str, _ByteLevel]] = {
    "GPT2Tokenizer": _GPT2,
    "CodeGenTokenizer": _GPT2,
    "GPTNeoXTokenizer": attrs.evolve(_GPT2, pre="mpt"),
    "Qwen2Tokenizer": _QWEN2,
    "Qwen3_5Tokenizer": attrs.evolve(_QWEN2, pre="qwen35"),
    "CohereTokenizer": _ByteLevel(
        "command-r", {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "unk_token": "<UNK>", "pad_token": "<PAD>"}
    ),
}
#: ``model_type`` of config.json -> class, where no tokenizer_config.json names one.
_CLASS_OF_MODEL: Final[Mapping[str, str]] = {
    "gpt2": "GPT2Tokenizer", "gpt_bigcode": "GPT2Tokenizer", "gpt_neo": "GPT2Tokenizer", "opt": "GPT2Tokenizer", "gptj": "GPT2Tokenizer",
    "codegen": "CodeGenTokenizer", "gpt_neox": "GPTNeoXTokenizer", "cohere": "CohereTokenizer", "cohere2": "CohereTokenizer",
    "t5": "T5Tokenizer", "mt5": "T5Tokenizer",
    "qwen2": "Qwen2Tokenizer", "qwen2_moe": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "qwen3_moe": "Qwen2Tokenizer",
}  # fmt: skip


@attrs.frozen
class _Added:
    """A token that a folder adds to a vocabulary or says more of, and its id."""

    id: int
    whole: Whole


def tokenizer_from_files(folder: Path) -> Tokenizer | None:
    """The tokenizer of a translation model, else that in a folder's tokenizer.model, else in vocab.json and merges.txt; None where it holds
    none of these.

    Raises:
        CheckpointError: a file is damaged.
        UnsupportedModel: the class of the tokenizer is not known here, and how it cuts text with it.
    """
    config = read_json_if_there(folder, "tokenizer_config.json")
    try:
        with guarded():
            return _from_files(folder, config, named_tokens(folder, config), config_ends(folder))
    except LLMasOSError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise CheckpointError(
            f"{folder} holds a damaged tokenizer ({' '.join(str(error).split())[:120]}); get the checkpoint again."
        ) from error


def _from_files(folder: Path, config: Mapping[str, Any], named: Mapping[str, str], end_ids: frozenset[int]) -> Tokenizer | None:
    if (found := translation_tokenizer(folder, config, named, end_ids)) is not None:
        return found
    path = next((inside(folder, name) for name in _SENTENCEPIECE if inside(folder, name).is_file()), None)
    if path is not None:
        return _of_pieces(path, config, dict(named), end_ids)
    if inside(folder, "vocab.json").is_file() and inside(folder, "merges.txt").is_file():
        return _byte_level(folder, config, named, end_ids)
    return None


def _of_pieces(path: Path, config: Mapping[str, Any], named: dict[str, str], end_ids: frozenset[int]) -> FastTokenizer:
    found = _class(path.parent, config)
    known = (*_PIECE_CLASSES, *_T5_CLASSES)
    if found is not None and found not in known:
        raise UnsupportedModel(f"{path} is for a tokenizer of the class {found[:60]}, and those read are {', '.join(known)}.")
    is_t5 = found in _T5_CLASSES
    model = read_sentencepiece(path)
    if config.get("add_prefix_space") is False:
        model = attrs.evolve(model, prefix=False)
    added = _added(path.parent, config, named)
    if is_t5:
        added = [*_gaps(path, config, len(model.pieces), {each.whole.text for each in added}), *added]
    model = _with_added(path, model, added)
    defaults = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    named = {name: text for name, text in {**defaults, **named}.items() if text in model.pieces}
    special = [text for text in (*named.values(), *_more_special(path.parent, config)) if text in model.pieces]
    whole = {token.text: token for token in [*whole_tokens(model), *map(Whole, special), *(each.whole for each in added)]}
    return SentencePieceTokenizer(
        model,
        whole=list(whole.values()),
        bos=named.get("bos_token") if config.get("add_bos_token", not is_t5) else None,
        eos=named.get("eos_token") if config.get("add_eos_token", is_t5) else None,
        prefix_each=config.get("legacy") is not False,
        named=named,
        eos_token_ids=end_ids | {model.pieces.index(text) for name, text in named.items() if name == "eos_token"},
    )


def _gaps(path: Path, config: Mapping[str, Any], size: int, known: set[str]) -> list[_Added]:
    """T5's ``<extra_id_0>`` and so on, as far as the folder does not name them itself."""
    count = config.get("extra_ids", _T5_GAPS)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < _MOST_ADDED:
        raise CheckpointError(f"tokenizer_config.json beside {path} has extra_ids = {count!r:.40}, and it must be a number of tokens.")
    texts = [f"<extra_id_{count - 1 - place}>" for place in range(count)]
    return [] if known & set(texts) else [_Added(size + place, Whole(text)) for place, text in enumerate(texts)]


def _byte_level(folder: Path, config: Mapping[str, Any], named: Mapping[str, str], end_ids: frozenset[int]) -> FastTokenizer:
    name = _class(folder, config) or ""
    if name not in _BYTE_LEVEL_CLASSES:
        raise UnsupportedModel(
            f"{folder} has a vocab.json of {f'the class {name[:60]}' if name else 'no class that it names'}, and those read are "
            f"{', '.join(_BYTE_LEVEL_CLASSES)}; save the fast tokenizer (tokenizer.json) into it."
        )
    known = _BYTE_LEVEL_CLASSES[name]
    vocabulary = {str(token): int(place) for token, place in read_json(inside(folder, "vocab.json")).items()}
    lines = read_small(inside(folder, "merges.txt"), _MAX_VOCABULARY_BYTES).decode().splitlines()
    pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines if not line.startswith("#version")) if right]
    named = {**known.named, **named}
    added = _added(folder, config, named)
    _check(folder, [each.id for each in added], max(vocabulary.values(), default=0))
    vocabulary |= {each.whole.text: each.id for each in added}
    cut = PRE_TOKENIZERS[known.pre]
    backend = backend_of(vocabulary, pairs, cut)
    if config.get("add_prefix_space") and known.pre == "gpt-2":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    named = {name: text for name, text in named.items() if text in vocabulary}
    special = [text for text in (*named.values(), *_more_special(folder, config)) if text in vocabulary]
    whole = {text: Whole(text) for text in special} | {each.whole.text: each.whole for each in added}
    _add(backend, list(whole.values()))
    add_ends(
        backend,
        named.get("bos_token") if config.get("add_bos_token") else None,
        named.get("eos_token") if config.get("add_eos_token") else None,
    )
    ends = {vocabulary[named["eos_token"]]} if "eos_token" in named else set()
    return FastTokenizer(backend, named=named, eos_token_ids=end_ids | ends)


def _add(backend: Backend, tokens: Sequence[Whole]) -> None:
    backend.add_special_tokens([token.added() for token in tokens if token.special])
    backend.add_tokens([token.added() for token in tokens if not token.special])


def _class(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The class of a tokenizer, without the ending that names its fast form."""
    name = config.get("tokenizer_class")
    if not isinstance(name, str) or name in ("PreTrainedTokenizer", "PreTrainedTokenizerFast"):
        kind = read_json_if_there(folder, "config.json").get("model_type")
        return _CLASS_OF_MODEL.get(kind) if isinstance(kind, str) else None
    return name.removesuffix("Fast")


def _added(folder: Path, config: Mapping[str, Any], named: Mapping[str, str]) -> list[_Added]:
    """What added_tokens.json and tokenizer_config.json add, by id; the latter says more."""
    special = {*named.values(), *_more_special(folder, config)}
    found = {
        place: _Added(place, Whole(text, special=text in special))
        for text, place in read_json_if_there(folder, "added_tokens.json").items()
        if isinstance(place, int)
    }
    entries = config.get("added_tokens_decoder")
    for place, entry in entries.items() if isinstance(entries, Mapping) else ():
        if isinstance(entry, Mapping) and isinstance(text := entry.get("content"), str) and str(place).isdecimal():
            flags = {flag: bool(entry.get(flag)) for flag in ("lstrip", "rstrip")}
            found[int(place)] = _Added(int(place), Whole(text, special=bool(entry.get("special")) or text in special, **flags))
    return [found[place] for place in sorted(found)]


def _more_special(folder: Path, config: Mapping[str, Any]) -> set[str]:
    """``additional_special_tokens``, of either file."""
    found = set()
    for source in (read_json_if_there(folder, "special_tokens_map.json"), config):
        entries = source.get("additional_special_tokens")
        for entry in entries if isinstance(entries, list) else ():
            text = entry.get("content") if isinstance(entry, Mapping) else entry
            found |= {text} if isinstance(text, str) else set()
    return found


def _with_added(path: Path, model: SentencePieceModel, added: Sequence[_Added]) -> SentencePieceModel:
    """The model with the added tokens at their ids; ids between that no file names are empty."""
    pieces, scores, kinds = list(model.pieces), list(model.scores), list(model.kinds)
    _check(path, [each.id for each in added], len(pieces))
    for each in added:
        while each.id >= len(pieces):
            pieces.append(f"[PAD{len(pieces)}]")
            scores.append(0.0)
            kinds.append(UNUSED)
        if pieces[each.id] != each.whole.text:
            pieces[each.id], kinds[each.id] = each.whole.text, CONTROL
    return attrs.evolve(model, pieces=pieces, scores=scores, kinds=kinds)


def _check(where: Path, ids: Sequence[int], size: int) -> None:
    if ids and not 0 <= max(ids) < size + _MOST_ADDED:
        raise CheckpointError(f"{where} has an added token with the id {max(ids)}, far past its {size} tokens; get the checkpoint again.")
