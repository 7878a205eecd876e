"""Bodies of responses, as inputs of the task that answers them with tools of this server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from llmasos_hookspecs import RequestError
from llmasos_serve_http.fields import shown
from llmasos_serve_http.openai.approvals import Approvals, Owner
from llmasos_serve_http.openai.assisted_rendering import LABEL
from llmasos_serve_http.openai.response_bodies import check_fields, messages_of
from llmasos_serve_http.openai.sampling import sampling_of

#: Sampling that the task takes.
_SAMPLING: Final = ("temperature", "top_p", "seed")
_REQUEST, _RESPONSE, _CALL = "mcp_approval_request", "mcp_approval_response", "mcp_call"
#: What a client gives back of an answer, and is told again in the text that followed it.
_PASSED_OVER: Final = (_CALL, "mcp_list_tools", _REQUEST, _RESPONSE)


def brings_tools(body: Mapping[str, Any]) -> bool:
    """Whether a request has other tools than those of this server."""
    tools = body.get("tools")
    return bool(tools) and not (isinstance(tools, list) and all(map(_is_ours, tools)))


@attrs.frozen(kw_only=True)
class Turn:
    """A turn that goes on.

    Attributes:
        done: what the assistant did, as the task takes it.
        approve, refuse: ids of the calls that may be run, and of those that may not.
        requests: id of each of them -> that of the request that asked for it.
    """

    done: Sequence[Mapping[str, Any]] = ()
    approve: Sequence[str] = ()
    refuse: Sequence[str] = ()
    requests: Mapping[str, str] = attrs.field(factory=dict)

    def inputs(self) -> dict[str, Any]:
        """Those of the task that it is; none where nothing was done."""
        return {"done": self.done, "approve": self.approve, "refuse": self.refuse} if self.done else {}


def inputs_of(body: Mapping[str, Any], temperature: float, approvals: Approvals, owner: Owner) -> tuple[dict[str, Any], Turn]:
    """The task's inputs, and the turn that goes on with them. Raises ``RequestError`` for what it does not take."""
    check_fields(body)
    given = body.get("input")
    turn = Turn()
    if isinstance(given, list):
        given, turn = _turn(given, approvals, owner)
    *earlier, last = messages_of({**body, "input": given})
    for message in (*earlier, last):
        if message["role"] not in ("system", "user", "assistant") or "tool_calls" in message:
            raise RequestError("input holds calls of tools of the client, and the assistant of this server has its own.", "input")
        if not isinstance(message["content"], str):
            raise RequestError("The assistant of this server reads text alone, and input holds an image; leave it out.", "input")
    if last["role"] != "user":
        raise RequestError("The last item of input must be a message of the user.", "input")
    found = {
        "message": last["content"],
        "messages": [{"role": each["role"], "content": each["content"]} for each in earlier],
        "tool_choice": _choice(body.get("tool_choice")),
        **_sampling(body, temperature),
        **_tools(body.get("tools")),
        **turn.inputs(),
    }
    return found if body.get("max_output_tokens") is None else {**found, "max_new_tokens": body["max_output_tokens"]}, turn


def _sampling(body: Mapping[str, Any], temperature: float) -> dict[str, Any]:
    found = sampling_of(body, temperature)
    for name in (*(found.keys() - set(_SAMPLING)), *(name for name in ("chat_template_kwargs",) if name in body)):
        raise RequestError(f"{name} is nothing that the assistant of this server takes; leave it out.", name)
    text = body.get("text") or {}
    if text.get("format", {"type": "text"}) != {"type": "text"} if isinstance(text, Mapping) else True:
        raise RequestError("The assistant of this server answers in text; leave text.format out.", "text.format")
    return found


# Tools


def _is_ours(tool: Any) -> bool:
    return isinstance(tool, Mapping) and tool.get("type") == "mcp" and tool.get("server_label") == LABEL


def _tools(tools: Any) -> dict[str, Any]:
    """Which of this server's tools may be called, and whether the client is asked about calls that have to be confirmed.

    A client that names the server is asked, as OpenAI's clients are; one that names none would not know what to do.
    """
    if not tools:
        return {}
    approval = tools[0].get("require_approval") or "always"
    if len(tools) > 1 or approval not in ("always", "never"):
        raise RequestError('tools may hold the server "llmasos" once, with require_approval "always" or "never".', "tools")
    allowed = _allowed(tools[0].get("allowed_tools"))
    return {"waits": approval == "always", **({"tools": allowed} if allowed else {})}


def _allowed(given: Any) -> Sequence[str]:
    names = given.get("tool_names") if isinstance(given, Mapping) else given
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError(f"allowed_tools is {shown(given)}, and it must be a list of names of tools.", "tools")
    return names


