"""Topics by embeddings: how much nearer a text is to a topic than to everyday sentences."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Encoder, EncoderRow, Tokenizer

#: Texts about nothing in particular. An embedding model places all texts near each other, and those of one language nearer still; what a
#: text is about is how it differs from these.
EVERYDAY: Final = (
    "Hello, how are you today?",
    "Thank you, that was very helpful.",
    "The weather is nice this morning.",
    "I had breakfast and went for a walk.",
    "Can you explain this in more detail?",
    "Here is a short list of the main points.",
    "We will meet again next week.",
    "The number of pages is twelve.",
    "你好，今天过得怎么样？",
    "谢谢，这对我很有帮助。",
    "今天早上天气很好。",
    "我吃了早饭，然后去散步。",
    "你能说得更详细一点吗？",
    "下面是主要的几点。",
    "我们下个星期再见。",
    "一共有十二页。",
)

#: Signs of East Asia.
_SIGNS: Final = re.compile("[\u2e80-\U0010ffff]+")


class NearnessJudge:
    """Implements ``Judge``: the cosine between a text and a topic, each less the mean vector of everyday sentences of its own language."""

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer, topics: Sequence[str]) -> None:
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._lock = threading.Lock()  # an encoder is called from one thread at a time
        self._means = {
            chinese: np.stack([self._vector(text) for text in EVERYDAY if is_chinese(text) == chinese]).mean(axis=0)
            for chinese in (False, True)
        }
        self._topics = np.stack([self._centred(topic) for topic in topics])

    def scores(self, text: str) -> list[float]:
        found: npt.NDArray[np.float32] = self._topics @ self._centred(text)
        return [float(score) for score in found]

    def _centred(self, text: str) -> npt.NDArray[np.float32]:
        """Of length 1; 0 for what differs from everyday sentences by no more than rounding."""
        vector = self._vector(text) - self._means[is_chinese(text)]
        length = float(np.linalg.norm(vector))
        return vector / length if length > 1e-4 else np.zeros_like(vector)

    def _vector(self, text: str) -> npt.NDArray[np.float32]:
        """One text alone, so that what is computed is the same whatever else is judged; of length 1."""
        info = self._encoder.info
        tokens = self._tokenizer.encode(info.prompts.get("query", "") + text)
        if len(tokens) > info.context_length:
            tokens = [*tokens[: info.context_length - 1], tokens[-1]]  # the last is the mark that models end a text with
        with self._lock:
            vector: npt.NDArray[np.float32] = np.array(self._encoder.encode([EncoderRow(tokens)])[0])
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


def is_chinese(text: str) -> bool:
    """Whether a third of the characters or more are signs of East Asia."""
    if text.isascii():
        return not text
    return 3 * (len(text) - len(_SIGNS.sub("", text))) >= len(text)
