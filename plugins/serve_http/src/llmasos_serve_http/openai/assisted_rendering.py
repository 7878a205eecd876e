"""Responses with calls of tools that run here, as those of a server of the Model Context Protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from llmasos_hookspecs import TaskCall, TextEvent
from llmasos_serve_http.openai.approvals import Approvals, Owner
from llmasos_serve_http.openai.response_rendering import ResponseRendering

#: How tools that run on this server are labelled.
LABEL: Final = "llmasos"


class AssistedRendering(ResponseRendering):
    """One answer with its calls. A whole one is what the events make, so that both are equal."""

    def __init__(self, call_id: str, body: Mapping[str, Any], approvals: Approvals, owner: Owner, requests: Mapping[str, str]) -> None:
        super().__init__(call_id, body)
        self._approvals = approvals
        self._owner = owner
        self._requests = requests
        self._running: dict[str, int] = {}  # calls that have begun -> their place among the items
        self._said = False

    def piece(self, event: Any) -> bytes:
        self._said = self._said or bool(getattr(event, "text", ""))
        return super().piece(event)

    def call(self, event: TaskCall) -> bytes:
        """What happens with a call."""
        if event.kind == "asked":
            return self._asked(event)
        begun = b"" if event.id in self._running else self._called(event)
        return begun if event.kind == "called" else begun + self._returned(event)

    def text_of(self, output: Mapping[str, Any]) -> bytes:
        """The text of the task's output, where it has told none on its way."""
        text = output.get("text") or ""
        waits = any(item["type"] == "mcp_approval_request" for item in self._output)
        return b"" if self._said or waits else self.piece(TextEvent(text=text))

    def _called(self, event: TaskCall) -> bytes:
        """A call begins. Its arguments come as one piece: they have passed the guards as a whole by then."""
        done = self._done("completed")
        arguments = orjson.dumps(event.arguments).decode()
        told = {"output": None, "error": None, "approval_request_id": self._requests.get(event.id)}
        item = self._added("mcp", {"type": "mcp_call", "status": "in_progress", **_tool(event, ""), **told})
        place = self._place()
        self._running[event.id] = place["output_index"]
        begun = self._event("response.mcp_call.in_progress", **place)
        begun += self._event("response.mcp_call_arguments.delta", **place, delta=arguments)
        self._output[-1]["arguments"] = arguments
        return done + item + begun + self._event("response.mcp_call_arguments.done", **place, arguments=arguments)

    def _returned(self, event: TaskCall) -> bytes:
        place = self._running[event.id]
        item = self._output[place]
        failed = event.kind == "failed"
        item["status"] = "failed" if failed else "completed"
        item["error" if failed else "output"] = _error(event.text) if failed else event.text
        ended = self._event(f"response.mcp_call.{item['status']}", item_id=item["id"], output_index=place)
        return ended + self._event("response.output_item.done", output_index=place, item=item)

    def _asked(self, event: TaskCall) -> bytes:
        """A call waits to be approved."""
        done = self._done("completed")
        identity = self._approvals.id_of(self._owner, event.id, event.tool, event.arguments)
        arguments = orjson.dumps(event.arguments).decode()
        added = self._added("mcpr", {"type": "mcp_approval_request", **_tool(event, arguments)}, identity)
        return done + added + self._event("response.output_item.done", output_index=len(self._output) - 1, item=self._output[-1])

    def _added(self, prefix: str, item: Mapping[str, Any], identity: str = "") -> bytes:
        self._output.append({"id": identity or f"{prefix}_{self._call_id}{len(self._output)}", **item})
        return self._event("response.output_item.added", output_index=len(self._output) - 1, item=self._output[-1])


def _tool(event: TaskCall, arguments: str) -> dict[str, Any]:
    return {"server_label": LABEL, "name": event.tool, "arguments": arguments}


def _error(sentence: str) -> dict[str, Any]:
    return {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": sentence}]}
