"""The conversation that a prompt of ``llmasos run`` belongs to: what was said before, and where the answer is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import attrs

from llmasos.cli.console import print_note
from llmasos_conversations.fitting import left_out, newest_turns
from llmasos_conversations.store import Conversation, ConversationStore, Form
from llmasos_hookspecs import LLMasOSError, RequestError
from llmasos_image_input.parts import GivenImage, message_of

if TYPE_CHECKING:
    from llmasos.api.model import LanguageModel


@attrs.define
class Talk:
    """One question and its answer, in a new conversation or in a kept one.

    Attributes:
        before: the conversation that it goes on with; an empty one where it begins anew.
        keep: whether question and answer are kept.
    """

    before: Conversation
    keep: bool
    quiet: bool
    _store: ConversationStore

    @classmethod
    def begin(cls, *, continued: bool, resume: str | None, system: str | None, keep: bool, quiet: bool) -> Self:
        """The talk that the options mean: ``continued`` goes on with the last conversation, ``resume`` with one by name or number.

        Raises:
            RequestError: both are given, or there is no such conversation.
        """
        store = ConversationStore.chosen()
        before = Conversation()
        if continued and resume is not None:
            raise RequestError("--continue and --resume name two conversations; leave one of them out.")
        if resume is not None:
            before = store.find(resume)
        elif continued:
            last = store.last("chat")
            if last is None:
                raise RequestError("No conversation is kept that could go on; ask without --continue.")
            before = last
        if before.form != "chat":
            raise RequestError(f"Conversation {before.label} is a plain text and its continuation, which cannot go on as a chat.")
        if system is not None:
            before = attrs.evolve(before, system=system)
        return cls(before, keep and (bool(before.number) or store.keeps_all), quiet, store)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What was said before, the system message first."""
        return [*self.before.instructions(), *self._store.asked(self.before.messages)]

    def prompt(self, question: str, images: Sequence[GivenImage], model: LanguageModel, new_tokens: int) -> list[dict[str, Any]]:
        """The messages for the model: as many of the newest turns as fit its context, and the question with its images."""
        messages, dropped = newest_turns(model, [*self.messages, message_of(question, images)], new_tokens)
        if dropped and not self.quiet:
            print_note(left_out(dropped))
        return messages

    def add(self, question: str, images: Sequence[GivenImage], answer: str, *, model: str, form: Form) -> int | None:
        """Keep question and answer; returns the conversation's number, None where it is not kept. Where it cannot be, a note tells why:
        the user has the answer."""
        if not self.keep:
            return None
        turn = [message_of(question, [each.given for each in images]), {"role": "assistant", "content": answer}]
        number = self.before.number or None
        try:
            return self._store.add(number, turn, system=self.before.system or None, model=model, form=form)[0]
        except LLMasOSError as error:
            print_note(f"The conversation is not kept: {error}")
            return None
