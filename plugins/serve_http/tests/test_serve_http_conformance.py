"""LLMasOS's own tests of a server, with each of OpenAI's ways to ask."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import pytest

from llmasos_hookspecs import Endpoint
from llmasos_hookspecs.testing import ServerConformance

from .http_clients import begun, chat_body, streamed, whole


class TestStreamedChat(ServerConformance):
    module = "llmasos_serve_http"
    options: ClassVar[dict[str, Any]] = {"port": 0}

    def ask(self, endpoint: Endpoint, prompt: str, key: str = "") -> str:
        chunks = streamed(endpoint, "/v1/chat/completions", chat_body(prompt), key)
        return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)

    def begin(self, endpoint: Endpoint, prompt: str, key: str = "") -> AbstractContextManager[socket.socket]:
        return begun(endpoint, "/v1/chat/completions", chat_body(prompt, stream=True), key)


class TestWholeChat(ServerConformance):
    module = "llmasos_serve_http"
    options: ClassVar[dict[str, Any]] = {"port": 0}

    def ask(self, endpoint: Endpoint, prompt: str, key: str = "") -> str:
        text: str = whole(endpoint, "/v1/chat/completions", chat_body(prompt), key)["choices"][0]["message"]["content"]
        return text

    def begin(self, endpoint: Endpoint, prompt: str, key: str = "") -> AbstractContextManager[socket.socket]:
        return begun(endpoint, "/v1/chat/completions", chat_body(prompt), key)


@pytest.mark.long  # a stream is sent alike, whatever its parts are
class TestStreamedCompletion(TestStreamedChat):
    def ask(self, endpoint: Endpoint, prompt: str, key: str = "") -> str:
        return "".join(chunk["choices"][0]["text"] for chunk in streamed(endpoint, "/v1/completions", {"prompt": prompt}, key))

    def begin(self, endpoint: Endpoint, prompt: str, key: str = "") -> AbstractContextManager[socket.socket]:
        return begun(endpoint, "/v1/completions", {"prompt": prompt, "stream": True}, key)