def _choice(choice: Any) -> str:
    match choice:
        case None | "auto":
            return "auto"
        case "required":
            return "required"
        case {"type": "mcp" | "function", "name": str() as name}:
            return name
    raise RequestError('tool_choice must be "auto", "none", "required", or {"type": "mcp", "name": "..."}.', "tool_choice")


# A turn that waited to be approved


def _turn(items: list[Any], approvals: Approvals, owner: Owner) -> tuple[list[Any], Turn]:
    """The items up to the last message of the user, and the turn after it where calls were decided about."""
    last = max((place for place, item in enumerate(items) if _is_of_user(item)), default=len(items) - 1)
    head, tail = items[: last + 1], items[last + 1 :]
    decided = {item.get("approval_request_id"): item.get("approve") for item in tail if _type_of(item) == _RESPONSE}
    if not all(isinstance(each, bool) for each in decided.values()):
        raise RequestError("approve of an mcp_approval_response must be true or false.", "input")
    turn = _Reading(approvals, owner, decided).turn(tail) if decided else Turn()
    return [item for item in (head if decided else items) if _type_of(item) not in _PASSED_OVER], turn


class _Reading:
    """Reads a turn from what a client gives back of it."""

    def __init__(self, approvals: Approvals, owner: Owner, decided: Mapping[Any, bool]) -> None:
        self._approvals = approvals
        self._owner = owner
        self._decided = decided
        self._steps: list[dict[str, Any]] = []
        self._asked: dict[str, dict[str, Any]] = {}  # id of the request -> the call that it asked for

    def turn(self, items: Sequence[Any]) -> Turn:
        """Raises ``RequestError`` where it is not as the server told it."""
        for place, item in enumerate(items):
            match _type_of(item):
                case "message":
                    self._steps.append({"text": messages_of({"input": [item]})[0]["content"], "calls": []})
                case "mcp_call":
                    self._call(place, item)
                case "mcp_approval_request":
                    self._request(item)
        if self._decided.keys() - self._asked.keys():
            raise RequestError("input holds an mcp_approval_response without its mcp_approval_request; give the whole turn back.", "input")
        waiting = {identity: call["id"] for identity, call in self._asked.items() if "result" not in call}
        approved = {identity for identity in waiting if self._decided[identity]}
        for identity in approved:
            self._approvals.use(identity)
        return Turn(
            done=self._steps,
            approve=[call for identity, call in waiting.items() if identity in approved],
            refuse=[call for identity, call in waiting.items() if identity not in approved],
            requests={call: identity for identity, call in waiting.items()},
        )

    def _call(self, place: int, item: Mapping[str, Any]) -> None:
        error = item.get("error")
        ended = {"result": _told(error) if error else _text(item, "output"), "error": bool(error)}
        # One that was asked about before is known by its request.
        call = self._asked.get(item.get("approval_request_id") or "")
        if call is None:
            # Nine letters and digits: some chat templates take no other ids.
            call = {"id": f"d{place:08}", "tool": _text(item, "name"), "arguments": _arguments(item)}
            self._calls().append(call)
        call |= ended

    def _request(self, item: Mapping[str, Any]) -> None:
        tool, arguments, identity = _text(item, "name"), _arguments(item), _text(item, "id")
        call = {"id": self._approvals.call_of(self._owner, identity, tool, arguments), "tool": tool, "arguments": arguments}
        if identity not in self._decided:
            raise RequestError(f"input holds no mcp_approval_response for the call of {tool[:80]!r}; add one.", "input")
        self._asked[identity] = call
        self._calls().append(call)

    def _calls(self) -> list[dict[str, Any]]:
        """The calls of the last step."""
        if not self._steps:
            self._steps.append({"text": "", "calls": []})
        found: list[dict[str, Any]] = self._steps[-1]["calls"]
        return found


def _is_of_user(item: Any) -> bool:
    return isinstance(item, Mapping) and item.get("role") == "user" and _type_of(item) == "message"


def _type_of(item: Any) -> Any:
    return item.get("type", "message") if isinstance(item, Mapping) else None


def _text(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise RequestError(f"{name} of the {_type_of(item)} is {shown(value)}, and it must be a text.", "input")
    return value


def _arguments(item: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = orjson.loads(_text(item, "arguments"))
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise RequestError(f"arguments of the {_type_of(item)} must be the JSON of an object.", "input")
    return found


def _told(error: Any) -> str:
    """The sentence of an error, as this server wrote it."""
    parts = error.get("content") if isinstance(error, Mapping) else None
    texts = [part.get("text") for part in parts or () if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if isinstance(text, str)) or shown(error)
