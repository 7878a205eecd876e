"""A client of the application without sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx

from llmasos_serve_http.application import Application

from .http_clients import events


class Client:
    """Asks one thing at a time, each on an event loop of its own."""

    def __init__(self, application: Application) -> None:
        self.application = application

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """The whole response to one request."""

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.application.gate)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
                return await client.request(method, path, **more)

        return asyncio.run(asked())

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.ask("POST", path, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def refusal(self, path: str, body: Any, **headers: str) -> tuple[int, Mapping[str, Any]]:
        """Status and error of a request that is refused, in OpenAI's form."""
        answer = self.post(path, body, **headers)
        found = answer.json()
        assert set(found) == {"error"}, found
        assert set(found["error"]) == {"message", "type", "param", "code"}
        return answer.status_code, found["error"]

    def chunks(self, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The chunks of a stream."""
        answer = self.post(path, {**body, "stream": True})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(events(iter(answer.content.decode().split("\n"))))

    def raw(self, path: str, body: bytes, **headers: str) -> httpx.Response:
        shown = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.ask("POST", path, content=body, headers=shown)


def data(answer: httpx.Response) -> Any:
    """The body of an answer that succeeded."""
    assert answer.status_code == 200, answer.text
    return json.loads(answer.content)
