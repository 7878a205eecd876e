"""``llmasos bench`` measures what was asked, each composition in turn."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from benchmarks.serving import figures
from benchmarks.serving.client import receive
from benchmarks.serving.overload import overloaded
from benchmarks.serving.seen import Seen, seen_in, steady
from benchmarks.serving.work import Work

from llmasos_hookspecs.testing import tiny_checkpoint

from .conftest import Run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Hugging Face folder with a random Llama that speaks in bytes."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint(folder=folder, max_position_embeddings=1024)
    return str(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, new_home: Callable[[Path], Path]) -> Path:
    """``LLMASOS_HOME`` of all commands here, so that an engine is built once."""
    return new_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def cli(llmasos_cli: Run, home: Path) -> Run:
    return lambda *arguments: llmasos_cli(*arguments, LLMASOS_HOME=str(home))


def test_bench_gives_figures_for_each_number_of_requests(cli: Run, tiny: str) -> None:
    """By JSON, with the loader's label."""
    asked = ("--batch", "1", "--batch", "3", "--prompt-tokens", "40", "--new-tokens", "5", "--rounds", "2")
    done = cli("bench", tiny, "--loader", "onnx", *asked, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["batch"], row["new_tokens"], row["rounds"]) for row in rows] == [(1, 5, 2), (3, 5, 2)]
    for row in rows:
        assert "onnx" in row["loader"]
        assert 30 <= row["prompt_tokens"] <= 50
        assert row["ttft"] > 0
        assert row["decode"] > 0
        assert row["prefill"] * row["ttft"] / row["batch"] / row["prompt_tokens"] == pytest.approx(1)


