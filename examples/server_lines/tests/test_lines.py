"""The server passes the conformance kit, and serves a pipeline."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llmasos_hookspecs import Endpoint
from llmasos_hookspecs.testing import ServerConformance


@contextlib.contextmanager
def sent(endpoint: Endpoint, **line: Any) -> Iterator[socket.socket]:
    with socket.create_connection((endpoint.host, endpoint.port), timeout=30) as connection:
        connection.sendall(json.dumps(line).encode() + b"\n")
        yield connection


def answered(endpoint: Endpoint, **line: Any) -> tuple[str, dict[str, Any]]:
    """The text of an answer, and its last line."""
    text = ""
    with sent(endpoint, **line) as connection, connection.makefile("rb") as lines:
        for each in lines:
            found = json.loads(each)
            if "text" not in found:
                return text, found
            text += found["text"]
    raise ConnectionError("The server closed the connection in the middle of an answer.")


class TestConformance(ServerConformance):
    module = "server_lines"
    options: ClassVar[dict[str, Any]] = {"port": 0}

    def ask(self, endpoint: Endpoint, prompt: str, key: str = "") -> str:
        text, last = answered(endpoint, prompt=prompt, key=key)
        if "error" in last:
            raise RuntimeError(last["error"])
        return text

    def begin(self, endpoint: Endpoint, prompt: str, key: str = "") -> contextlib.AbstractContextManager[socket.socket]:
        return sent(endpoint, prompt=prompt, key=key)


def test_it_serves_a_pipeline(tmp_path: Path) -> None:
    """Through ``[[server]]``: the same text as in this process, the tokens that it took, and one sentence for a wrong request."""
    llmasos = pytest.importorskip("llmasos")
    from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

    tiny_checkpoint("llama", folder=tmp_path / "model")
    config = {"model": {"source": str(tmp_path / "model")}, "server": [{"use": "lines", "port": 0}]}
    with llmasos.Pipeline.from_config(config) as pipeline, llmasos.Servers(pipeline) as servers:
        (endpoint,) = servers.endpoints
        whole = pipeline.model.generate("otters", max_new_tokens=8)
        assert answered(endpoint, prompt="otters", max_new_tokens=8) == (
            whole.text,
            {"finish": whole.finish_reason, "tokens": len(whole.tokens)},
        )
        _, last = answered(endpoint, prompt="otters", tenant="somebody else")
        assert "tenant" in last["error"]
        assert "prompt" in answered(endpoint, prompt=7)[1]["error"]
