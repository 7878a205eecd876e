"""How a chat template marks reasoning."""

from __future__ import annotations

from typing import Final, Literal

import attrs

#: Whether the text that follows may open reasoning, is in it, or comes after it.
ReasoningState = Literal["before", "inside", "after"]


@attrs.frozen
class Marks:
    """What encloses reasoning."""

    open: str
    close: str


#: Those of Qwen 3, DeepSeek and SmolLM3; of some that were made from them; of Magistral.
_KNOWN: Final = tuple(
    Marks(*marks)
    for marks in (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>"), ("[THINK]", "[/THINK]"))
)


def marks_of(template: str) -> Marks | None:
    """The marks that a chat template writes or looks for; None where it knows none."""
    return next((marks for marks in _KNOWN if marks.close in template), None)


def state_of(prompt: str, marks: Marks) -> ReasoningState:
    """Where an answer begins after ``prompt``, of which the last characters are enough: a template may open reasoning, and where it is
    switched off close it at once."""
    end = prompt.rstrip()
    if end.endswith(marks.open):
        return "inside"
    return "after" if end.endswith(marks.close) else "before"
