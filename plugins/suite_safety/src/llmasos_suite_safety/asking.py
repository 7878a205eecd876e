"""Many prompts at once: the engine's loop batches what the threads ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import attrs

from llmasos_hookspecs import Prompt, Score, TaskModel
from llmasos_task_kit.concurrency import finished_in_turn

#: Prompts in progress at once: more than a scheduler runs at once, so that its queue is never empty.
_WORKERS: Final = 32


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
    """Implements ``Scorer``; ``answered`` is told how many questions were answered since it was told last."""

    model: TaskModel
    answered: Callable[[int], None] = lambda _: None

    def __call__(self, questions: Sequence[Question]) -> list[list[Score]]:
        found: list[list[Score]] = [[] for _ in questions]

        def ask(place: int) -> list[Score]:
            question = questions[place]
            return self.model.score(question.prompt, question.continuations)

        for batch in finished_in_turn(ask, range(len(questions)), _WORKERS):
            for each in batch:
                if each.error is not None:
                    raise each.error
                found[each.item] = each.result or []
            self.answered(len(batch))
        return found
