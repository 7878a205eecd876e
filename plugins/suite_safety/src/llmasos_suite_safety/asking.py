"""Many prompts at once: the engine's loop batches what the threads ask."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, zip_longest
from typing import Final, Protocol

import attrs

from llmasos_hookspecs import Prompt, Score, TaskModel
from llmasos_task_kit.concurrency import finished_in_turn

#: Prompts in progress at once: more than the 8 that a scheduler runs at once, so that its queue is never empty, and not many more, so that
#: the prefix cache still holds the prompt that was asked as many before.
_WORKERS: Final = 12


@attrs.frozen
class Question:
    """A prompt, and what may follow it."""

    prompt: Prompt
    continuations: tuple[str, ...]


class Scorer(Protocol):
    """Asks a model."""

    def __call__(self, questions: Sequence[Question]) -> list[list[Score]]:
        """The scores of the continuations of each question. Raises ``RequestError`` where one is refused."""
        ...


@attrs.frozen
class Asker:
    """Implements ``Scorer``; ``answered`` is told how many questions were answered since it was told last.

    A prompt that several questions share is asked once, with all that may follow it.
    """

    model: TaskModel
    answered: Callable[[int], None] = lambda _: None

    def __call__(self, questions: Sequence[Question]) -> list[list[Score]]:
        keys = [json.dumps(question.prompt, ensure_ascii=False) for question in questions]
        asked: dict[str, Question] = {}
        for key, question in zip(keys, questions, strict=True):
            known = asked[key].continuations if key in asked else ()
            asked[key] = Question(question.prompt, tuple(dict.fromkeys((*known, *question.continuations))))
        sharing = Counter(keys)
        found: dict[str, dict[str, Score]] = {}

        def ask(key: str) -> list[Score]:
            return self.model.score(asked[key].prompt, asked[key].continuations)

        for batch in finished_in_turn(ask, _apart(asked), _WORKERS):
            for each in batch:
                if each.error is not None:
                    raise each.error
                found[each.item] = dict(zip(asked[each.item].continuations, each.result or (), strict=True))
            self.answered(sum(sharing[each.item] for each in batch))
        return [[found[key][text] for text in question.continuations] for key, question in zip(keys, questions, strict=True)]


def _apart(keys: Iterable[str]) -> list[str]:
    """The keys in an order in which those that begin alike are ``_WORKERS`` apart: when a prompt is asked, the one before it in the
    alphabet has been answered, and what both begin with is in the prefix cache."""
    ordered = sorted(keys)
    length = max(1, math.ceil(len(ordered) / _WORKERS))
    runs = [ordered[start : start + length] for start in range(0, len(ordered), length)]
    return [key for key in chain.from_iterable(zip_longest(*runs)) if key is not None]
