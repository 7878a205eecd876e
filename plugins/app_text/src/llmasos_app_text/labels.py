"""Scores labels by likelihood and subtracts the model's label bias."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import attrs

from llmasos_hookspecs import RequestError, TaskModel
from llmasos_task_kit.sentences import chunks

#: Content-free inputs, to measure the model's bias for each label (contextual calibration: Zhao et al., "Calibrate Before Use", 2021).
CONTENT_FREE = ("N/A", "...", "Text.")

T = TypeVar("T")
#: Cached room or label bias of a model, by the prompt without text and the labels.
_Kept: TypeAlias = weakref.WeakKeyDictionary[Any, dict[tuple[str, ...], T]]


@attrs.frozen(kw_only=True)
class LabelProbabilities:
    """The likeliest label, and the probability of each; they sum to 1."""

    label: str
    probabilities: dict[str, float]


class LabelScorer:
    """Scores labels as continuations of a prompt; a model's label bias is measured once for each prompt and set of labels.

    Args:
        calibrate: subtract from each label its mean log probability after content-free inputs.
        chunk_tokens: a longer text is scored in parts of this many tokens, and their scores averaged by length.
    """

    def __init__(self, *, calibrate: bool = True, chunk_tokens: int = 512) -> None:
        if chunk_tokens < 16:
            raise RequestError(f"chunk_tokens is {chunk_tokens!r}, and it must be a whole number of at least 16.")
        self._calibrate = calibrate
        self._chunk_tokens = chunk_tokens
        self._measuring = threading.Lock()
        self._biases: _Kept[list[float]] = weakref.WeakKeyDictionary()
        self._rooms: _Kept[int] = weakref.WeakKeyDictionary()

    def score(self, model: TaskModel, prompt_of: Callable[[str], str], text: str, labels: Sequence[str]) -> LabelProbabilities:
        """The probability of each of ``labels`` after ``prompt_of(text)``, compared by mean log probability a token.

        Raises ``RequestError`` if there are fewer than two labels, two are equal, or the prompt leaves no room for a text.
        """
        if len(labels) < 2 or len({label.strip() for label in labels}) < len(labels) or not all(label.strip() for label in labels):
            raise RequestError(f"labels are {list(labels)!r}; give at least two, all different and none empty.")
        words = [f" {label.strip()}" for label in labels]
        parts = chunks(text.strip(), min(self._room(model, prompt_of, words), self._chunk_tokens), model.tokenizer) or [""]
        weights = [len(model.tokenizer.encode(part, special=False)) + 1 for part in parts] if len(parts) > 1 else [1]
        bias = self._bias(model, prompt_of, words, wait=False) if self._calibrate else [0.0] * len(words)
        rows = [_log_probabilities(model, prompt_of(part.strip()), words) for part in parts]
        bias = bias or self._bias(model, prompt_of, words, wait=True)
        assert bias is not None
        total = sum(weights)
        means = [sum(w * row[i] for w, row in zip(weights, rows, strict=True)) / total - bias[i] for i in range(len(words))]
        probabilities = dict(zip(labels, _softmax(means), strict=True))
        return LabelProbabilities(label=max(probabilities, key=probabilities.__getitem__), probabilities=probabilities)

    def _room(self, model: TaskModel, prompt_of: Callable[[str], str], words: Sequence[str]) -> int:
        known = self._rooms.setdefault(model, {})
        key = (prompt_of(""), *words)
        if key not in known:
            # Extra tokens for the boundaries between text and prompt, and for texts that encode differently inside a prompt.
            known[key] = model.context_length - model.count_tokens(key[0]) - max(model.count_tokens(word) for word in words) - 8
        if known[key] < 1:
            raise RequestError(f"The labels and the instruction leave no room for a text in a context of {model.context_length} tokens.")
        return known[key]

    def _bias(self, model: TaskModel, prompt_of: Callable[[str], str], words: Sequence[str], *, wait: bool) -> list[float] | None:
        """The mean log probability of each label after content-free inputs. Without ``wait``, None if another thread is measuring it: of
        the texts of a batch, one measures the bias while the others are scored."""
        known = self._biases.setdefault(model, {})
        key = (prompt_of(""), *words)
        if key not in known and self._measuring.acquire(blocking=wait):
            try:
                if key not in known:
                    rows = [_log_probabilities(model, prompt_of(text), words) for text in CONTENT_FREE]
                    known[key] = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
            finally:
                self._measuring.release()
        return known.get(key)


def _log_probabilities(model: TaskModel, prompt: str, words: Sequence[str]) -> list[float]:
    return [score.mean for score in model.score(prompt, words)]


def _softmax(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    total = sum(weights)
    return [weight / total for weight in weights]
