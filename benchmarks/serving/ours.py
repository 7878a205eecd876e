"""A pipeline that is served, in a process of its own, which takes orders as lines of JSON.

Its orders: ``in_process`` runs the same streams through the runtime without HTTP; ``cpu`` tells the seconds of processor time that the
server has used beside its engine: the engine's loop, the native threads of its library and the thread that takes these orders do not
count. ``wake`` tells what an event loop that does nothing takes for each time that it wakes up.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import attrs

import llmasos
from benchmarks.serving.figures import Run
from benchmarks.serving.work import Work
from llmasos_engine.heap import freeze_heap
from llmasos_hookspecs import Credentials, Runtime, TextEvent, UsageEvent

_LOOP = "llmasos-default"
#: Wake-ups that are measured.
_WAKES = 50


def main() -> None:
    """Serve until the orders end."""
    config = json.loads(sys.argv[1])
    with llmasos.Pipeline.from_config(config) as pipeline:
        servers = llmasos.Servers(pipeline)
        freeze_heap()  # as `llmasos serve` does
        pipeline.load()
        with servers:
            print(json.dumps({"url": servers.endpoints[0].url}), flush=True)
            for line in sys.stdin:
                order = json.loads(line)
                if order["do"] == "cpu":
                    print(json.dumps(beside_the_engine() - time.thread_time()), flush=True)
                elif order["do"] == "wake":
                    idle = asyncio.run(wake_up(order["every"]))
                    busy = asyncio.run(wakes_beside(servers.runtime, Work(**order["work"]), order["every"]))
                    print(json.dumps([idle, busy]), flush=True)
                else:
                    run = asyncio.run(in_process(servers.runtime, Work(**order["work"])))
                    print(json.dumps(attrs.asdict(run)), flush=True)


def beside_the_engine() -> float:
    """Seconds of processor time of the process, without those of the engine."""
    threads = {thread.native_id: thread.name for thread in threading.enumerate()}
    engine = sum(
        _nanoseconds(task)
        for task in Path("/proc/self/task").iterdir()
        if threads.get(int(task.name), _LOOP) == _LOOP  # those that Python does not know are the library's
    )
    return time.process_time() - engine / 1e9


async def wake_up(every: float) -> float:
    """Seconds of processor time that this thread's event loop takes for a timer that does nothing, the mean of ``_WAKES``."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    began = time.thread_time()

    def wake(left: int) -> None:
        if left:
            loop.call_later(every, wake, left - 1)
        else:
            over.set_result(None)

    wake(_WAKES)
    await over
    return (time.thread_time() - began) / _WAKES


async def wakes_beside(runtime: Runtime, work: Work, every: float) -> float:
    """``wake_up`` on a thread of its own, while the engine computes this work again and again."""
    waking = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(wake_up(every))))
    while not waking.done():
        await in_process(runtime, work)
    return waking.result()


def _nanoseconds(task: Path) -> int:
    """Processor time of a thread; none of one that has ended meanwhile, which is no engine's."""
    try:
        return int((task / "schedstat").read_text().split()[0])
    except OSError:
        return 0


async def in_process(runtime: Runtime, work: Work) -> Run:
    """All answers at once."""
    principal = runtime.authenticate(Credentials())
    sampling: dict[str, Any] = {"max_new_tokens": work.tokens, "ignore_eos": True}
    prompts, starts, counts = work.prompts(), list[float](), list[int]()
    began, cpu = time.perf_counter(), beside_the_engine()

    async def ask(prompt: str) -> None:
        started = False
        async for event in await runtime.agenerate(principal, prompt, **sampling):
            if isinstance(event, UsageEvent):
                counts.append(event.generated_tokens)
            elif isinstance(event, TextEvent) and event.text and not started:
                started = True
                starts.append(time.perf_counter() - began)

    await asyncio.gather(*map(ask, prompts))
    return Run(seconds=time.perf_counter() - began, tokens=sum(counts), first=starts, cpu=beside_the_engine() - cpu)


if __name__ == "__main__":
    main()
