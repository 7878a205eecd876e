"""Tokenizers as checkpoints hold them: byte-level BPE, SentencePiece's BPE and unigram models, and how published models cut text.

Import from the modules; ``fast`` has the tokenizer that all of them become, ``pretokenizers`` the known ways to cut text.
"""
