"""What the files of a folder say of a tokenizer's special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmasos_checkpoint_kit.end_tokens import end_tokens
from llmasos_checkpoint_kit.folder import read_json_if_there

_NAMES: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def named_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """``bos_token`` and the like -> text, from ``config``, which is tokenizer_config.json, before special_tokens_map.json.

    Raises:
        CheckpointError: a file is damaged.
    """
    found = {}
    for source in (read_json_if_there(folder, "special_tokens_map.json"), config):
        for name in _NAMES:
            entry = source.get(name)
            text = entry.get("content") if isinstance(entry, dict) else entry
            if isinstance(text, str) and text:
                found[name] = text
    return found


def config_ends(folder: Path) -> frozenset[int]:
    """The token ids that end a text, as the configs of a folder say, tokenizer_config.json aside.

    Raises:
        CheckpointError: a file is damaged.
    """
    configs = [read_json_if_there(folder, name) for name in ("config.json", "generation_config.json")]
    genai = read_json_if_there(folder, "genai_config.json").get("model")  # onnxruntime-genai's folders have no other
    return frozenset(token for config in (*configs, genai) if isinstance(config, dict) for token in end_tokens(config))
