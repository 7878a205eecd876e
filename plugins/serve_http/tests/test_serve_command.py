"""``llmasos serve`` with this server: a process, a stream, and SIGTERM."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

from .http_clients import chat_body, events

pytestmark = pytest.mark.slow

STREAMS = 32
#: ``python -m llmasos``, which says at its end how many objects its garbage collector leaves alone.
SERVE = """
import atexit, gc, runpy, sys
atexit.register(lambda: print(gc.get_freeze_count(), flush=True))
runpy.run_module("llmasos", run_name="__main__", alter_sys=True)
"""


def arrived(url: str) -> int:
    """Requests that have come, by the server's own count."""
    found = httpx.get(f"{url}/metrics", timeout=30).text
    counted = re.findall(
        r"^vllm:(?:num_requests_waiting|num_requests_running|request_success_total)(?:\{.*\})? (\S+)$", found, re.MULTILINE
    )
    return int(sum(map(float, counted)))


def test_sigterm_ends_every_stream_whole_or_with_its_reason_and_takes_nothing_new(tmp_path: Path) -> None:
    """Without a config it listens on the loopback interface. Of 32 streams, more than run at once, those that end within the bound end
    whole, the others with an event that says why, and the program with 0."""
    pytest.importorskip("llmasos")
    tiny_checkpoint(folder=tmp_path / "tiny")
    command = [sys.executable, "-c", SERVE, "serve", "-m", str(tmp_path / "tiny"), "--loader", "onnx", "--port", "0", "--drain", "1"]
    environment = {**os.environ, "LLMASOS_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    ends: list[str] = []

    def read(url: str, length: int) -> None:
        body = chat_body("天气", stream=True, max_tokens=length, ignore_eos=True)
        try:
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
                if answer.status_code != 200:
                    ends.append(json.loads(answer.read())["error"]["code"])
                    return
                chunks = list(events(answer.iter_lines()))
            ends.append(chunks[-1]["choices"][0]["finish_reason"])
        except RuntimeError as error:  # an error event
            ends.append(str(error))

    try:
        url = next(line for line in process.stderr if "Listening on http://127.0.0.1:" in line).strip().rpartition(" ")[2]
        assert httpx.get(f"{url}/readyz", timeout=120).status_code == 200
        readers = [threading.Thread(target=read, args=(url, 60), daemon=True) for _ in range(STREAMS)]
        for reader in readers:
            reader.start()
        while arrived(url) < STREAMS:
            threading.Event().wait(0.01)
        process.send_signal(signal.SIGTERM)
        for reader in readers:
            reader.join(60)
        assert len(ends) == STREAMS
        reasons = {end for end in ends if end != "length"}
        assert all(end == "server_stopped" or "being stopped" in end for end in reasons), reasons
        assert "length" in ends
        assert process.wait(60) == 0
        assert int(process.stdout.read()) > 10_000, "a full collection walks what was there before requests came"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz", timeout=5)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
