"""Vision-language models: images among the tokens of a decoder."""

from __future__ import annotations

from typing import Final

#: The ``model_type`` values of those that are computed.
KINDS: Final = ("idefics3", "smolvlm", "llava", "gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
