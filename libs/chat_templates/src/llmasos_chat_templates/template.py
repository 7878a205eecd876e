"""Chat templates: a model's own jinja2 template renders chat messages as the text format that it was trained on, in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Self

import jinja2
from jinja2 import meta as jinja_meta, nodes

from llmasos_answer_parts.reasoning import Marks, marks_of
from llmasos_chat_templates.messages import ChatOptions
from llmasos_chat_templates.sandbox import ChatEnvironment, LimitReached, budget
from llmasos_checkpoint_kit.templates import MAX_TEMPLATE_BYTES
from llmasos_hookspecs import Checkpoint, CheckpointError, RequestError

#: Names under which a message's reasoning is passed; the first is what templates read, the second what some older ones do.
_REASONING: Final = ("reasoning_content", "thinking", "reasoning")
#: A text that no template has or changes: where a rendered prompt lacks it, the template read no text.
_PROBE: Final = "4815162342"
#: Variables that switch reasoning: of Qwen 3 and SmolLM3, and of DeepSeek 3.1 and Granite.
_SWITCHES: Final = ("enable_thinking", "thinking")


class ChatTemplate:
    """A compiled template, with the special tokens that it may use. Thread-safe.

    Args:
        source: the jinja2 text.
        tokens: ``bos_token`` and the like -> text.
        where: the file it is from, for errors.

    Raises:
        CheckpointError: the template is too long or no jinja2.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], where: str) -> None:
        self.source = source
        self._tokens = dict(tokens)
        self._where = where
        if len(source) > MAX_TEMPLATE_BYTES:
            raise CheckpointError(f"{where} has a chat template of {len(source)} characters, more than any real one; get the model again.")
        try:
            with budget():
                self._template = ChatEnvironment().from_string(source)
        except (LimitReached, jinja2.TemplateError, SyntaxError, RecursionError, MemoryError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{where} has a chat template that is no valid jinja2 ({_short(error)}); get it again.") from error

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self | None:
        """The chat template of a checkpoint; None where it has none.

        Raises:
            CheckpointError: the template is damaged.
        """
        source = checkpoint.chat_template
        return None if source is None else cls(source, checkpoint.tokenizer().special_tokens, str(checkpoint.path))

    def constants(self) -> list[str]:
        """The string literals in the template's expressions."""
        return [node.value for node in ChatEnvironment().parse(self.source).find_all(nodes.Const) if isinstance(node.value, str)]

    @cached_property
    def variables(self) -> frozenset[str]:
        """Variables that the template reads and does not set."""
        return frozenset(jinja_meta.find_undeclared_variables(ChatEnvironment().parse(self.source)))

    @cached_property
    def reasoning_marks(self) -> Marks | None:
        """What encloses reasoning; None where the template knows none."""
        return marks_of(self.source)

    def switched(self, reasoning: bool | None) -> dict[str, bool]:
        """The variable that switches reasoning on or off, where that is asked for. Raises ``RequestError`` where it cannot be."""
        if reasoning is None:
            return {}
        for name in _SWITCHES:
            if name in self.variables:
                return {name: reasoning}
        if reasoning == (self.reasoning_marks is not None):
            return {}
        lacks = "marks no reasoning" if reasoning else "has no switch for its reasoning"
        raise RequestError(f"The chat template of {self._where} {lacks}; leave the argument out.", "reasoning")

    @property
    def writes_tools(self) -> bool:
        """Whether the template describes tools to the model."""
        return "tools" in self.variables

    @property
    def writes_calls(self) -> bool:
        """Whether the template writes calls of tools and their results."""
        return self.writes_tools or "tool_calls" in self.source

    @cached_property
    def reads_parts(self) -> bool:
        """Whether the template reads a message's content as a list of parts alone, as those of vision-language models do: a plain text
        would be left out of the prompt, without an error."""
        if "'type'" not in self.source and '"type"' not in self.source and ".type" not in self.source:
            return False

        def shows(parts: bool) -> bool:
            try:
                return _PROBE in self._rendered([_message({"role": "user", "content": _PROBE}, parts)], True, None, None)
            except (RequestError, CheckpointError):
                return False

        return not shows(False) and shows(True)

    def check(self, options: ChatOptions) -> None:
        """Raises ``RequestError`` where the template would silently ignore an argument."""
        for name in options.template_arguments:
            if name not in self.variables:
                known = sorted(self.variables - {"messages", "tools", "documents", "add_generation_prompt", *self._tokens})
                reads = f"it reads {', '.join(known)[:500]}" if known else "it reads none"
                raise RequestError(f"The chat template of {self._where} has no variable {name[:80]!r}; {reads}.")

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """The messages as one text, with the beginning of the assistant's turn where ``add_generation_prompt`` is set.

        Args:
            tools: what the model may call, each described as JSON.
            arguments: further variables of the template.

        Raises:
            RequestError: there are no messages, or the template refuses them.
            CheckpointError: the template breaks out of its bounds of time or memory.
        """
        if not messages:
            raise RequestError("A chat needs at least one message; give messages with role and content.")
        parts = self.reads_parts
        return self._rendered([_message(message, parts) for message in messages], add_generation_prompt, tools, arguments)

    def _rendered(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        arguments: Mapping[str, Any] | None,
    ) -> str:
        values = {
            **{name: _plain(value) for name, value in (arguments or {}).items()},
            **self._tokens,
            "messages": [_plain(message) for message in messages],
            "tools": _plain(tools),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            with budget():
                return self._template.render(values)
        except (LimitReached, RecursionError, MemoryError, jinja2.exceptions.SecurityError) as error:
            raise CheckpointError(f"{self._where} has a chat template that was stopped: {_short(error)}; do not use this model.") from error
        except Exception as error:  # whatever the template's expressions do with these messages
            raise RequestError(f"The chat template of {self._where} refuses these messages: {_short(error)}.") from error


def _message(message: Mapping[str, Any], parts: bool) -> dict[str, Any]:
    """A message as transformers passes it to templates: without keys whose value is None, and with reasoning under the names they read;
    its text as one part of its content where the template reads ``parts``."""
    if not isinstance(message, Mapping):
        raise RequestError(f"A chat message is {type(message).__name__!r}, and a mapping with role and content is needed.")
    kept = {key: value for key, value in message.items() if value is not None}
    if parts and isinstance(kept.get("content"), str):
        kept["content"] = [{"type": "text", "text": kept["content"]}]
    reasoning = next((kept[name] for name in _REASONING if name in kept), None)
    return kept if reasoning is None else {"thinking": reasoning, **kept, "reasoning_content": reasoning}


def _plain(value: Any) -> Any:
    """The value in JSON's types only: an object of another type may have methods that the sandbox wrongly allows."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return f"<{type(value).__name__}>"


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 160 else f"{text[:157]}...").rstrip(".")
