"""The tokenizer that a folder's tokenizer.json describes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer as Backend

from llmasos_checkpoint_kit.folder import inside, read_json_if_there, read_small
from llmasos_hookspecs import CheckpointError
from llmasos_tokenizing.fast import FastTokenizer
from llmasos_tokenizing.first_sight import ApartContext, check_at_first_sight
from llmasos_tokenizing.named import config_ends, named_tokens
from llmasos_tokenizing.panics import guarded

#: Gemma's tokenizer.json, the largest in use, has 33 MB.
MAX_TOKENIZER_BYTES: Final = 256 << 20
_PRESET: Final = "assets/tokenizer"


def tokenizer_from_folder(folder: Path, context: ApartContext) -> FastTokenizer | None:
    """Read tokenizer.json, with what tokenizer_config.json and special_tokens_map.json say of special tokens; None where there is none, or
    it is that of a Keras preset, which names files among the preset's assets.

    What goes around a text is tokenizer.json's to say: like transformers, this does not follow ``add_bos_token`` of the config against it.

    Raises:
        CheckpointError: a file is damaged.
    """
    path = inside(folder, "tokenizer.json")
    if not path.is_file() or (folder / _PRESET).is_dir():
        return None
    config = read_json_if_there(folder, "tokenizer_config.json")
    data = read_small(path, MAX_TOKENIZER_BYTES)
    check_at_first_sight(data, path, context)
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
    return config_ends(folder) | (frozenset() if eos is None else {eos})
