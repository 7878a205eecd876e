"""Bodies that are wrong in every way: each is refused with a status of the client's, and leaves the process as it was."""

from __future__ import annotations

import gc
import http.client
import json
import os
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options

from .http_clients import chat_body, until, whole

#: `make test-long` sends ten thousand.
COUNT = 10_000 if settings.default.max_examples >= 500 else 400

#: Bodies that are answered, and a value of one of their fields for which they are refused.
RIGHT: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "/v1/chat/completions": (chat_body("hi", n=1), {"messages": [7, "", {}, [], [7], [[]]], "stream": ["x", 0], "n": [0, "1", 129]}),
    "/v1/completions": (
        {"prompt": "hi", "echo": False},
        {"prompt": [7, {}, [], ["a", 7], [[]]], "echo": ["x"], "logprobs": [6, -1, "x"], "suffix": ["x"]},
    ),
    "/v1/embeddings": ({"input": "hi"}, {"input": [7, [], [""], {}, [[]]], "encoding_format": ["hex", 7], "dimensions": ["3", 0]}),
    "/v1/rerank": ({"query": "a", "documents": ["b"]}, {"query": [7, ""], "documents": [7, [], [""]], "top_n": [0, "1"]}),
    "/v1/messages": (chat_body("hi", max_tokens=3), {"messages": [7, [{"role": "system", "content": "x"}]], "system": [7, [{}]]}),
    "/api/chat": (chat_body("hi"), {"messages": [7, [7]], "options": [7, []], "format": ["xml", 7], "think": ["x", 7]}),
    "/api/generate": ({"prompt": "hi"}, {"prompt": [7, []], "system": [7], "raw": ["yes"], "images": [[7], "x", {"a": 1}]}),
    "/tokenize": ({"prompt": "hi"}, {"prompt": [7, []], "messages": [[]], "model": [7, {}]}),
    "/detokenize": ({"tokens": [1]}, {"tokens": [7, "x", [-1], ["x"], {}]}),
    "/v1/tasks/repeat": ({"inputs": {"text": "hi"}}, {"inputs": [7, [], "x", {"words": 1}], "model": [7]}),
}


def malformed(chance: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
    """What is wrong, a path, a body and its headers."""
    path = chance.choice(list(RIGHT))
    fields, wrong = RIGHT[path]
    text = json.dumps(fields).encode()
    place = chance.randrange(1, len(text))
    what = chance.choice(("cut", "byte", "trailing", "no object", "value", "deep", "type", "empty", "nan"))
    headers = {"content-type": "application/json"}
    match what:
        case "cut":
            text = text[:place]
        case "byte":
            text = text[:place] + bytes([chance.choice((0, 1, 0x1F, 0x80, 0xC0, 0xFF))]) + text[place:]
        case "trailing":
            text += chance.choice((b"}", b"{}", b",", b"x", text))
        case "no object":
            text = json.dumps(chance.choice((None, True, 7, "x", [], [fields]))).encode()
        case "value":
            name = chance.choice(list(wrong))
            text = json.dumps({**fields, name: chance.choice(wrong[name])}).encode()
        case "deep":
            text = text[:1] + b'"a":' + b"[" * chance.randrange(2000, 20_000) + text[1:]
        case "type":
            headers = {
                "content-type": chance.choice(("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"))
            }
        case "empty":
            text = chance.choice((b"", b" ", b"\n"))
        case "nan":
            text = text[:1] + b'"a":' + chance.choice((b"NaN", b"Infinity", b"-", b"01", b"1e", b"'x'")) + b"," + text[1:]
    return what, path, text, headers


def state() -> tuple[Counter[str], int]:
    """What a leak would add to: threads by name, without those of the pool, which begins them by and by, and open files."""
    threads = Counter(thread.name for thread in threading.enumerate() if not thread.name.startswith("llmasos-http_"))
    return threads, len(list(Path("/proc/self/fd").iterdir())) if os.path.isdir("/proc/self/fd") else 0


def alive() -> tuple[int, int]:
    """How many objects there are of the server's own classes, and of all."""
    gc.collect()
    found = gc.get_objects()
    return sum(type(each).__module__.startswith("llmasos_serve_http") for each in found), len(found)


@pytest.mark.parametrize("seed", [1])
def test_malformed_bodies_are_refused_and_leave_the_process_as_it_was(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Over one connection, which stays usable; nothing is logged, and no thread, file, request or object is left."""
    server = HttpServer(ScriptedRuntime(), Options(port=0))
    server.start()
    endpoint = server.endpoints[0]
    chance = random.Random(seed)
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=30)

    def send(count: int) -> None:
        for _ in range(count):
            what, path, body, headers = malformed(chance)
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            told = answer.read()
            assert 400 <= answer.status < 500, (what, path, body[:200], answer.status, told)
            assert json.loads(told)["error"], (what, path, body[:200])

    try:
        send(COUNT // 4)  # fills pools and caches
        before, (own, objects) = state(), alive()
        grown = list[int]()
        # What every request leaves is left by each batch of them. Threads of the pool, timers that asyncio clears by and by, and types of
        # values that abstract classes remember are left by some.
        while len(grown) < 3 or (min(grown) > COUNT // 16 and len(grown) < 20):
            send(COUNT // 4)
            until(lambda: alive()[0] - own <= 3)  # nothing that was made for requests is kept; the last one's answer arrives before it ends
            _, now = alive()
            grown.append(now - objects)
            objects = now
        assert min(grown) <= COUNT // 16, grown
        threads, files = state()
        assert not threads - before[0]  # a thread or file that was there before may end meanwhile
        assert files <= before[1]
        assert whole(endpoint, "/v1/chat/completions", chat_body("hi"))["choices"][0]["message"]["content"] == "hi"
        until(lambda: server._application.gate.active == 0)  # an answer arrives before its request ends
        assert caplog.messages == []
    finally:
        connection.close()
        server.stop()
