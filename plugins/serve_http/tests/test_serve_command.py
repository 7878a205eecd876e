"""``llmasos serve`` with this server: a process, a stream, and SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

from .http_clients import chat_body, events


def test_sigterm_finishes_streams_and_takes_nothing_new(tmp_path: Path) -> None:
    """Without a config it listens on the loopback interface; a stream that has begun ends whole, and the program with 0."""
    pytest.importorskip("llmasos")
    tiny_checkpoint(folder=tmp_path / "tiny")
    command = [sys.executable, "-m", "llmasos", "serve", "-m", str(tmp_path / "tiny"), "--loader", "onnx", "--port", "0"]
    environment = {**os.environ, "LLMASOS_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    assert process.stderr is not None
    try:
        url = next(line for line in process.stderr if "Listening on http://127.0.0.1:" in line).strip().rpartition(" ")[2]
        assert httpx.get(f"{url}/readyz", timeout=120).status_code == 200
        body = chat_body("天气", stream=True, max_tokens=60, ignore_eos=True)
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            chunks = list(events(lines))
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert process.wait(60) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz", timeout=5)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
