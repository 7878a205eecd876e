"""Tokenizers: text to token ids and back, from tokenizer.json, GGUF metadata and KerasHub presets."""

from llmasos.checkpoints.tokenizer.fast import FastTokenizer
from llmasos.checkpoints.tokenizer.folder import tokenizer_from_folder
from llmasos.checkpoints.tokenizer.gguf import tokenizer_from_gguf
from llmasos.checkpoints.tokenizer.keras_preset import has_preset_tokenizer, tokenizer_from_preset

__all__ = ["FastTokenizer", "has_preset_tokenizer", "tokenizer_from_folder", "tokenizer_from_gguf", "tokenizer_from_preset"]
