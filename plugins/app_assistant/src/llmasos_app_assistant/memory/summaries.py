"""Summaries of what came before the turns that a prompt has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from llmasos_app_assistant.memory.database import AssistantDatabase
from llmasos_hookspecs import TaskModel
from llmasos_task_kit.prompting import Message, head, turn_stops, user_prompt, without_control_tokens

#: Share of the room of a conversation that a summary may take.
_SHARE: Final = 4
_INSTRUCTION: Final = "Summarise this part of a conversation in a few sentences: what was asked, what was found out, what was decided."


@attrs.frozen
class Summary:
    """What the messages up to ``message``, a number of the store, said."""

    message: int
    text: str


class Summaries:
    """The summaries that are kept."""

    def __init__(self, database: AssistantDatabase) -> None:
        self._database = database

    def find(self, conversation: int) -> Summary | None:
        """The summary of a conversation's beginning."""
        with self._database.use() as connection:
            found = connection.execute("SELECT message, text FROM summaries WHERE conversation = ?", (conversation,)).fetchone()
        return None if found is None else Summary(*found)

    def keep(self, conversation: int, summary: Summary) -> None:
        """Keep a summary in place of the one before."""
        with self._database.use() as connection:
            connection.execute("INSERT OR REPLACE INTO summaries VALUES (?, ?, ?)", (conversation, summary.message, summary.text))


def shortened(
    model: TaskModel, messages: Sequence[Message], numbers: Sequence[int], before: Summary | None, room: int
) -> tuple[list[Message], Summary | None]:
    """The newest turns that take at most ``room`` tokens, and a summary of what came before them; None where nothing did.

    ``numbers``: of the messages, in the store; ``before``: the summary so far, whose messages are left out. Whole turns are summarised.
    Where they have to be, half of the room is left for turns to come, so that not every turn summarises again.
    """
    start = 0 if before is None else next((place for place, number in enumerate(numbers) if number > before.message), len(numbers))
    turns = [place for place in range(start, len(messages)) if messages[place]["role"] == "user"]
    kept = list(messages[start:])
    if _size(model, kept, before) <= room or not turns:
        return kept, before
    cut = next((place for place in turns if _size(model, messages[place:], None) <= room // 2), len(messages))
    if cut == start:  # the summary alone is too long
        return kept, before
    text = _summarised(model, messages[start:cut], before, max(16, room // _SHARE))
    return list(messages[cut:]), Summary(numbers[cut - 1], text)


def as_instructions(system: str, summary: Summary | None) -> list[dict[str, Any]]:
    """The system message, with a summary in it; none where there is neither."""
    said = "" if summary is None else f"What was said earlier in this conversation, in short:\n{summary.text}"
    text = "\n\n".join(filter(None, (system, said)))
    return [{"role": "system", "content": text}] if text else []


def _summarised(model: TaskModel, messages: Sequence[Message], before: Summary | None, tokens: int) -> str:
    said = "\n".join(f"{each['role']}: {each['content']}" for each in messages)
    text = "\n".join(filter(None, ("" if before is None else before.text, said)))
    new = min(tokens, max(1, model.context_length // 4))
    text = without_control_tokens(text, model.tokenizer)
    while True:
        prompt = user_prompt(f"{_INSTRUCTION}\n\n{text}")
        over = model.count_tokens(prompt) + new - model.context_length
        if over <= 0 or not text:
            break
        text = head(text, max(0, len(model.tokenizer.encode(text, special=False)) - over), model.tokenizer)
    return model.generate(prompt, max_new_tokens=new, stop=turn_stops(model), copying=True).text.strip()


def _size(model: TaskModel, messages: Sequence[Mapping[str, Any]], before: Summary | None) -> int:
    given = [*as_instructions("", before), *messages]
    return model.count_tokens(given) if given else 0
