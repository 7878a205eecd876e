"""What a turn is made of, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from llmasos_app_assistant.bounds import Bounds
from llmasos_app_assistant.calling import AskedCall
from llmasos_app_assistant.listeners import Listener
from llmasos_app_assistant.memory.journal import Journal
from llmasos_app_assistant.policy import Rule
from llmasos_app_assistant.tools.tool import Tool
from llmasos_hookspecs import TaskModel

#: Why a turn ended: the model answered, or was cut by its token limit; a bound was reached; or a call waits for somebody to confirm it.
Finish = Literal["stop", "length", "steps", "time", "tokens", "confirm"]


@attrs.frozen(kw_only=True)
class MadeCall:
    """A call, and what it came to.

    Attributes:
        id: of the call.
        tool, arguments: what was called.
        result: what the model was shown of it; empty while it waits to be confirmed.
        error: it failed, or was refused.
        seconds: that it took.
    """

    id: str
    tool: str
    arguments: Mapping[str, Any]
    result: str = ""
    error: bool = False
    seconds: float = 0.0


@attrs.frozen(kw_only=True)
class Ended:
    """How a turn ended: its answer, why, its calls in order, those that wait to be confirmed, and the tokens that the model read and
    wrote."""

    text: str
    finish: Finish
    calls: tuple[MadeCall, ...]
    pending: tuple[MadeCall, ...] = ()
    prompt_tokens: int = 0
    generated_tokens: int = 0


@attrs.frozen
class Reply:
    """What the model said in one step."""

    text: str
    calls: tuple[AskedCall, ...]
    finish: Finish
    read: int = 0
    written: int = 0

    def body(self) -> dict[str, Any]:
        return attrs.asdict(self)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Reply:
        return cls(**{**body, "calls": tuple(AskedCall(**call) for call in body["calls"])})


@attrs.frozen(kw_only=True, eq=False)
class TurnParts:
    """What a turn is made of.

    Attributes:
        model: that answers.
        tools: that it may call.
        rules: of the policy.
        bounds: of the turn.
        journal: where it is written, and what it did before a kill.
        listener: who is shown its calls.
        history: the messages before it, the user's included.
        sampling: further arguments of generations.
        max_new_tokens: of one step.
        choice: ``tool_choice`` of the first step; the others are ``auto``.
        decided: calls that somebody has decided about since they were asked for.
        waits: whether the turn can be continued once somebody has decided about a call.
        conversation: number of the kept conversation.
    """

    model: TaskModel
    tools: Sequence[Tool]
    rules: Sequence[Rule]
    bounds: Bounds
    journal: Journal
    listener: Listener
    history: Sequence[Mapping[str, Any]]
    sampling: Mapping[str, Any]
    max_new_tokens: int
    choice: Any = "auto"
    decided: Mapping[str, bool] = attrs.field(factory=dict)
    waits: bool = False
    conversation: int = 0
