"""Copies or writes the text files of a checkpoint: tokenizer, chat template and generation config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmasos.checkpoints.folder import inside, read_small
from llmasos.checkpoints.gguf import GGUFCheckpoint
from llmasos.checkpoints.huggingface import TEXT_FILES
from llmasos.checkpoints.writing import write_bytes, write_json
from llmasos_hookspecs import Checkpoint

_LARGEST = 256 << 20


def write_text_files(base: Checkpoint, folder: Path) -> None:
    """Write the tokenizer's files into ``folder``: copied from a Hugging Face folder, or made from a GGUF file's metadata."""
    if isinstance(base, GGUFCheckpoint):
        _write_out(base, folder)
        return
    for name in TEXT_FILES:
        path = inside(base.path, name)
        if path.is_file():
            write_bytes(folder / name, read_small(path, _LARGEST))


def _write_out(base: GGUFCheckpoint, folder: Path) -> None:
    config = base.config
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config.get(key) is not None}
    write_json(folder / "generation_config.json", ends)
    if "tokenizer.ggml.model" not in base.header.metadata:
        return
    from llmasos.checkpoints.chat_template import templates_in_gguf
    from llmasos.checkpoints.tokenizer import tokenizer_from_gguf

    tokenizer = tokenizer_from_gguf(base.header)
    described: dict[str, Any] = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        **tokenizer.named,
    }
    if tokenizer.model_file is None:
        write_bytes(folder / "tokenizer.json", tokenizer.backend.to_str(pretty=False).encode())
        described["tokenizer_class"] = "PreTrainedTokenizerFast"  # which takes tokenizer.json as it is
    else:
        data, settings = tokenizer.model_file
        write_bytes(folder / "tokenizer.model", data)
        described |= settings
    if (template := templates_in_gguf(base.header)) is not None:
        described["chat_template"] = template
    write_json(folder / "tokenizer_config.json", described)
