"""``make bench-serve``: the HTTP server against its own runtime, and against llama.cpp's server, in one run.

A client in a process of its own asks for 1, 8, 32 and 64 streams at once. The runtime without HTTP is measured in turn with it, in the
server's process, and so is llama-server, with as many slots, where ``--llama-server`` names it; ``make llama-server`` builds it. A figure
is that of the fastest of its rounds, processor time the median of all; only ratios within a run are comparable. Then the wake-up of an
event loop that does nothing is measured: on some machines it takes more than several tokens may. Then one stream at a time is asked for
its first token alone, in turn with the runtime. At last requests come ten times as fast as the server answered them at its best, whether
they are answered or not: what throughput is left, also of that with as many streams as there are slots and no excess, and how fast the
excess is refused. The client has no cores of its own, so what it takes is told too; ``--client=locust`` asks by locust, which is not
ours, and takes more.

With ``--placement`` it is the server with two replicas on that placement against the server with two on the placement ``local``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from benchmarks.serving.figures import Run, as_json, best, first_token, sentence, table
from benchmarks.serving.overload import overloaded
from benchmarks.serving.work import Work
from llmasos.system.sources import resolve

_OURS, _RUNTIME, _LLAMA = "llmasos serve", "its runtime, in process", "llama-server"
#: Seconds in which a server must have loaded its model.
_START = 300.0
#: Replicas where placements are compared, and the options of a placement that has to be told where to run.
_REPLICAS, _PLACEMENT_OPTIONS = 2, {"ray": {"address": "local"}}
#: Seconds between two wake-ups of an event loop that are measured.
_WAKE_EVERY = 0.04
#: Streams of each count in a round.
_AT_LEAST = 8
#: Context of each stream beside the tokens of its answer.
_PROMPT = 256
#: Number of the first prompt: all numbers have as many digits, so all prompts have as many tokens.
_FIRST = 100_000
#: Modules beside this one that are clients, by what they are called.
_CLIENTS = {"own": "client", "locust": "locust_client"}

Ask = Callable[[Work], Run]


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(
        prog="make bench-serve ARGS=...", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 8, 32, 64])
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument(
        "--stream-every", type=float, help="seconds between two parts of a stream; the server's own default where not given"
    )
    parser.add_argument("--characters", type=int, default=300, help="of each prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2", help="a reference; llama-server reads it if it is a GGUF file")
    parser.add_argument("--loader", default="onnx")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama-server", type=Path, help="the program, to be compared with")
    parser.add_argument("--placement", help="of two replicas, to be compared with the placement local in place of all else")
    parser.add_argument("--client", choices=_CLIENTS, default="own", help="what asks")
    parser.add_argument("--overload", type=int, default=2, metavar="ROUNDS", help="of overload, each after one of kept streams; 0: none")
    parser.add_argument("--first-tokens", type=int, default=8, metavar="ROUNDS", help="of runs for one stream's first token; 0: none")
    parser.add_argument("--output", type=Path, default=Path("bench-results") / "serve.json")
    arguments = parser.parse_args()
    slots = max(arguments.streams)

    def work(requests: int, first: int, **more: Any) -> Work:
        return Work(requests=requests, tokens=arguments.tokens, first=first, characters=arguments.characters, **more)

    def short(requests: int, first: int) -> Work:
        """Of prompts that no other work has: what takes long beside a first token's way only adds to the noise."""
        return Work(requests=requests, tokens=2, first=first + 2 * _FIRST, characters=60)

    with contextlib.ExitStack() as running:
        ways: dict[str, Ask] = {}
        if arguments.placement:
            for name in ("local", arguments.placement):
                placed = {"use": name, **_PLACEMENT_OPTIONS.get(name, {})}
                each = running.enter_context(served(arguments, slots, placed))
                ways[f"{_OURS}, placement {name}"] = each.over_http
        else:
            ours = running.enter_context(served(arguments, slots))
            ways |= {_RUNTIME: ours.in_process, _OURS: ours.over_http}
        if not arguments.placement and arguments.llama_server is not None:
            url = running.enter_context(llama_server(arguments, slots))
            ways[_LLAMA] = lambda asked: ask(url, asked, arguments.client)
        runs = measure(ways, work, arguments.streams, arguments.rounds)
        print(f"{table(runs)}\n\n{sentence(runs)}")
        figures: dict[str, Any] = {"arguments": {name: str(value) for name, value in vars(arguments).items()}, "runs": as_json(runs)}
        if not arguments.placement:
            figures["wake_up"] = idle, busy = ours.wake_up(work(1, 3 * _FIRST))
            print(
                f"An event loop that does nothing takes {1e6 * busy:.0f} us of processor time for each wake-up while the engine computes,"
                f" and {1e6 * idle:.0f} where nothing does."
            )
        if arguments.first_tokens:
            firsts = measure(dict(list(ways.items())[:2]), short, [1], arguments.first_tokens)
            print(first_token(firsts))
            figures["first_tokens"] = as_json(firsts)
        if arguments.overload and not arguments.placement:
            peak = max(best(found).rate for found in runs[_OURS].values())
            over = overloaded(ours.over_http, work(0, 2 * _FIRST, slots=slots), peak, arguments.overload)
            print(f"\n{over.sentence()}")
            figures["overload"] = attrs.asdict(over)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    print(f"\nWritten to {arguments.output}.")


