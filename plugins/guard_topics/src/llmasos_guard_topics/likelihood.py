"""Topics by likelihood: how much likelier a model finds the name of a topic after a text than after none."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import CapacityExceeded, Engine, Row, Tokenizer

_ASKED: Final = "Text: {text}\nWhat the text is about:"
#: What is said of a text that is about none of the topics.
_ELSE: Final = "something else"


class LikelihoodJudge:
    """Implements ``Judge``: the softmax over all topics, and "something else", of ``log p(topic | text) - log p(topic | no text)`` per
    token, which does not prefer topics whose names are common."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, topics: Sequence[str]) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._labels = [tokenizer.encode(f" {topic}", special=False) for topic in (*topics, _ELSE)]
        self._lock = threading.Lock()  # an engine is called from one thread at a time
        self._without = self._likelihoods("")

    def scores(self, text: str) -> list[float]:
        gained = np.array(self._likelihoods(text)) - self._without
        weights = np.exp((gained - gained.max()).clip(-700, None))
        return [float(weight) for weight in (weights / weights.sum())[:-1]]

    def _likelihoods(self, text: str) -> list[float]:
        """The mean log probability of a token of each label."""
        longest = max(map(len, self._labels))
        head = self._tokenizer.encode(_ASKED.format(text=text))
        surplus = len(head) + longest - self._engine.info.context_length
        if surplus > 0:  # of a long text the beginning is left out, and the question stays
            head = head[surplus:]
        with self._lock:
            slot = self._engine.open()
            try:
                first = _logits(self._engine, slot, head, 0, "last")
                return [self._likelihood(slot, len(head), first, label) for label in self._labels]
            finally:
                self._engine.close(slot)

    def _likelihood(self, slot: int, place: int, first: npt.NDArray[np.float32], label: list[int]) -> float:
        """That of one label behind what the slot holds, whose last logits are ``first`` [1, vocab]."""
        rows = np.concatenate([first, _logits(self._engine, slot, label[:-1], place, "all")])
        self._engine.truncate(slot, place)
        return sum(_log_probability(row, token) for row, token in zip(rows, label, strict=True)) / len(label)


def _logits(engine: Engine, slot: int, tokens: list[int], place: int, want: Literal["last", "all"]) -> npt.NDArray[np.float32]:
    """The logits [n, vocab] after all of ``tokens``, or after the last, in smaller steps where there is no room for large ones."""
    size, done = max(1, len(tokens)), 0
    found = [np.zeros((0, engine.info.vocab_size), dtype=np.float32)]
    while done < len(tokens):
        part = tokens[done : done + size]
        try:
            logits = np.array(engine.step([Row(slot, part, place + done, want)])[0])
        except CapacityExceeded:
            if size == 1:
                raise
            engine.truncate(slot, place + done)
            size = max(1, size // 2)
        else:
            found.append(logits)
            done += len(part)
    return np.concatenate(found) if want == "all" else found[-1]


def _log_probability(logits: npt.NDArray[np.float32], token: int) -> float:
    wide = logits.astype(np.float64)
    top = float(wide.max())
    return float(wide[token]) - top - math.log(float(np.exp(wide - top).sum()))
