"""Chat messages: checks what callers give, and converts it to the form that templates expect."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from llmasos_hookspecs import RequestError
from llmasos_hookspecs.nesting import levels

#: Variables that every template gets; no template argument may replace them.
_TAKEN: Final = frozenset(("messages", "tools", "documents", "add_generation_prompt"))
#: Lists and mappings in one another; JSON Schemas of tools in use have some 20. What reads them calls itself once a level.
_DEEPEST: Final = 64
#: Characters of a value in an error.
_LONGEST_SHOWN: Final = 80


@attrs.frozen(kw_only=True)
class ChatOptions:
    """The options of a chat prompt.

    Attributes:
        tools: JSON descriptions of functions that the model may call, in OpenAI's form, for templates that use them.
        tool_choice: whether the model calls functions: ``auto`` or None, ``none``, ``required``, or the one that it must call, in OpenAI's
            form.
        parallel_tool_calls: an answer may have several calls, where the template has that.
        constrain_tools: calls follow the functions' JSON Schemas; False lets the model write what it likes.
        reasoning: the model reasons before it answers, or does not; None: as its template has it.
        template_arguments: further variables of the template, such as ``enable_thinking``.
        allow_control_tokens: control tokens that messages' texts spell are encoded as control tokens.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    constrain_tools: bool = True
    reasoning: bool | None = None
    template_arguments: Mapping[str, Any] = attrs.field(factory=dict)
    allow_control_tokens: bool = False

    @classmethod
    def of(cls, tools: Any = None, template_arguments: Any = None, tool_choice: Any = None, **switches: Any) -> ChatOptions:
        """Raises ``RequestError`` where a value is of the wrong kind. A model that may call no tool is shown none."""
        if isinstance(tools, Mapping | str) or not isinstance(tools or (), Sequence):
            raise RequestError(f"tools is a {type(tools).__name__}, and it must be a list of functions, each described as JSON.", "tools")
        for place, tool in enumerate(tools or ()):
            if not isinstance(tool, Mapping):
                raise RequestError(f"tools[{place}] is a {type(tool).__name__}, and it must describe a function as JSON.", "tools")
        if not isinstance(template_arguments or {}, Mapping):
            raise RequestError(
                f"template_arguments is a {type(template_arguments).__name__}, and it must map names to values.", "template_arguments"
            )
        arguments = dict(template_arguments or {})
        for name in arguments:
            if not isinstance(name, str) or not name.isidentifier() or name in _TAKEN:
                raise RequestError(
                    f"template_arguments has {_shown(name)}, which is no variable that can be given to a chat template.",
                    "template_arguments",
                )
        for name, value in switches.items():
            if not isinstance(value, bool) and (value is not None or name != "reasoning"):
                raise RequestError(f"{name} is {_shown(value)}, and it must be True or False.", name)
        check_depth(tools, "tools")
        check_depth(arguments, "template_arguments")
        shown = () if tool_choice == "none" else tuple(tools or ())
        return cls(tools=shown, tool_choice=tool_choice, template_arguments=arguments, **switches)


def checked_messages(messages: Any) -> list[dict[str, Any]]:
    """Messages with a role and a text each.

    A content of text parts is joined by line ends; an assistant's message that calls tools may have none. The arguments of a call become
    an object where they are its JSON, as templates want them. The content of a user's message with images stays a list of parts, ``text``
    and ``image``, of which no two of text follow each other.

    Raises:
        RequestError: they are no messages, or hold what a model of text cannot read.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, bytes):
        raise RequestError(f"The prompt is a {type(messages).__name__}, and it must be a text or a list of chat messages.")
    if not messages:
        raise RequestError("The list of chat messages is empty; give at least one message.")
    return [_message(place, message) for place, message in enumerate(messages)]


def characters(*values: Any) -> int:
    """Total length of the texts in messages, tools or arguments, in characters; names count too."""
    return sum(len(each) for level in levels(values) for each in level if isinstance(each, str))


def check_depth(value: Any, name: str) -> None:
    """Raise ``RequestError`` for lists and mappings in one another that are too many to be walked by calls."""
    if any(depth > _DEEPEST for depth, _ in enumerate(levels(value))):
        raise RequestError(f"{name} holds lists or mappings in more than {_DEEPEST} levels; give flatter ones.")


def _message(place: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RequestError(f"Chat message {place} is a {type(message).__name__}, and it must have the keys role and content.")
    found = dict(message)
    check_depth(found, f"Chat message {place}")
    if not isinstance(found.get("role"), str):
        raise RequestError(f"Chat message {place} has role = {_shown(found.get('role'))}, and it must be a text.")
    if found.get("tool_calls"):
        found["tool_calls"] = _calls(place, found["tool_calls"])
        found["content"] = "" if found.get("content") is None else found["content"]
    content = found.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        found["content"] = _content(place, found["role"], content)
    elif not isinstance(content, str):
        raise RequestError(f"Chat message {place} has content = {_shown(content)}, and it must be a text.")
    return found


def images_of(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What the image parts of checked messages hold, in order."""
    parts = (part for message in messages if isinstance(message["content"], list) for part in message["content"])
    return [part["image"] for part in parts if part["type"] == "image"]


def _content(place: int, role: str, parts: Sequence[Any]) -> str | list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, Mapping) and part.get("type") == "image" and part.get("image") is not None:
            if role != "user":
                raise RequestError(f"Chat message {place} of the role {_shown(role)} holds an image; images stand in messages of the user.")
            found.append({"type": "image", "image": part["image"]})
            continue
        text = _text(place, part)
        if found and found[-1]["type"] == "text":
            found[-1]["text"] += f"\n{text}"
        else:
            found.append({"type": "text", "text": text})
    return found if any(part["type"] == "image" for part in found) else "".join(part["text"] for part in found)


def _text(place: int, part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if not isinstance(part, Mapping) or kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
        raise RequestError(f"Chat message {place} holds a part of the type {_shown(kind)}, and this model reads text alone.")
    return str(part["text"])


def _calls(place: int, calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise RequestError(f"Chat message {place} has tool_calls that are no list.")
    return [_call(place, call) for call in calls]


def _call(place: int, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f"Chat message {place} holds a tool call without a function that has a name.")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):  # what is no JSON is shown as it is
            arguments = json.loads(arguments)
        check_depth(arguments, f"A tool call of chat message {place}")
    return {**call, "function": {**function, "arguments": arguments}}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
