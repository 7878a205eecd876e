"""Vision-language models: images among the tokens of a decoder."""

from __future__ import annotations

from typing import Final

from llmasos_hookspecs import Checkpoint

#: The ``model_type`` values of those that are computed.
KINDS: Final = ("idefics3", "smolvlm", "llava", "gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")

#: Those that are computed as models of text where a folder does not say how images are prepared.
_OF_TEXT_TOO: Final = ("gemma3",)


def reads_images(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is of a vision-language model that is computed as one."""
    kind = checkpoint.config.get("model_type")
    if kind in _OF_TEXT_TOO:
        return not {"preprocessor_config.json", "processor_config.json"}.isdisjoint(checkpoint.text_files())
    return kind in KINDS
