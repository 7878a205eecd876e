"""Tokenizers: text to token ids and back, from tokenizer.json and KerasHub presets."""

from llmasos.checkpoints.tokenizer.folder import tokenizer_from_folder
from llmasos.checkpoints.tokenizer.keras_preset import has_preset_tokenizer, tokenizer_from_preset

__all__ = ["has_preset_tokenizer", "tokenizer_from_folder", "tokenizer_from_preset"]
