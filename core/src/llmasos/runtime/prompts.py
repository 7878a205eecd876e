"""From a prompt, plain text or chat messages, to token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import attrs

from llmasos.runtime.chat_template import ChatTemplate
from llmasos.runtime.control_tokens import ControlTokens
from llmasos.runtime.template_sandbox.limits import MAX_CHARACTERS
from llmasos_hookspecs import Checkpoint, Prompt, RequestError, Tokenizer

#: Tokens of a prompt that are read again with a continuation: no merge of characters is known to reach as far.
_BORDER: Final = 16


@attrs.frozen
class PromptEncoder:
    """A checkpoint's tokenizer and chat template; ``template`` is None where the checkpoint has none.

    In chat messages only the template writes control tokens; ``allow_control_tokens`` lets the messages' texts spell them too. A plain
    text is what its author says, control tokens included.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> PromptEncoder:
        """Raises ``CheckpointError`` where the checkpoint has no tokenizer."""
        return cls(checkpoint.tokenizer(), ChatTemplate.of(checkpoint))

    def encode(self, prompt: Prompt, *, allow_control_tokens: bool = False) -> list[int]:
        """Token ids of a prompt. Raises ``RequestError`` where it is neither text nor chat messages, empty, or longer than any context."""
        if isinstance(prompt, str):
            if not prompt:
                raise RequestError("The prompt is empty; give at least one character.")
            _check_length(len(prompt))
            return self.tokenizer.encode(prompt)
        return self._rendered(prompt, True, allow_control_tokens)[1]

    def encode_continuations(
        self, prompt: Prompt, head: list[int], continuations: Sequence[str], *, allow_control_tokens: bool = False
    ) -> list[list[int]]:
        """Tokens that each continuation adds to a prompt of the tokens ``head``, as they are where both are written together.

        Where the two would grow into one token at the border, the continuation is taken by itself, so that all share the same prompt.
        A long prompt is not read again for each: its last tokens are enough where they come out as they stand in it.
        """
        text = prompt if isinstance(prompt, str) else self.render(prompt, allow_control_tokens=allow_control_tokens)
        starts = [(text, head, isinstance(prompt, str) or self.template is None)]
        near = head[-_BORDER:]
        if len(near) < len(head) and text.endswith(end := self.tokenizer.decode(near, skip_special=False)):
            starts.insert(0, (end, near, False))

        def tail(continuation: str) -> list[int]:
            for start, tokens, special in starts:
                whole = self.tokenizer.encode(start + continuation, special=special)
                if whole[: len(tokens)] == tokens:
                    return whole[len(tokens) :]
            return self.tokenizer.encode(continuation, special=False)

        return [tail(continuation) for continuation in continuations]

    def render(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True, allow_control_tokens: bool = False
    ) -> str:
        """Chat messages as text: through the template, else as a plain ``role: content`` transcript."""
        return self._rendered(messages, add_generation_prompt, allow_control_tokens)[0]

    def _rendered(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool, allow_control_tokens: bool
    ) -> tuple[str, list[int]]:
        """Messages as text, and its tokens."""
        checked = _checked(messages)
        template = self.template
        if template is None:
            # What is around a text is the tokenizer's to add; in the transcript itself nothing is a control token.
            lines = [f"{message['role']}: {message['content']}\n" for message in checked]
            text = "".join([*lines, "assistant:"] if add_generation_prompt else lines)
            if not allow_control_tokens:
                text = self._control_tokens.break_all(text)
            return text, self.tokenizer.encode(text)

        def render(messages: Sequence[Mapping[str, Any]]) -> str:
            return template.render(messages, add_generation_prompt=add_generation_prompt)

        if allow_control_tokens:
            text = render(checked)
            return text, self.tokenizer.encode(text, special=False)
        text = self._control_tokens.render(checked, render)
        tokens = self.tokenizer.encode(text, special=False)
        if self._control_tokens.surplus(text, tokens) and (plain := self._control_tokens.plain(checked)) != checked:
            text = self._control_tokens.render(plain, render)
            tokens = self.tokenizer.encode(text, special=False)
        return text, tokens

    @cached_property
    def _control_tokens(self) -> ControlTokens:
        return ControlTokens(self.tokenizer, () if self.template is None else self.template.constants())


def _check_length(characters: int) -> None:
    if characters > MAX_CHARACTERS:
        raise RequestError(f"The prompt has {characters} characters, and at most {MAX_CHARACTERS} are read; shorten it.")


def _checked(messages: Any) -> list[dict[str, str]]:
    if not isinstance(messages, Sequence) or isinstance(messages, bytes):
        raise RequestError(f"The prompt is a {type(messages).__name__}, and it must be a text or a list of chat messages.")
    if not messages:
        raise RequestError("The list of chat messages is empty; give at least one message.")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RequestError(f"Chat message {place} is a {type(message).__name__}, and it must have the keys role and content.")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise RequestError(f"Chat message {place} has {key} = {message.get(key)!r}, and it must be a text.")
    _check_length(sum(len(message["content"]) for message in messages))
    return [dict(message) for message in messages]
