"""Encodes a prompt, plain text or chat messages, to token ids."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import attrs

from llmasos.compose.answer_forms import AnswerForms
from llmasos_answer_parts.written import as_texts, with_tools
from llmasos_chat_templates.control_tokens import ControlTokens
from llmasos_chat_templates.messages import ChatOptions, characters, checked_messages, images_of
from llmasos_chat_templates.sandbox.limits import MAX_CHARACTERS
from llmasos_chat_templates.template import ChatTemplate
from llmasos_hookspecs import Checkpoint, Prompt, RequestError, Tokenizer

#: Last tokens of a prompt that are encoded again with a continuation: no known merge reaches further back.
_BORDER: Final = 16
_PLAIN: Final = ChatOptions()


@attrs.frozen
class PromptEncoder:
    """A checkpoint's tokenizer and chat template; ``template`` is None where the checkpoint has none.

    In chat messages only the template writes control tokens, unless the options allow others. In plain text, control tokens are encoded as
    control tokens.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None

    @classmethod
    def of(cls, checkpoint: Checkpoint, template: str = "") -> PromptEncoder:
        """With a template in place of the checkpoint's own, where one is given.

        Raises:
            CheckpointError: the checkpoint has no tokenizer, or the template is no jinja2.
        """
        tokenizer = checkpoint.tokenizer()
        own = ChatTemplate(template, tokenizer.special_tokens, "The config") if template else ChatTemplate.of(checkpoint)
        return cls(tokenizer, own)

    def encode(self, prompt: Prompt, options: ChatOptions = _PLAIN) -> list[int]:
        """Token ids of a prompt. Raises ``RequestError`` where it is neither text nor chat messages, empty, or longer than any context, or
        where a plain text comes with options of chats."""
        if isinstance(prompt, str):
            if not prompt:
                raise RequestError("The prompt is empty; give at least one character.")
            if options.tools or options.template_arguments or options.reasoning is not None:
                raise RequestError("tools, reasoning and template_arguments belong to chat messages, and the prompt is a plain text.")
            _check_length(len(prompt))
            return self.tokenizer.encode(prompt)
        return self._rendered(prompt, True, options)[1]

    def at_least(self, prompt: Prompt) -> int:
        """Tokens that a prompt has at least, without encoding it: none has more characters than the longest one has bytes. A tokenizer that
        drops characters, such as all but one of many spaces, may give fewer."""
        return characters(prompt) // self._longest

    def encode_continuations(
        self, prompt: Prompt, head: list[int], continuations: Sequence[str], options: ChatOptions = _PLAIN
    ) -> list[list[int]]:
        """The tokens that each continuation adds to a prompt with the tokens ``head``, as in the encoding of both texts together.

        Where a token would span the border, the continuation is encoded by itself, so that all continuations share the same prompt. A
        long prompt is not encoded again for each: its last tokens suffice where encoding their text gives the same tokens.
        """
        text = prompt if isinstance(prompt, str) else self.render(prompt, options)
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

    def render(self, messages: Sequence[Mapping[str, Any]], options: ChatOptions = _PLAIN, *, add_generation_prompt: bool = True) -> str:
        """Chat messages as text: through the template, else as a plain ``role: content`` transcript."""
        return self._rendered(messages, add_generation_prompt, options)[0]

    def _rendered(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, options: ChatOptions) -> tuple[str, list[int]]:
        """Messages as text, and its tokens."""
        checked = checked_messages(messages)
        continued = add_generation_prompt and is_continued(checked)
        _check_length(characters(checked, options.tools, options.template_arguments))
        template = self.template
        if template is None:
            return self._transcript(checked, add_generation_prompt, options, continued)
        template.check(options)
        arguments = {**template.switched(options.reasoning), **options.template_arguments}
        if not template.writes_calls:
            checked = as_texts(checked)
        tools = list(options.tools)
        if tools and not template.writes_tools:
            checked, tools = with_tools(checked, tools), []
        checked = [_with_plain_images(message) for message in checked]
        # Tools hold untrusted text too, so they are treated like messages, after these.
        given = [*checked, {"role": "tools", "tools": tools}] if tools else checked
        with_them = bool(tools)
        # Marks where the last message ends in the rendered text. Digits: no template changes them, and nobody can guess them.
        end = str(secrets.randbits(128)) if continued else ""

        def render(given: Sequence[Mapping[str, Any]]) -> str:
            shown, tools = (given[:-1], given[-1]["tools"]) if with_them else (given, None)
            if end:
                shown = [*shown[:-1], {**shown[-1], "content": f"{shown[-1]['content']}{end}"}]
            text = template.render(shown, add_generation_prompt=add_generation_prompt and not end, tools=tools, arguments=arguments)
            return _up_to(text, end) if end else text

        if options.allow_control_tokens:
            text = render(given)
            return text, self.tokenizer.encode(text, special=False)
        text = self._control_tokens.render(given, render)
        tokens = self.tokenizer.encode(text, special=False)
        if self._control_tokens.surplus(text, tokens) and (plain := self._control_tokens.plain(given)) != given:
            text = self._control_tokens.render(plain, render)
            tokens = self.tokenizer.encode(text, special=False)
        return text, tokens

    def _transcript(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, options: ChatOptions, continued: bool
    ) -> tuple[str, list[int]]:
        if options.tools or options.template_arguments or options.reasoning:
            raise RequestError("This model has no chat template, so it cannot be given tools, reasoning or template_arguments.")
        if images_of(messages):
            raise RequestError(
                "This model has no chat template, which would say where images stand; give one (chat_template in the config)."
            )
        # The tokenizer adds special tokens around the text; the transcript itself contains no control token.
        lines = [f"{message['role']}: {message['content']}\n" for message in messages]
        text = "".join([*lines, "assistant:"] if add_generation_prompt and not continued else lines)
        if continued:
            text = text.removesuffix("\n")
        if not options.allow_control_tokens:
            text = self._control_tokens.break_all(text)
        return text, self.tokenizer.encode(text)

    @cached_property
    def answers(self) -> AnswerForms:
        """How answers are to be read."""
        return AnswerForms(self.tokenizer, self.template)

    @cached_property
    def _longest(self) -> int:
        """Bytes of the longest token."""
        return max(1, *(len(self.tokenizer.token_bytes(token)) for token in range(self.tokenizer.vocab_size)))

    @cached_property
    def _control_tokens(self) -> ControlTokens:
        return ControlTokens(self.tokenizer, () if self.template is None else self.template.constants())


def is_continued(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last message is a text of the assistant, which the answer continues."""
    last = messages[-1]
    return last["role"] == "assistant" and not last.get("tool_calls") and bool(last["content"].strip())


def _with_plain_images(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose image parts say no more than that an image stands there, as templates read them."""
    if isinstance(message["content"], str):
        return message
    return {**message, "content": [{"type": "image"} if part["type"] == "image" else part for part in message["content"]]}


def _up_to(text: str, end: str) -> str:
    """A rendered prompt up to the mark at the end of its last message, whose turn it leaves open."""
    before, found, _ = text.rpartition(end)
    if not found:
        raise RequestError(
            "The last message is the assistant's, and the model's chat template changes its end, so it cannot be continued; end with a "
            "message of the user."
        )
    return before


def _check_length(characters: int) -> None:
    if characters > MAX_CHARACTERS:
        raise RequestError(f"The prompt has {characters} characters, and at most {MAX_CHARACTERS} are read; shorten it.")
