"""A tool: what a model may call."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import attrs

from llmasos_hookspecs import LLMasOSError, TaskModel

#: What happens with a call: it is run, refused, or somebody is asked.
Decision = Literal["allow", "ask", "deny"]

#: What a name of a tool may not hold: templates and clients take no others.
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_NAME: Final = 64
#: Characters of a description that a model is shown: a server's own may be as long as it likes.
_LONGEST_DESCRIPTION: Final = 1024


class ToolError(LLMasOSError):
    """A call failed, and the model is told the sentence: it can do better."""


@attrs.frozen(kw_only=True, eq=False)
class Scope:
    """One call, as the tool that runs it knows it.

    Attributes:
        model: the model that called, for the same client; ``model.other(name)`` is another of the config.
        seconds: that the call may take; after that nobody waits for its result.
        ended: is set once nobody waits any more.
        conversation: number of the kept conversation; 0: it is not kept.
    """

    model: TaskModel
    seconds: float
    ended: threading.Event = attrs.field(factory=threading.Event)
    conversation: int = 0


@attrs.frozen(kw_only=True, eq=False)
class Tool:
    """What a model may call.

    Attributes:
        name: by which it is called.
        description: when and how to use it, for the model.
        parameters: JSON Schema of its arguments, an object.
        run: makes the result, a text or what JSON can hold, on a thread of the call's own. ``ToolError`` is for the model; so is any other
            exception, with the name of its class.
        repeatable: declared safe to run again after a kill that leaves open whether it was run; others are run at most once.
        decision: what happens with a call that no rule of the policy matches.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Callable[[Mapping[str, Any], Scope], Any]
    repeatable: bool = False
    decision: Decision = "ask"

    def described(self) -> dict[str, Any]:
        """In OpenAI's form."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description[:_LONGEST_DESCRIPTION],
                "parameters": dict(self.parameters),
            },
        }


class ToolSource(Protocol):
    """Where tools come from that are not known before they are asked for: a server, a document of an API."""

    def tools(self) -> Sequence[Tool]:
        """The tools that there are now. Raises ``LLMasOSError`` where that cannot be found out."""
        ...

    def close(self) -> None:
        """Free what it holds; it may be used again after that."""
        ...


def tool_name(*parts: str) -> str:
    """A name made of parts, of letters, digits, hyphens and underscores."""
    return _NO_NAME.sub("_", "_".join(parts)).strip("_")[:_LONGEST_NAME]
