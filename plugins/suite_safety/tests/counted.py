"""A tiny model that is trained by counting: which words follow others in a text, and which it has just read."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Final

from llmasos_hookspecs.testing import ScriptedTaskModel

#: Words of Latin letters, and single signs of Chinese.
_WORD: Final = re.compile(r"[a-z0-9']+|[\u4e00-\u9fff]")


@cache
def words(text: str) -> tuple[str, ...]:
    """The words of a text, in lower case."""
    return tuple(_WORD.findall(text.lower()))


class Counted:
    """``p(word | prompt)`` grows with how often the word followed the word of the prompt that it followed most, of all that this one was
    read, and with ``copying`` where the prompt has the word itself. It is no distribution: suites compare likelihoods only."""

    def __init__(self, texts: Iterable[tuple[str, str]], copying: float = 0.0) -> None:
        """``texts``: prompts with what follows."""
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._single: Counter[str] = Counter()
        self._copying = copying
        for prompt, text in texts:
            read, follow = set(words(prompt)), set(words(text))
            self._pairs.update((one, other) for one in read for other in follow)
            self._single.update(read)

    def likelihood(self, prompt: str, continuation: str) -> float:
        """Log probability of the continuation's words."""
        read = words(prompt)
        return sum(self._log(read, word) for word in words(continuation))

    def _log(self, read: tuple[str, ...], word: str) -> float:
        together = max((self._pairs[one, word] / (1 + self._single[one]) for one in read), default=0.0)
        return math.log(self._copying * (word in read) + (1 - self._copying) * (together + 0.001))

    def model(self, reply: Callable[[str, Mapping[str, Any]], str] | None = None) -> ScriptedTaskModel:
        """As suites see it; ``reply`` says what it generates."""
        return ScriptedTaskModel(reply, likelihood=self.likelihood)
