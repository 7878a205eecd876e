"""The special tokens that a tokenizer adds around a text."""

from __future__ import annotations

from tokenizers import Tokenizer as Backend, processors


def add_ends(backend: Backend, bos: str | None, eos: str | None) -> None:
    """Make the backend put these tokens, which its vocabulary holds, before and after every text."""
    ids = {text: backend.token_to_id(text) for text in (bos, eos) if text is not None}
    single = [*([f"{bos}:0"] if bos else []), "$A:0", *([f"{eos}:0"] if eos else [])]
    pair = [*single, *([f"{bos}:1"] if bos else []), "$B:1", *([f"{eos}:1"] if eos else [])]
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=list(ids.items()))
