"""What the assistant did so far in a turn that is not kept here: the client has it, and gives it back for the turn to go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from llmasos_app_assistant.calling import AskedCall, Result
from llmasos_app_assistant.memory.journal import Entry
from llmasos_app_assistant.turn_parts import Reply
from llmasos_hookspecs import RequestError


@attrs.frozen(kw_only=True)
class DoneCall:
    """A call. ``result``: what the model was shown of it; None: it waits to be confirmed."""

    id: str
    tool: str
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    result: str | None = None
    error: bool = False


@attrs.frozen(kw_only=True)
class DoneStep:
    """A step: what the model said, and its calls."""

    text: str = ""
    calls: tuple[DoneCall, ...] = ()


def entries_of(steps: Sequence[DoneStep]) -> list[Entry]:
    """A journal that holds them. Raises ``RequestError`` where a turn cannot have come that far."""
    _check(steps)
    return list(_entries(steps))


def _entries(steps: Sequence[DoneStep]) -> Iterator[Entry]:
    for step in steps:
        calls = tuple(AskedCall(call.id, call.tool, json.dumps(dict(call.arguments))) for call in step.calls)
        yield Entry("reply", Reply(step.text, calls, "stop").body())
        for call in step.calls:
            if call.result is not None:
                result = Result(text=call.result, error=call.error)
                yield Entry("result", {"call": call.id, "arguments": dict(call.arguments), **attrs.asdict(result)})


def _check(steps: Sequence[DoneStep]) -> None:
    ids = [call.id for step in steps for call in step.calls]
    if len(set(ids)) != len(ids):
        raise RequestError("done holds two calls of one id; give what the assistant did as it told it.", "done")
    if not all(step.calls for step in steps):
        raise RequestError("done holds a step without calls, after which there is nothing to go on with.", "done")
    if any(call.result is None for step in steps[:-1] for call in step.calls):
        raise RequestError("done holds a call without a result in a step that is not its last; only the last may wait.", "done")
