"""From a prompt, plain text or chat messages, to token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from llmasos.runtime.chat_template import ChatTemplate
from llmasos_hookspecs import Checkpoint, Prompt, RequestError, Tokenizer

#: Tokens of a prompt that are read again with a continuation: no merge of characters is known to reach as far.
_BORDER: Final = 16


@attrs.frozen
class PromptEncoder:
    """A checkpoint's tokenizer and chat template; ``template`` is None where the checkpoint has none."""

    tokenizer: Tokenizer
    template: ChatTemplate | None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> PromptEncoder:
        """Raises ``CheckpointError`` where the checkpoint has no tokenizer."""
        return cls(checkpoint.tokenizer(), ChatTemplate.of(checkpoint))

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt. Raises ``RequestError`` where it is neither text nor chat messages, or empty."""
        if isinstance(prompt, str):
            if not prompt:
                raise RequestError("The prompt is empty; give at least one character.")
            return self.tokenizer.encode(prompt)
        # The template writes the special tokens itself; without one the transcript is a plain text.
        return self.tokenizer.encode(self.render(prompt), special=self.template is None)

    def encode_continuations(self, prompt: Prompt, head: list[int], continuations: Sequence[str]) -> list[list[int]]:
        """Tokens that each continuation adds to a prompt of the tokens ``head``, as they are where both are written together.

        Where the two would grow into one token at the border, the continuation is taken by itself, so that all share the same prompt.
        A long prompt is not read again for each: its last tokens are enough where they come out as they stand in it.
        """
        text = prompt if isinstance(prompt, str) else self.render(prompt)
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

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
        """Chat messages as text: through the template, else as a plain ``role: content`` transcript."""
        checked = _checked(messages)
        if self.template is not None:
            return self.template.render(checked, add_generation_prompt=add_generation_prompt)
        lines = [f"{message['role']}: {message['content']}\n" for message in checked]
        return "".join([*lines, "assistant:"] if add_generation_prompt else lines)


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
    return [dict(message) for message in messages]