def measure(ways: dict[str, Ask], work: Callable[[int, int], Work], streams: list[int], rounds: int) -> dict[str, dict[int, list[Run]]]:
    """Every way in turn, round after round; the first round of all only warms up. Few streams are over soon, and are asked for again."""
    runs: dict[str, dict[int, list[Run]]] = {name: {count: [] for count in streams} for name in ways}
    first = _FIRST
    often = [count for count in streams for _ in range(max(1, _AT_LEAST // count))]
    for number in range(rounds + 1):
        for turn, count in enumerate(often if number else streams[:1], number):
            for name, each in list(ways.items())[:: -1 if turn % 2 else 1]:
                run = each(work(count, first))
                first += count
                if run.failed or run.refused:
                    sys.exit(f"{name}: {run.failed} of {count} streams failed, and {len(run.refused)} were refused.")
                if number:
                    runs[name][count].append(run)
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return runs


def ask(url: str, work: Work, client: str) -> Run:
    """What a client's process saw."""
    command = [sys.executable, "-m", f"benchmarks.serving.{_CLIENTS[client]}", url, json.dumps(attrs.asdict(work))]
    return Run(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


@attrs.frozen
class Ours:
    """The process with the pipeline and its server. ``client``: what asks it."""

    process: subprocess.Popen[str]
    url: str
    client: str

    def in_process(self, work: Work) -> Run:
        """The streams without HTTP."""
        return Run(**self._order(do="in_process", work=attrs.asdict(work)))

    def over_http(self, work: Work) -> Run:
        """The streams over HTTP, with the processor time that they took beside the engine."""
        before = self._order(do="cpu")
        run = ask(self.url, work, self.client)
        return attrs.evolve(run, cpu=self._order(do="cpu") - before)

    def wake_up(self, work: Work) -> tuple[float, float]:
        """Seconds of processor time that a wake-up of an event loop takes: where nothing computes, and while the engine does this work."""
        idle, busy = self._order(do="wake", work=attrs.asdict(work), every=_WAKE_EVERY)
        return idle, busy

    def _order(self, **order: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


@contextlib.contextmanager
def served(arguments: argparse.Namespace, slots: int, placement: dict[str, Any] | None = None) -> Iterator[Ours]:
    """Our server, with ``slots`` sequences at once and as many that wait; in replicas on ``placement``, which share the threads."""
    replicas = 1 if placement is None else _REPLICAS
    pace = {} if arguments.stream_every is None else {"stream_every": arguments.stream_every}
    config = {
        "model": {"source": arguments.model, "context_length": _PROMPT + arguments.tokens, "replicas": replicas},
        "placement": placement or {},
        "loader": {"use": arguments.loader, "threads": max(1, arguments.threads // replicas)},
        "scheduler": {"use": "fifo", "max_sequences": slots, "max_queue": slots},
        "resources": {"max_waiting": 10_000},
        "server": [{"use": "http", "port": 0, "temperature": 0.0, **pace}],
    }
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.serving.ours", json.dumps(config)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Ours(process, json.loads(process.stdout.readline())["url"], arguments.client)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def llama_server(arguments: argparse.Namespace, slots: int) -> Iterator[str]:
    """llama.cpp's server, with as many slots and threads."""
    path = resolve(arguments.model).path
    model = path if path.is_file() else next(path.rglob("*.gguf"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "-m": model, "--host": "127.0.0.1", "--port": port, "-np": slots, "-c": slots * (_PROMPT + arguments.tokens),
        "-t": arguments.threads, "-tb": arguments.threads,
    }  # fmt: skip
    command = [str(arguments.llama_server), *(str(each) for pair in options.items() for each in pair), "--no-webui"]
    url = f"http://127.0.0.1:{port}"
    process = _started(command, url)
    if process is None:
        # On a processor with AMX version 0.3.36 is ended by a signal where it multiplies weights that it packed again.
        print("llama-server did not start, and is asked to leave the weights packed as they are (--no-repack).")
        process = _started([*command, "--no-repack"], url)
    if process is None:
        sys.exit(f"{arguments.llama_server} did not start.")
    try:
        yield url
    finally:
        process.terminate()
        process.wait()


def _started(command: list[str], url: str) -> subprocess.Popen[bytes] | None:
    """A server that says that it is healthy; None where it ended or took too long."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + _START
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            if answer.status == 200:
                return process
        time.sleep(0.2)
    process.kill()
    process.wait()
    return None


if __name__ == "__main__":
    main()
