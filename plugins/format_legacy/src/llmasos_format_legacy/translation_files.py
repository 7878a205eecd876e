"""Tokenizers of translation models: Marian's ``source.spm``, ``target.spm`` and ``vocab.json``, M2M-100's ``sentencepiece.bpe.model`` and
``vocab.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmasos_checkpoint_kit.folder import inside, read_json, read_json_if_there
from llmasos_hookspecs import CheckpointError, UnsupportedModel
from llmasos_tokenizing.mapped import MappedTokenizer
from llmasos_tokenizing.sentencepiece_file import read_sentencepiece

_MARIAN: Final = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_M2M: Final = {"bos_token": "<s>", "sep_token": "</s>", **_MARIAN}
#: The languages of M2M-100 (Fan et al., 2020) in the order of their tokens, which newer versions of transformers write into no file.
_M2M_LANGUAGES: Final = (
    "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr ht hu hy id ig ilo is it "
    "ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv sw "
    "ta th tl tn tr uk ur uz vi wo xh yi yo zh zu"
)
_MOST_TOKENS: Final = 1 << 20


def translation_tokenizer(
    folder: Path, config: Mapping[str, Any], named: Mapping[str, str], end_ids: frozenset[int]
) -> MappedTokenizer | None:
    """The tokenizer of a Marian or M2M-100 folder; None where it is none of these.

    Raises:
        CheckpointError: a file is damaged.
        UnsupportedModel: source and target have vocabularies of their own.
    """
    if not inside(folder, "vocab.json").is_file():
        return None
    if inside(folder, "source.spm").is_file() and inside(folder, "target.spm").is_file():
        return _marian(folder, config, {**_MARIAN, **named}, end_ids)
    if inside(folder, "sentencepiece.bpe.model").is_file():
        return _m2m(folder, config, {**_M2M, **named}, end_ids)
    return None


def _marian(folder: Path, config: Mapping[str, Any], named: dict[str, str], end_ids: frozenset[int]) -> MappedTokenizer:
    if config.get("separate_vocabs"):
        raise UnsupportedModel(f"{folder} has one vocabulary for sources and another for targets, and models with one for both are read.")
    vocabulary = _vocabulary(folder, named["unk_token"])
    named = {name: text for name, text in named.items() if text in vocabulary}
    codes = [text for text in vocabulary if text.startswith(">>") and text.endswith("<<") and len(text) > 4]
    return MappedTokenizer(
        read_sentencepiece(folder / "source.spm"),
        vocabulary,
        special=[*named.values(), *codes],
        named=named,
        after=[named["eos_token"]],
        eos_token_ids=end_ids | {vocabulary[named["eos_token"]]},
        target=read_sentencepiece(folder / "target.spm"),
    )


def _m2m(folder: Path, config: Mapping[str, Any], named: dict[str, str], end_ids: frozenset[int]) -> MappedTokenizer:
    vocabulary = _vocabulary(folder, named["unk_token"])
    # Languages follow the vocabulary in the order in which the files name them, unless these say their ids.
    size = len(vocabulary)
    languages = _special(folder, config) or [f"__{code}__" for code in _M2M_LANGUAGES.split()]
    vocabulary = {**vocabulary, **{text: size + place for place, text in enumerate(text for text in languages if text not in vocabulary)}}
    entries = config.get("added_tokens_decoder")
    for place, entry in entries.items() if isinstance(entries, Mapping) else ():
        if isinstance(entry, Mapping) and isinstance(text := entry.get("content"), str) and str(place).isdecimal():
            vocabulary[text] = _checked(folder, int(place))
    named = {name: text for name, text in named.items() if text in vocabulary}
    language = config.get("src_lang")
    mark = f"__{language if isinstance(language, str) else 'en'}__"
    return MappedTokenizer(
        read_sentencepiece(folder / "sentencepiece.bpe.model"),
        vocabulary,
        special=[*named.values(), *languages],
        named=named,
        before=[mark] if mark in vocabulary else [],
        after=[named["eos_token"]],
        eos_token_ids=end_ids | {vocabulary[named["eos_token"]]},
    )


def _vocabulary(folder: Path, unknown: str) -> dict[str, int]:
    """vocab.json, in which unknown pieces and the end of a text have tokens."""
    found = {}
    for piece, token in read_json(inside(folder, "vocab.json")).items():
        if isinstance(token, bool) or not isinstance(token, int):
            raise CheckpointError(f"vocab.json of {folder} gives {piece[:40]!r} the id {token!r:.40}, which is no whole number.")
        found[piece] = _checked(folder, token)
    missing = [text for text in (unknown, "</s>") if text not in found]
    if missing:
        raise CheckpointError(f"vocab.json of {folder} lacks {missing[0]}; get the checkpoint again.")
    return found


def _checked(folder: Path, token: int) -> int:
    if not 0 <= token < _MOST_TOKENS:
        raise CheckpointError(f"A vocabulary of {folder} has the id {token}, far past any real one; get the checkpoint again.")
    return token


def _special(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """``additional_special_tokens`` in their order."""
    for source in (config, read_json_if_there(folder, "special_tokens_map.json")):
        entries = source.get("additional_special_tokens", source.get("extra_special_tokens"))
        if isinstance(entries, list) and entries:
            texts = (entry.get("content") if isinstance(entry, Mapping) else entry for entry in entries)
            return [text for text in texts if isinstance(text, str) and text]
    return []
