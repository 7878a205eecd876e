"""Bodies of responses, as requests (https://platform.openai.com/docs/api-reference/responses)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmasos_hookspecs import RequestError
from llmasos_serve_http.asked import Asked
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.fields import flag, model_of, refuse, shown
from llmasos_serve_http.images import image_part
from llmasos_serve_http.openai.response_format import constraint_of
from llmasos_serve_http.openai.sampling import sampling_of

DIALECT: Final = OpenAIDialect({
    "max_new_tokens": "max_output_tokens",
    "schema": "text.format",
    "template_arguments": "chat_template_kwargs",
    "reasoning": "reasoning.effort",
})  # fmt: skip
REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "background": (False,),
    "n": (1,),
    "conversation": (),
    "prompt": (),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
    "max_tool_calls": (),
    "context_management": (),
}
_ROLES: Final = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def asked_of(body: Mapping[str, Any], temperature: float) -> Asked:
    """The request that a body asks for. Raises ``RequestError``."""
    check_fields(body)
    sampling = sampling_of(body, temperature) | _format(body) | _reasoning(body) | _tools(body)
    sampling["max_new_tokens"] = body.get("max_output_tokens", "context")
    if "chat_template_kwargs" in body:
        sampling["template_arguments"] = body["chat_template_kwargs"]
    return Asked(prompt=messages_of(body), model=model_of(body), sampling=sampling, stream=flag(body, "stream"))


def check_fields(body: Mapping[str, Any]) -> None:
    """Raise ``RequestError`` where a body has fields that are not supported."""
    if "previous_response_id" in body:
        raise RequestError(
            "previous_response_id is not supported, because this server keeps no responses; send the whole conversation in input.",
            "previous_response_id",
        )
    refuse(body, REFUSED)


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``instructions`` and ``input``, as chat templates know them: an assistant's reasoning, text and calls are one message there."""
    given, instructions = body.get("input"), body.get("instructions", "")
    if not isinstance(instructions, str):
        raise RequestError(f"instructions is {shown(instructions)}, and it must be a text.", "instructions")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list) or not items:
        raise RequestError("input must be a text, or a list of at least one item.", "input")
    found: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    for place, item in enumerate(items):
        message = _message(f"input[{place}]", item)
        if message["role"] == "assistant" and found and found[-1]["role"] == "assistant":
            _join(found[-1], message)
        else:
            found.append(message)
    return found


def _message(where: str, item: Any) -> dict[str, Any]:
    kept = {name: value for name, value in item.items() if value is not None} if isinstance(item, Mapping) else {}
    match kept:
        case {"type": "function_call", "name": str() as name, "arguments": str() as arguments, "call_id": str() as call}:
            function = {"name": name, "arguments": arguments}
            return {"role": "assistant", "content": "", "tool_calls": [{"id": call, "type": "function", "function": function}]}
        case {"type": "function_call_output", "call_id": str() as call, "output": output}:
            return {"role": "tool", "tool_call_id": call, "content": _text(f"{where}.output", output)}
        case {"type": "reasoning"}:
            parts = kept.get("content") or kept.get("summary") or []
            return {"role": "assistant", "content": "", "reasoning_content": _text(f"{where}.content", parts)}
        case {"role": str() as role} if role in _ROLES and kept.get("type", "message") == "message":
            return {"role": _ROLES[role], "content": _content(f"{where}.content", kept.get("content"))}
    raise RequestError(
        f"{where} is {shown(item)}, and it must be a message with a role and a content, a function_call, a function_call_output or a "
        "reasoning item.",
        where,
    )


def _content(where: str, content: Any) -> Any:
    """A text, or parts where there is an image among them."""
    if not isinstance(content, list) or not any(_is_image(part) for part in content):
        return _text(where, content)
    return [
        image_part(part.get("image_url"), where) if _is_image(part) else {"type": "text", "text": _text(where, [part])} for part in content
    ]


def _is_image(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "input_image"


def _text(where: str, content: Any) -> str:
    """A text, or parts of text joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise RequestError(f"{where} is {shown(content)}, and it must be a text or a list of parts of text.", where)
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise RequestError(f"{where} holds a part that is no text, and this server reads text alone.", where)
        texts.append(part["text"])
    return "\n".join(texts)


def _join(message: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add what an assistant's next item says to its message."""
    for name in ("content", "reasoning_content"):
        if texts := [each[name] for each in (message, more) if each.get(name)]:
            message[name] = "\n".join(texts)
    if calls := [*message.get("tool_calls", []), *more.get("tool_calls", [])]:
        message["tool_calls"] = calls


def _format(body: Mapping[str, Any]) -> dict[str, Any]:
    """The constraint that ``text.format`` asks for; it has the fields of ``response_format.json_schema`` beside its type."""
    text = body.get("text", {})
    form = text.get("format") if isinstance(text, Mapping) else text
    if form is None:
        return {}
    if isinstance(form, Mapping) and form.get("type") == "json_schema":
        form = {"type": "json_schema", "json_schema": form}
    try:
        return constraint_of({"response_format": form})
    except RequestError:
        raise RequestError(
            'text.format must have the type "text", "json_object" or "json_schema", the last with a schema.', "text.format"
        ) from None


def _reasoning(body: Mapping[str, Any]) -> dict[str, Any]:
    reasoning = body.get("reasoning", {})
    if not isinstance(reasoning, Mapping):
        raise RequestError(f"reasoning is {shown(reasoning)}, and it must be an object.", "reasoning")
    effort = reasoning.get("effort")
    if effort not in (None, "none"):
        raise RequestError(
            f"reasoning.effort = {shown(effort)} is not supported: a model reasons as it does; leave it out.", "reasoning.effort"
        )
    return {} if effort is None else {"reasoning": False}


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    """Tools and the choice of one, which lie a level deeper in the runtime's form."""
    tools, choice = body.get("tools", []), body.get("tool_choice")
    if not isinstance(tools, list):
        raise RequestError(f"tools is {shown(tools)}, and it must be a list of functions.", "tools")
    if not tools:
        refuse(body, {"tool_choice": ("none", "auto")})
        return {}
    found: dict[str, Any] = {"tools": [_tool(f"tools[{place}]", tool) for place, tool in enumerate(tools)]}
    match choice:
        case {"type": "function", "name": name}:
            found["tool_choice"] = {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", "mode": mode, "tools": list() as allowed}:
            deeper = [{**each, "function": {"name": each.get("name")}} if isinstance(each, Mapping) else each for each in allowed]
            found["tool_choice"] = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": deeper}}
        case None:
            pass
        case _:
            found["tool_choice"] = choice
    return found | {name: body[name] for name in ("parallel_tool_calls",) if name in body}


def _tool(where: str, tool: Any) -> dict[str, Any]:
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        raise RequestError(f"{where} is {shown(tool)}, and this server has functions of the client alone.", "tools")
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type" and value is not None}}
