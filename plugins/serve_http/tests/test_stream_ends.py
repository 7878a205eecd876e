"""What the last events of an answer make of its stream, whichever of them come together."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import orjson
import pytest

from llmasos_hookspecs import EngineFailed, ErrorEvent, Event, FinishEvent, Principal, Prompt, TextEvent, TokenPrompt, UsageEvent
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_hookspecs.testing.scripted_runtime import ScriptedAnswer
from llmasos_serve_http.listening import HttpServer

from .http_clients import chat_body

TEXTS: Sequence[Event] = [TextEvent(text=text, tokens=(place,)) for place, text in enumerate(("The ", "otters", " sleep."))]
USAGE = UsageEvent(prompt_tokens=1, cached_tokens=0, generated_tokens=3)
ENDS: dict[str, list[Event]] = {
    "length": [USAGE, FinishEvent(reason="length")],
    "cancelled": [USAGE, FinishEvent(reason="cancelled")],
    "failed": [ErrorEvent(error=EngineFailed("The engine failed; send it again."))],
}


class Batched(ScriptedAnswer):
    def __init__(self, given: Sequence[Sequence[Event]]) -> None:
        super().__init__(0, "default", ())
        self.given = given

    async def batches(self) -> AsyncGenerator[Sequence[Event], None]:
        for batch in self.given:
            await asyncio.sleep(0)
            yield batch
        self.ended.set()


class BatchedRuntime(ScriptedRuntime):
    given: Sequence[Sequence[Event]] = ()

    async def agenerate(
        self, principal: Principal, prompt: Prompt | TokenPrompt, *, model: str | None = None, n: int = 1, **sampling: Any
    ) -> ScriptedAnswer:
        return Batched(self.given)


@pytest.fixture
def runtime() -> BatchedRuntime:
    return BatchedRuntime()


def parts_of(server: HttpServer) -> list[bytes]:
    """The parts of the body of a stream, as the application sends them."""
    parts: list[bytes] = []
    requests = iter([{"type": "http.request", "body": orjson.dumps(chat_body("hi", stream=True))}])

    async def receive() -> dict[str, Any]:
        with contextlib.suppress(StopIteration):
            return next(requests)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200
        parts.append(message.get("body", b""))

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    path = "/v1/chat/completions"
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "scheme": "http", "client": None, "query_string": b""}
    asyncio.run(server._application.gate(scope, receive, send))
    return [part for part in parts if part]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("cuts", [(), (1,), (3,), (1, 2, 3)], ids=str)
def test_all_text_comes_before_the_end(cuts: tuple[int, ...], end: str, start: Callable[..., HttpServer], runtime: BatchedRuntime) -> None:
    """Whether the end comes with the last text or after it; an answer that was cancelled or failed ends with an event of the error."""
    events = [*TEXTS, *ENDS[end]]
    bounds = [0, *cuts, len(events)]
    runtime.given = [events[a:b] for a, b in itertools.pairwise(bounds)]
    parts = parts_of(start())
    chunks = [orjson.loads(line[6:]) for line in b"".join(parts).split(b"\n\n") if line.startswith(b"data: {")]
    texts = [choice["delta"].get("content") or "" for chunk in chunks if "error" not in chunk for choice in chunk["choices"]]
    assert "".join(texts) == "The otters sleep."
    if end == "length":
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert len(parts) == len(runtime.given), "What comes with the end is sent with it."
    else:
        assert chunks[-1]["error"]["code"]
        assert not any(choice["finish_reason"] for chunk in chunks[:-1] for choice in chunk["choices"])
    assert parts[-1].endswith(b"data: [DONE]\n\n")
