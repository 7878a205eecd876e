"""What was said so far, for the model: of interrupted answers only what the user heard."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Protocol

from llmasos_hookspecs import CommandModel
from llmasos_task_kit.history import fit_history
from llmasos_task_kit.prompting import Message, reply_room, turn_stops, without_control_tokens

#: What a model is told that is told nothing else.
SYSTEM = "You are a voice assistant. Answer in one or two short spoken sentences, without lists, formulas or markup."


class Spoken(Protocol):
    """A turn that is over."""

    @property
    def heard(self) -> str: ...
    @property
    def said(self) -> str: ...


class Conversation:
    """Answers by a model, with the turns before."""

    def __init__(self, model: CommandModel, *, system: str, max_new_tokens: int, **sampling: Any) -> None:
        self._model = model
        self._system = system
        self._new = max_new_tokens
        self._sampling = sampling

    def answer(self, heard: str, before: Sequence[Spoken]) -> Generator[str, None, None]:
        """The pieces of an answer; closing the generator ends the request."""
        messages: list[Message] = [{"role": "system", "content": self._system}] if self._system else []
        spoken = [
            *((role, text) for turn in before for role, text in (("user", turn.heard), ("assistant", turn.said)) if text),
            ("user", heard),
        ]
        for role, said in spoken:
            text = without_control_tokens(said, self._model.tokenizer)
            if messages and messages[-1]["role"] == role:  # templates want the roles in turn; an answer of which nothing was heard is none
                messages[-1] = {"role": role, "content": f"{messages[-1]['content']} {text}"}
            else:
                messages.append({"role": role, "content": text})
        new = reply_room(self._model, self._new)
        fitting = fit_history(self._model, messages, self._model.context_length - new)[0]
        return self._model.stream(fitting, max_new_tokens=new, stop=turn_stops(self._model), **self._sampling)
