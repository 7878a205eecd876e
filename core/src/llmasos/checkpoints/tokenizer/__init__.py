"""Tokenizers: text to token ids and back, from tokenizer.json, the files before it, and KerasHub presets."""

from llmasos.checkpoints.tokenizer.folder import tokenizer_from_folder
from llmasos.checkpoints.tokenizer.keras_preset import has_preset_tokenizer, tokenizer_from_preset
from llmasos_tokenizing.fast import FastTokenizer

__all__ = ["FastTokenizer", "has_preset_tokenizer", "tokenizer_from_folder", "tokenizer_from_preset"]
