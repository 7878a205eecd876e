"""The tokenizer of a KerasHub preset folder, built from its assets without Keras."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from tokenizers import AddedToken, Tokenizer as Backend, decoders, pre_tokenizers
from tokenizers.models import BPE

from llmasos_checkpoint_kit.folder import inside, read_json, read_json_if_there, read_small
from llmasos_hookspecs import CheckpointError, UnsupportedModel
from llmasos_tokenizing.ends import add_ends
from llmasos_tokenizing.fast import FastTokenizer
from llmasos_tokenizing.panics import guarded
from llmasos_tokenizing.sentencepiece import SentencePieceTokenizer, Whole, whole_tokens
from llmasos_tokenizing.sentencepiece_file import read_sentencepiece

_ASSETS: Final = "assets/tokenizer"


@attrs.frozen
class _Ends:
    """What KerasHub's tokenizer classes know by themselves, and no file says: the token before a text, and those that end one."""

    begin: str | None
    ends: tuple[str, ...]


_KNOWN: Final[Mapping[str, _Ends]] = {
    "GPT2Tokenizer": _Ends("<|endoftext|>", ("<|endoftext|>",)),
    "LlamaTokenizer": _Ends("<s>", ("</s>",)),
    "Llama3Tokenizer": _Ends("<|begin_of_text|>", ("<|end_of_text|>", "<|eot_id|>")),
    "MistralTokenizer": _Ends("<s>", ("</s>",)),
    "QwenTokenizer": _Ends(None, ("<|endoftext|>",)),
    "Qwen3Tokenizer": _Ends(None, ("<|im_end|>",)),
}


def tokenizer_from_preset(folder: Path) -> FastTokenizer | None:
    """Byte-level BPE from vocabulary.json and merges.txt, or SentencePiece's model from vocabulary.spm, as KerasHub reads them; None where
    the folder holds no tokenizer of a preset.

    Raises:
        CheckpointError: the assets are missing or damaged.
        UnsupportedModel: the tokenizer is of a class, or of a kind of SentencePiece, that is not known here.
    """
    if not (folder / _ASSETS).is_dir():
        return None
    described = read_json(inside(folder, "tokenizer.json"))
    name = str(described.get("class_name"))
    if name not in _KNOWN:
        raise UnsupportedModel(f"{folder} has a tokenizer of KerasHub's class {name[:60]}, and those read are {', '.join(_KNOWN)}.")
    settings = described.get("config")
    try:
        with guarded():
            if (folder / _ASSETS / "vocabulary.spm").is_file():
                return _sentencepiece(folder, _KNOWN[name])
            return _with_ends(_byte_level(folder, settings or {}), _KNOWN[name], begins=_adds_begin(folder))
    except (CheckpointError, UnsupportedModel):
        raise
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise CheckpointError(
            f"{folder / _ASSETS} holds a damaged tokenizer ({' '.join(str(error).split())[:120]}); get the preset again."
        ) from error


def _byte_level(folder: Path, settings: Mapping[str, Any]) -> Backend:
    vocabulary = dict(read_json(inside(folder, f"{_ASSETS}/vocabulary.json")))
    lines = read_small(inside(folder, f"{_ASSETS}/merges.txt")).decode().splitlines()
    pairs = [(left, right) for left, _, right in (line.rstrip().partition(" ") for line in lines if "#version:" not in line) if right]
    backend = Backend(BPE(vocab=vocabulary, merges=pairs))
    # KerasHub cuts nothing before it merges: it gives its expression as a plain string, which `tokenizers` seeks to the letter.
    prefix = bool(settings.get("add_prefix_space"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    whole = [str(token) for token in settings.get("unsplittable_tokens") or () if token in vocabulary]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in whole])
    return backend


def _adds_begin(folder: Path) -> bool:
    settings = read_json_if_there(folder, "preprocessor.json").get("config")
    return not isinstance(settings, Mapping) or settings.get("add_start_token") is not False


def _sentencepiece(folder: Path, known: _Ends) -> FastTokenizer:
    model = read_sentencepiece(inside(folder, f"{_ASSETS}/vocabulary.spm"))
    ids = {token: model.pieces.index(token) for token in (known.begin, *known.ends) if token in model.pieces}
    whole = dict.fromkeys([*whole_tokens(model), *map(Whole, ids)])
    return SentencePieceTokenizer(
        model, whole=list(whole), bos=known.begin if known.begin in ids and _adds_begin(folder) else None, **_roles(known, ids)
    )


def _with_ends(backend: Backend, known: _Ends, *, begins: bool) -> FastTokenizer:
    ids = {token: index for token in (known.begin, *known.ends) if token and (index := backend.token_to_id(token)) is not None}
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ids])
    if begins and known.begin in ids:
        add_ends(backend, known.begin, None)
    return FastTokenizer(backend, **_roles(known, ids))


def _roles(known: _Ends, ids: Mapping[str, int]) -> dict[str, Any]:
    ends = [token for token in known.ends if token in ids]
    named = {name: token for name, token in (("bos_token", known.begin), ("eos_token", ends[0] if ends else None)) if token in ids}
    return {"named": named, "eos_token_ids": frozenset(ids[token] for token in ends)}
