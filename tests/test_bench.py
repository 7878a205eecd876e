"""``llmasos bench`` measures what was asked, each composition in turn."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from benchmarks.serving import figures
from benchmarks.serving.client import overload, receive
from benchmarks.serving.seen import Seen, seen_in

from llmasos_hookspecs.testing import tiny_checkpoint

from .conftest import Run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Hugging Face folder with a random Llama that speaks in bytes."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint(folder=folder, max_position_embeddings=1024)
    return str(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``LLMASOS_HOME`` of all commands here, so that an engine is built once."""
    return tmp_path_factory.mktemp("home")


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


def test_the_throughput_under_overload_is_that_from_the_first_refusal_to_the_last_request() -> None:
    """A stream counts with the tokens of those of its pieces that came meanwhile."""
    early = Seen(began=0.0, status=200, ended=3.0, tokens=8, came=[0.5, 1.0, 2.0, 3.0])
    refused = [Seen(began=at, status=429, ended=at + 0.5) for at in (0.5, 2.0)]
    late = Seen(began=2.5, status=200, ended=9.0, tokens=3, came=[2.5, 4.0, 8.0])
    assert overload([early, *refused, late]) == {"seconds": 1.5, "tokens": 4}
    assert overload([early, attrs.evolve(late, began=3.5)]) == {"seconds": 3.5, "tokens": 9}


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
    found = receive(lambda: socket.create_connection(listening.getsockname()), [b"request"] * len(answers), rate=20.0)
    server.join()
    assert accepted == [5, 3, 1]
    assert [b"".join(part for _, part in arrivals) for _, arrivals in found] == answers


def test_what_one_way_to_be_served_costs_over_another_is_told() -> None:
    """First tokens by the median of all rounds, throughput by the best one; in the table each beside what its client took."""
    base = {
        1: [
            figures.Run(seconds=1.0, tokens=100, first=[0.1]),
            figures.Run(seconds=1.25, tokens=100, first=[0.2]),
            figures.Run(seconds=2, tokens=100, first=[0.3]),
        ]
    }
    other = {1: [figures.Run(seconds=4.0, tokens=100, first=[0.204], cpu=0.001, client_cpu=0.0005)]}
    runs = {"local": base, "ray": other}
    assert figures.sentence(runs) == "ray against local: at 1 streams the first token +4.0 ms, throughput 0.250."
    assert figures.table(runs).splitlines()[-1] == "| 1 | ray | 25.0 | 0.250 | 204 | 204 | 10.0 | 5.0 |"
