"""An engine that writes given texts, for tests of what is made of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.checkpoint import Tokenizer
from llmasos_hookspecs.engine import EngineInfo, Row
from llmasos_hookspecs.errors import CapacityExceeded
from llmasos_hookspecs.testing.drawing import drawn_token

#: What the tiny checkpoints' chat template, and those like it, open an answer with.
_HEADER: Final = "<|im_start|>assistant\n"


class WritingEngine:
    """An ``Engine`` whose likeliest next token is that of the text that it was given for the prompt; then the end of the text.

    Where a sampler forbids that token, any other follows, and the end: the text has then been left.

    Args:
        tokenizer: spells the texts; an unknown one is written token by token.
        texts: a text that a prompt contains -> what is written behind the header of the assistant's turn, what the template itself puts
            there included. Of several the one that comes last in the prompt counts.
        context_length: tokens of prompt and answer together.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Mapping[str, str], context_length: int = 4096) -> None:
        self._tokenizer = tokenizer
        self._texts = texts
        self._slots: dict[int, list[int]] = {}
        self._next = 0
        self._info = EngineInfo(
            vocab_size=tokenizer.vocab_size,
            context_length=context_length,
            max_sequences=8,
            weight_bytes=1,
            kv_bytes_per_token=1,
            features=frozenset({"fork", "batch", "kv_cache", "sampling"}),
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    def open(self) -> int:
        return self._hold([])

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        return [self._row(row) for row in rows]

    def truncate(self, slot: int, length: int) -> None:
        del self._slots[slot][length:]

    def fork(self, slot: int) -> int:
        return self._hold(list(self._slots[slot]))

    def close(self, slot: int) -> None:
        del self._slots[slot]

    def shutdown(self) -> None:
        self._slots.clear()

    def _row(self, row: Row) -> npt.NDArray[Any]:
        held = self._slots[row.slot]
        held.extend(row.tokens)
        if row.draw is not None:
            return np.array([drawn_token(self._logits(held), row.draw)])
        wanted = {"all": range(row.position, len(held)), "last": range(len(held) - 1, len(held)), "none": range(0)}[row.want]
        return np.array([self._logits(held[: place + 1]) for place in wanted], np.float32).reshape(-1, self._info.vocab_size)

    def _logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """float32 [vocab]: the wanted token stands out; others differ by little, so that greedy decoding is certain."""
        logits = np.linspace(0.0, -1.0, self._info.vocab_size, dtype=np.float32)
        logits[self._wanted(tokens)] = 20.0
        return logits

    def _wanted(self, tokens: Sequence[int]) -> int:
        end = min(self._tokenizer.eos_token_ids)
        whole = len(tokens)  # tokens that end with a whole character
        while (shown := self._tokenizer.decode(tokens[:whole], skip_special=False)).endswith("\ufffd") and len(tokens) - whole < 3:
            whole -= 1
        prompt, opened, written = shown.rpartition(_HEADER)
        places = {prompt.rfind(key): text for key, text in self._texts.items() if key in prompt}
        text = places[max(places)] if places else ""
        if not opened or not text.startswith(written):
            return end
        rest, begun = self._tokenizer.encode(text[len(written) :], special=False), list(tokens[whole:])
        return rest[len(begun)] if rest[: len(begun)] == begun and len(rest) > len(begun) else end

    def _hold(self, tokens: list[int]) -> int:
        if len(self._slots) >= self._info.max_sequences:
            raise CapacityExceeded(f"All {self._info.max_sequences} slots are open; close one first.")
        self._next += 1
        self._slots[self._next] = tokens
        return self._next