def test_bench_shows_a_table_for_people(cli: Run, tiny: str) -> None:
    """A line for each composition and number of requests."""
    done = cli("bench", tiny, "--loader", "onnx", "--batch", "2", "--prompt-tokens", "16", "--new-tokens", "2", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    head, row = done.stdout.splitlines()
    assert head.split("\t") == ["model", "loader", "dtype", "requests", "first token s", "prefill tok/s", "decode tok/s"]
    assert row.split("\t")[3] == "2"


def test_a_prompt_that_does_not_fit_is_one_sentence(cli: Run, tiny: str) -> None:
    """And wrong use."""
    done = cli("bench", tiny, "--loader", "onnx", "--prompt-tokens", "2000", "--rounds", "1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "context" in done.stderr


def test_the_throughput_while_slots_are_taken_is_that_of_whole_rounds() -> None:
    """From the end of as many answers as there are slots to that of a multiple of them, the last one before the last request was sent."""
    ends = [4.0, 3.0, 6.0, 7.0, 9.0, 11.0, 12.0]  # not in the order in which they were asked for; two slots
    answers = [Seen(began=0.0, status=200, ended=end, tokens=10 + place) for place, end in enumerate(ends)]
    refused = [Seen(began=began, status=429, ended=began + 0.1) for began in (1.0, 9.5)]
    assert steady([*answers, *refused], 2) == (3.0, 12 + 13)
    assert steady([*answers, Seen(began=11.5, status=429, ended=11.6)], 2) == (7.0, 12 + 13 + 14 + 15)
    assert steady(answers, 2) == (0.0, 0), "the last request was sent before there was a round"


def test_what_is_left_under_overload_is_told() -> None:
    kept = figures.Run(seconds=10.0, tokens=900, cpu=1.0, total=10.0)
    over = figures.Run(seconds=10.0, tokens=800, refused=[0.001, 0.003, 0.002], cpu=2.0, client_cpu=0.5, total=10.0, late=[0.0, 0.001])
    works: list[Work] = []

    def ask(work: Work) -> figures.Run:
        works.append(work)
        return over if work.rate else kept

    found = overloaded(ask, work(requests=0, slots=4, tokens=5), 100.0, 2)
    assert [(each.first, each.requests, each.rate) for each in works] == [(0, 16, 0), (16, 180, 200), (196, 16, 0), (212, 180, 200)]
    sentence = found.sentence()
    assert (
        "80.0 tokens/s. Of the 90.0 of 4 streams that are kept running without an excess: 0.889. Of the highest throughput of all: 0.800."
        in sentence
    )
    assert "3 are refused, half of them within 2 ms and 95 % within 3 ms" in sentence
    assert "takes 0.20 beside its engine, and 0.10 without the excess; the client takes 0.05" in sentence
    short = attrs.evolve(found, over=[attrs.evolve(over, seconds=0.0, tokens=0)]).sentence()
    assert "without an excess: unknown. Of the highest throughput of all: unknown." in short


def work(requests: int, **more: Any) -> Work:
    return Work(requests=requests, first=0, characters=20, **{"tokens": 7, **more})


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket that listens."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


def _streamed(*texts: str) -> bytes:
    """An answer of HTTP in chunks, as a server sends it."""
    chunks = [{"choices": [{"text": text}]} for text in texts] + [{"choices": [], "usage": {"completion_tokens": 7}}]
    lines = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
    body = b"".join(b"%x\r\n%b\r\n" % (len(line), line) for line in (*lines, b": waiting\n\n", b"data: [DONE]\n\n"))
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nkeep-alive: timeout=5, max=100\r\n\r\n" + body + b"0\r\n\r\n"


@pytest.mark.parametrize("step", [1, 7, 100, 10_000])
def test_what_a_client_saw_is_read_from_the_bytes_however_they_came(step: int) -> None:
    """Each text has the time of the part with the last byte of its chunk; an answer that is cut has failed."""
    raw = _streamed("one", "", "zwei", "d")
    parts = [raw[place : place + step] for place in range(0, len(raw), step)]
    found = seen_in(0.5, [(1.0 + place, part) for place, part in enumerate(parts)])
    assert (found.status, found.tokens, found.ended) == (200, 7, float(len(parts)))
    ends = [raw.index(b"\n\r\n", raw.index(text)) for text in (b"one", b"zwei", b'"d"')]
    assert found.came == [1.0 + end // step for end in ends]
    assert seen_in(0.5, [(1.0, raw.partition(b"data: [DONE]")[0])]).status == 0
    assert seen_in(0.5, []).status == seen_in(0.5, [(1.0, b"")]).status == 0
    assert seen_in(0.5, [(1.0, b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}")]).status == 429


def test_the_client_of_the_benchmark_uses_its_connections_again(listening: socket.socket) -> None:
    """Those of answers that are whole, however they came; none that the server has closed, with a request in progress or without one."""
    refusal = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nfull"
    answers = [_streamed("a"), refusal, _streamed("b"), _streamed("c")[:-2], _streamed("d")]
    accepted: list[int] = []

    def serve() -> None:
        left = list(answers)
        while left:
            connection, _ = listening.accept()
            accepted.append(len(left))
            with connection:
                while left and connection.recv(1 << 16):
                    answer = left.pop(0)
                    for place in range(0, len(answer), 60):
                        connection.sendall(answer[place : place + 60])
                    if answer.endswith((b"full", b"0\r\n")):
                        break

    server = threading.Thread(target=serve)
    server.start()
    found = receive(lambda: socket.create_connection(listening.getsockname()), [b"request"] * len(answers), work(len(answers), rate=20.0))
    server.join()
    assert accepted == [5, 3, 1]
    assert [b"".join(part for _, part in arrivals) for _, arrivals in found] == answers


def _serve_one(listening: socket.socket, answers: list[bytes]) -> None:
    """Answer requests on one connection."""
    connection, _ = listening.accept()
    with connection:
        for answer in answers:
            while not connection.recv(1 << 16).endswith((b"request", b"}")):
                pass
            connection.sendall(answer)


def test_the_client_of_the_benchmark_keeps_so_many_streams_running(listening: socket.socket) -> None:
    """One, so that it needs one connection."""
    server = threading.Thread(target=_serve_one, args=(listening, [_streamed("a")] * 3))
    server.start()
    found = receive(lambda: socket.create_connection(listening.getsockname()), [b"request"] * 3, work(3, slots=1))
    server.join()
    assert [b"".join(part for _, part in arrivals) for _, arrivals in found] == [_streamed("a")] * 3


@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="is installed for benchmarks")
@pytest.mark.long
def test_locust_sees_what_the_client_of_the_benchmark_sees(listening: socket.socket) -> None:
    """In a process of its own, because importing it replaces threads and sockets."""
    refusal = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nfull"
    server = threading.Thread(target=_serve_one, args=(listening, [_streamed("a", "b"), refusal, _streamed("c")]))
    server.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    command = [sys.executable, "-m", "benchmarks.serving.locust_client", url, json.dumps(attrs.asdict(work(3, slots=1)))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    server.join()
    run = figures.Run(**json.loads(done.stdout))
    assert (run.answered, len(run.first), len(run.refused), run.failed) == (14, 2, 1, 0)
    assert run.client_cpu > 0


def test_what_one_way_to_be_served_costs_over_another_is_told() -> None:
    """By pairs of runs; in the table the best of each, beside what its client took."""
    base = {
        1: [
            figures.Run(seconds=1.0, tokens=100, first=[0.1]),
            figures.Run(seconds=1.25, tokens=100, first=[0.2]),
            figures.Run(seconds=2, tokens=100, first=[0.3]),
        ]
    }
    other = {
        1: [
            figures.Run(seconds=4.0 * times, tokens=100, first=[0.204 * times], cpu=0.001 * times**2, client_cpu=0.0005)
            for times in (1, 1.25, 2)
        ]
    }
    counted = {1: [attrs.evolve(run, cpu=0.0004) for run in base[1]]}
    runs = {"local": base, "ray": other}
    assert figures.sentence(runs) == "Throughput of ray to local, by streams at once: at 1: 0.250 ±0%."
    assert figures.first_token(runs) == (
        "First token of ray after that of local, one stream, the median of 3 pairs: +104.0 ms (95 %: +55.0 to +108.0)."
    )
    assert figures.table(runs).splitlines()[-1] == "| 1 | ray | 25.0 | 0.250 | 204 | 204 | 15.6 |  | 5.0 |"
    assert figures.table({"local": counted, "ray": other}).splitlines()[-1] == "| 1 | ray | 25.0 | 0.250 | 204 | 204 | 15.6 | 11.6 | 5.0 |"
