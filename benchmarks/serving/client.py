"""A client in a process of its own: asks a server for many streams at once, and prints what it saw as JSON.

    python -m benchmarks.serving.client URL STREAMS TOKENS FIRST CHARACTERS [RATE]

It speaks HTTP by hand over asyncio's streams: a client library would take more of the machine than the server does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import attrs

from benchmarks.serving.figures import Run
from benchmarks.serving.prompts import prompts


@attrs.define
class Seen:
    """What came of one request.

    Attributes:
        came: when each piece of text was there, in order.
    """

    began: float = 0.0
    status: int = 0
    ended: float = 0.0
    tokens: int = 0
    came: list[float] = attrs.field(factory=list)

    def tokens_between(self, start: float, end: float) -> float:
        """Its tokens that came in that time; each piece has as many."""
        return self.tokens * sum(start <= moment < end for moment in self.came) / max(1, len(self.came))


async def main(url: str, streams: int, tokens: int, first: int, characters: int, rate: float = 0.0) -> Run:
    """Ask for ``streams`` answers of ``tokens`` tokens: all at once, or ``rate`` in each second, whatever is answered meanwhile."""
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port or 80
    assert host is not None
    began = time.perf_counter()

    async def come(place: int, text: str) -> Seen:
        await asyncio.sleep(place / rate if rate else 0.0)
        return await ask(host, port, text, tokens)

    found = await asyncio.gather(*(come(place, text) for place, text in enumerate(prompts(streams, first, characters))))
    run = summed(found, began)
    if rate:
        return attrs.evolve(
            run, **overload(found), total=run.seconds, late=[each.began - began - place / rate for place, each in enumerate(found)]
        )
    return run


def summed(found: Sequence[Seen], began: float) -> Run:
    """All of it, from the first request to the last answer."""
    answered = [each for each in found if each.status == 200]
    return Run(
        seconds=max((each.ended for each in answered), default=began) - began,
        tokens=sum(each.tokens for each in answered),
        first=[each.came[0] - each.began for each in answered if each.came],
        refused=[each.ended - each.began for each in found if each.status == 429],
        failed=sum(each.status not in (200, 429) for each in found),
        client_cpu=time.process_time(),
    )


def overload(found: Sequence[Seen]) -> dict[str, Any]:
    """Seconds and tokens while more came than could be answered: from the first refusal to the last request. What is before, while the
    queue fills, and after, while ever fewer streams are left, is no overload."""
    start = min((each.ended for each in found if each.status == 429), default=found[0].began)
    end = found[-1].began
    tokens = sum(each.tokens_between(start, end) for each in found if each.status == 200)
    return {"seconds": max(0.0, end - start), "tokens": round(tokens)}


async def ask(host: str, port: int, prompt: str, tokens: int) -> Seen:
    """One completion as a stream."""
    fields = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True, "cache_prompt": False}
    body = json.dumps(fields | {"stream_options": {"include_usage": True}}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    seen = Seen(began=time.perf_counter())
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(head.encode() + body)
        seen.status = int((await reader.readline()).split()[1])
        while seen.status == 200:
            line = await reader.readline()
            if not line:
                seen.status = 0  # it ended without its end
            elif line.startswith(b"data: [DONE]"):
                break
            elif line.startswith(b"data: "):
                chunk = json.loads(line[6:])
                if any(choice.get("text") for choice in chunk.get("choices", ())):
                    seen.came.append(time.perf_counter())
                seen.tokens = (chunk.get("usage") or {}).get("completion_tokens", seen.tokens)
    finally:
        writer.close()
    seen.ended = time.perf_counter()
    return seen


if __name__ == "__main__":
    address, *numbers = sys.argv[1:]
    print(json.dumps(attrs.asdict(asyncio.run(main(address, *map(int, numbers[:4]), *map(float, numbers[4:]))))))
