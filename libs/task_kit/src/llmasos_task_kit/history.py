"""Cuts the history of a dialogue at turn boundaries to fit the context."""

from __future__ import annotations

from collections.abc import Sequence

from llmasos_hookspecs import TaskModel
from llmasos_task_kit.prompting import Message, shorten_last


def fit_history(model: TaskModel, messages: Sequence[Message], room: int) -> tuple[list[Message], int, int]:
    """The newest turns of a dialogue that take at most ``room`` tokens, the system message kept.

    A turn is a user message with the replies that follow it; the oldest turns go first and always whole, so that the dialogue
    begins with the user. Only where the last message alone is too long is its middle left out.

    Returns the messages, the number of turns dropped, and the tokens left out of the last message.
    """
    system = [message for message in messages[:1] if message["role"] == "system"]
    rest = list(messages[len(system) :])
    starts = [index for index, message in enumerate(rest) if message["role"] == "user" or index == 0]
    low, high = 0, len(starts) - 1
    while low < high:  # the fewest turns to drop; the length falls with every turn dropped
        middle = (low + high) // 2
        if model.count_tokens([*system, *rest[starts[middle] :]]) <= room:
            high = middle
        else:
            low = middle + 1
    kept, cut = shorten_last(model, [*system, *rest[starts[low] :]], room)
    return kept, low, cut
