"""LLMasOS format ``legacy``: what Hugging Face folders held before safetensors and tokenizer.json, read without running code."""

from __future__ import annotations

from pathlib import Path

from llmasos_hookspecs import Checkpoint, CheckpointError, Component, Context, Tokenizer, hookimpl


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Pickled weights (where allowed), tokenizer.model, vocab.json with merges.txt, tokenizers of Marian and M2M-100.",
        files=("pytorch_model*.bin", "tokenizer.model", "spiece.model", "vocab.json", "source.spm", "sentencepiece.bpe.model"),
    )


@hookimpl
def llmasos_open(path: Path, context: Context) -> Checkpoint | None:
    from llmasos_huggingface_folder.checkpoint import has_safetensors

    if not (path / "config.json").is_file() or not any(path.glob("pytorch_model*.bin")) or has_safetensors(path):
        return None
    if not context.allow_pickle:
        raise CheckpointError(
            f"{path} holds its weights as pickle files, which can run code when read; get the model as safetensors, "
            "or set allow_pickle = true if you trust it."
        )
    from llmasos_format_legacy.pickled import PickledCheckpoint

    return PickledCheckpoint(path, context)


@hookimpl
def llmasos_read_tokenizer(folder: Path) -> Tokenizer | None:
    from llmasos_format_legacy.tokenizer_files import tokenizer_from_files

    return tokenizer_from_files(folder)
