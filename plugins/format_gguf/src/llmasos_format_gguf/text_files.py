"""What a GGUF file's metadata says of tokenizer and chat template, as the files of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmasos_checkpoint_kit.writing import json_bytes
from llmasos_format_gguf import metadata as meta
from llmasos_format_gguf.header import GGUFHeader


def text_files_of(header: GGUFHeader, config: Mapping[str, Any]) -> dict[str, bytes]:
    """Name -> contents; a file without a tokenizer has a generation config only."""
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config.get(key) is not None}
    found = {"generation_config.json": json_bytes(ends)}
    if "tokenizer.ggml.model" not in header.metadata:
        return found
    from llmasos_format_gguf.tokenizer import tokenizer_from_gguf  # only users of text pay for its import

    tokenizer = tokenizer_from_gguf(header)
    described: dict[str, Any] = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.get("max_position_embeddings") or config["n_positions"],
        **tokenizer.special_tokens,
    }
    if tokenizer.model_file is None:
        found["tokenizer.json"] = tokenizer.backend.to_str(pretty=False).encode()
        described["tokenizer_class"] = "PreTrainedTokenizerFast"  # which takes tokenizer.json as it is
    else:
        found["tokenizer.model"], settings = tokenizer.model_file
        described |= settings
    if (template := templates_in_gguf(header)) is not None:
        described["chat_template"] = template
    return {**found, "tokenizer_config.json": json_bytes(described)}


def templates_in_gguf(header: GGUFHeader) -> str | list[dict[str, str]] | None:
    """The template in a GGUF file's metadata, or several with their names, as tokenizer_config.json has them; None where it has none."""
    source = meta.text(header, "tokenizer.chat_template")
    if source is not None or "tokenizer.chat_templates" not in header.metadata:
        return source
    found = [(name, meta.text(header, f"tokenizer.chat_template.{name}")) for name in meta.strings(header, "tokenizer.chat_templates")]
    return [{"name": name, "template": text} for name, text in found if text is not None]
