"""The tokenizer of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer as Backend

from llmasos.checkpoints.tokenizer.first_sight import check_at_first_sight
from llmasos.checkpoints.tokenizer.folder_files import tokenizer_from_files
from llmasos_checkpoint_kit.end_tokens import end_tokens
from llmasos_checkpoint_kit.folder import inside, read_json_if_there, read_small
from llmasos_hookspecs import CheckpointError, LLMasOSError
from llmasos_tokenizing.fast import FastTokenizer
from llmasos_tokenizing.panics import guarded

#: Gemma's tokenizer.json, the largest in use, has 33 MB.
MAX_TOKENIZER_BYTES: Final = 256 << 20

NAMED: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def tokenizer_from_folder(folder: Path) -> FastTokenizer:
    """Read tokenizer.json, else the files that came before it: tokenizer.model, or vocab.json with merges.txt.

    Of tokenizer.json: with what tokenizer_config.json and special_tokens_map.json say of special tokens. What goes around a text
    is tokenizer.json's to say: like transformers, this does not follow ``add_bos_token`` of the config against it.

    Raises:
        CheckpointError: there is none of these files, or one is damaged.
        UnsupportedModel: there is no tokenizer.json, and how the tokenizer's class cuts text is not known.
    """
    path = inside(folder, "tokenizer.json")
    config = read_json_if_there(folder, "tokenizer_config.json")
    if not path.is_file():
        return _from_other_files(folder, config)
    data = read_small(path, MAX_TOKENIZER_BYTES)
    check_at_first_sight(data, str(path))
    try:
        with guarded():
            backend = Backend.from_buffer(data)
            named = {name: text for name, text in named_tokens(folder, config).items() if backend.token_to_id(text) is not None}
            _add_special(backend, config, named)
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise CheckpointError(f"{path} is damaged, or newer than the tokenizers library ({str(error)[:120]}).") from error
    return FastTokenizer(backend, named=named, eos_token_ids=_end_ids(folder, backend, named))


def _from_other_files(folder: Path, config: Mapping[str, Any]) -> FastTokenizer:
    try:
        with guarded():
            found = tokenizer_from_files(folder, config, named_tokens(folder, config), frozenset(_config_ends(folder)))
    except LLMasOSError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise CheckpointError(
            f"{folder} holds a damaged tokenizer ({' '.join(str(error).split())[:120]}); get the checkpoint again."
        ) from error
    if found is None:
        raise CheckpointError(
            f"{folder} holds no tokenizer.json, no tokenizer.model and no vocab.json with merges.txt; save the model's tokenizer into it."
        )
    return found


def named_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """``bos_token`` and the like -> text, from tokenizer_config.json before special_tokens_map.json."""
    found = {}
    for source in (read_json_if_there(folder, "special_tokens_map.json"), config):
        for name in NAMED:
            entry = source.get(name)
            text = entry.get("content") if isinstance(entry, dict) else entry
            if isinstance(text, str) and text:
                found[name] = text
    return found


def _add_special(backend: Backend, config: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """Mark as special what the config calls so; tokenizer.json does not always."""
    added = config.get("added_tokens_decoder")
    entries = [entry for entry in added.values() if isinstance(entry, dict)] if isinstance(added, dict) else []
    marked = [text for entry in entries if entry.get("special") and isinstance(text := entry.get("content"), str)]
    texts = [*named.values(), *marked]
    known = {entry.content for entry in backend.get_added_tokens_decoder().values() if entry.special}
    missing = [text for text in dict.fromkeys(texts) if text not in known and backend.token_to_id(text) is not None]
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in missing])


def _end_ids(folder: Path, backend: Backend, named: Mapping[str, str]) -> frozenset[int]:
    eos = backend.token_to_id(named.get("eos_token", ""))
    return frozenset(_config_ends(folder) if eos is None else {*_config_ends(folder), eos})


def _config_ends(folder: Path) -> set[int]:
    configs = [read_json_if_there(folder, name) for name in ("config.json", "generation_config.json")]
    genai = read_json_if_there(folder, "genai_config.json").get("model")  # onnxruntime-genai's folders have no other
    return {token for config in (*configs, genai) if isinstance(config, dict) for token in end_tokens(config)}
