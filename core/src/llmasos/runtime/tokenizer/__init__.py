"""Tokenizers: text to token ids and back, from tokenizer.json, GGUF metadata and KerasHub presets."""

from llmasos.runtime.tokenizer.fast import FastTokenizer
from llmasos.runtime.tokenizer.folder import tokenizer_from_folder
from llmasos.runtime.tokenizer.gguf import tokenizer_from_gguf
from llmasos.runtime.tokenizer.keras_preset import has_preset_tokenizer, tokenizer_from_preset

__all__ = ["FastTokenizer", "has_preset_tokenizer", "tokenizer_from_folder", "tokenizer_from_gguf", "tokenizer_from_preset"]
