"""Clients of the server, for its tests."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from llmasos_hookspecs import Endpoint


def shown(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def chat_body(prompt: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], **more}


def whole(endpoint: Endpoint, path: str, body: dict[str, Any], key: str = "") -> dict[str, Any]:
    """The body of an answer. Raises ``httpx.HTTPStatusError``."""
    answer = httpx.post(f"{endpoint.url}{path}", json=body, headers=shown(key), timeout=120)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events of a stream until its end. Raises ``RuntimeError`` for an error event, ``EOFError`` where the end is missing."""
    for line in lines:
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            found = json.loads(line.removeprefix("data: "))
            if "error" in found:
                raise RuntimeError(found["error"]["message"])
            yield found
    raise EOFError("The stream ended without [DONE].")


def streamed(endpoint: Endpoint, path: str, body: dict[str, Any], key: str = "") -> list[dict[str, Any]]:
    """The chunks of an answer."""
    with httpx.stream("POST", f"{endpoint.url}{path}", json={**body, "stream": True}, headers=shown(key), timeout=120) as answer:
        answer.raise_for_status()
        return list(events(_lines(answer)))


def begun(endpoint: Endpoint, path: str, body: dict[str, Any], key: str = "") -> socket.socket:
    """A connection on which a request was sent, and nothing is read."""
    connection = socket.create_connection((endpoint.host, endpoint.port), timeout=120)
    encoded = json.dumps(body).encode()
    head = [
        f"POST {path} HTTP/1.1",
        f"Host: {endpoint.host}:{endpoint.port}",
        "Content-Type: application/json",
        f"Content-Length: {len(encoded)}",
    ]
    head += [f"{name}: {value}" for name, value in shown(key).items()]
    connection.sendall("\r\n".join([*head, "", ""]).encode() + encoded)
    return connection


def until(true: Callable[[], object]) -> None:
    """Wait until something is so."""
    for _ in range(12000):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("It did not come to be within 120 seconds.")


def _lines(answer: httpx.Response) -> Iterator[str]:
    """Lines that end with LF; ``iter_lines`` would end them at every line end of Unicode."""
    rest = b""
    for part in answer.iter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        yield from (line.decode() for line in lines)
