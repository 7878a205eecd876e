"""Tokenizers: text to token ids and back, from tokenizer.json and from GGUF metadata."""

from llmasos.runtime.tokenizer.fast import FastTokenizer
from llmasos.runtime.tokenizer.folder import tokenizer_from_folder
from llmasos.runtime.tokenizer.gguf import tokenizer_from_gguf

__all__ = ["FastTokenizer", "tokenizer_from_folder", "tokenizer_from_gguf"]
