"""Bodies of Anthropic's messages, as requests (https://docs.anthropic.com/en/api/messages)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from llmasos_hookspecs import RequestError
from llmasos_serve_http.anthropic.tools import tools_of
from llmasos_serve_http.asked import Asked
from llmasos_serve_http.fields import flag, model_of, refuse, shown
from llmasos_serve_http.images import of_base64

FIELDS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop_sequences": "stop",
    "max_tokens": "max_new_tokens",
}
REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {"mcp_servers": ([],), "container": (), "output_format": ()}
#: The blocks that are read of each role; reasoning that Anthropic hid tells nothing.
_BLOCKS: Final = {"user": ("text", "image", "tool_result"), "assistant": ("text", "tool_use", "thinking", "redacted_thinking")}
#: Where none is named, as Anthropic has it.
_TEMPERATURE: Final = 1.0


def asked_of(body: Mapping[str, Any]) -> Asked:
    """The request that a body asks for. Raises ``RequestError``."""
    refuse(body, REFUSED)
    if "max_tokens" not in body:
        raise RequestError("max_tokens is missing; say how many tokens the answer may have.", "max_new_tokens")
    sampling = {argument: body[field] for field, argument in FIELDS.items() if field in body}
    sampling.setdefault("temperature", _TEMPERATURE)
    return Asked(prompt=messages_of(body), model=model_of(body), sampling=sampling | tools_of(body), stream=flag(body, "stream"))


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The system's text and the messages, as chat templates know them. Raises ``RequestError``."""
    messages = body.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise RequestError("messages must be a list of at least one message.", "messages")
    found = [each for place, message in enumerate(messages) for each in _messages(f"messages[{place}]", message)]
    system = _text(body["system"], "system") if "system" in body else ""
    return [{"role": "system", "content": system}, *found] if system else found


def _messages(where: str, message: Any) -> Iterator[dict[str, Any]]:
    """One message; results of tools, which are blocks of the user's, become messages of their own before it."""
    if not isinstance(message, Mapping) or message.get("role") not in ("user", "assistant"):
        raise RequestError(f"{where} must be an object with the role user or assistant.", where)
    content = message.get("content")
    if isinstance(content, str) or not isinstance(content, Sequence):
        yield {"role": message["role"], "content": _text(content, f"{where}.content")}
        return
    blocks: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in _BLOCKS[message["role"]]}
    for block in content:
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind not in blocks:
            raise RequestError(f"{where}.content holds a block that is neither text nor image.", f"{where}.content")
        blocks[kind].append(block)
    results = blocks.get("tool_result", [])
    for block in results:
        text = _text(block.get("content") or "", f"{where}.content")
        yield {"role": "tool", "tool_call_id": _string(block, "tool_use_id", where), "content": text}
    images = blocks.get("image", [])
    if results and not (blocks["text"] or images):
        return
    found: dict[str, Any] = {"role": message["role"]}
    if images:
        found["content"] = [_part(block, f"{where}.content") for block in content if block["type"] in ("text", "image")]
    else:
        found["content"] = _text(blocks["text"], f"{where}.content")
    if thinking := blocks.get("thinking"):
        found["reasoning_content"] = "\n".join(_string(block, "thinking", where) for block in thinking)
    if calls := blocks.get("tool_use"):
        found["tool_calls"] = [_call(block, where) for block in calls]
    yield found


def _part(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A block of text or of an image as a part of a message."""
    if block["type"] == "text":
        return {"type": "text", "text": _text([block], where)}
    match block.get("source"):
        case {"type": "base64", "data": data, "media_type": str() as kind}:
            return of_base64(data, where, kind)
    raise RequestError(f"{where} holds an image whose source is not base64 with a media_type; send it so, since nothing is fetched.", where)


def _call(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = {"name": _string(block, "name", where), "arguments": block.get("input") or {}}
    return {"id": _string(block, "id", where), "type": "function", "function": function}


def _string(block: Mapping[str, Any], name: str, where: str) -> str:
    text = block.get(name)
    if not isinstance(text, str):
        raise RequestError(f"{where}.content holds a block whose {name} is {shown(text)}, and it must be a text.", f"{where}.content")
    return text


def _text(content: Any, name: str) -> str:
    """A text, or text blocks joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise RequestError(f"{name} is {shown(content)}, and it must be a text or a list of text blocks.", name)
    texts = []
    for block in content:
        if not isinstance(block, Mapping) or block.get("type") != "text" or not isinstance(block.get("text"), str):
            raise RequestError(f"{name} holds a block that is no text, and this server reads text alone.", name)
        texts.append(block["text"])
    return "\n".join(texts)
