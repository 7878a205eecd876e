"""Another config without a dropped request."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from llmasos_hookspecs import ConfigError
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options

from .http_clients import chat_body, events, whole

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"


def page(server: HttpServer, origin: str) -> int:
    return httpx.get(f"{server.endpoints[0].url}/v1/models", headers={"origin": origin}).status_code


def test_other_options_hold_for_the_next_request_and_end_none(start: Callable[..., HttpServer], runtime: ScriptedRuntime) -> None:
    """A stream that began before goes on over the same connection; what counts is counted on; the old options' parts are closed."""
    gate = threading.Event()
    runtime.script["wait"] = ("The", gate, " otters")
    server = start(allowed_origins=("https://old.example",), temperature=0.5)
    url = server.endpoints[0].url
    before = server._application
    with httpx.stream("POST", f"{url}{CHAT}", json=chat_body("wait", stream=True), timeout=30) as answer:
        lines = answer.iter_lines()
        assert "The" not in next(lines)
        server.reload(Options(port=0, allowed_origins=("https://new.example",), temperature=0.75))
        assert (page(server, "https://old.example"), page(server, "https://new.example")) == (403, 200)
        whole(server.endpoints[0], CHAT, chat_body("hi"))
        assert [sampling["temperature"] for sampling in runtime.samplings] == [0.5, 0.75]
        assert server._applications() == [before, server._application]
        assert not server.drain(0.05)
        server._application.gate.closed = False
        gate.set()
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in events(lines)) == "The otters"
    for _ in range(3000):
        if server._applications() == [server._application]:
            break
        threading.Event().wait(0.01)
    assert server._applications() == [server._application]
    assert len(runtime.listeners) == 1


def test_no_request_is_dropped_while_options_change(start: Callable[..., HttpServer]) -> None:
    """Four clients that ask all the time, and 40 changes."""
    server = start()
    url, ended = server.endpoints[0].url, threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not ended.is_set():
                statuses.append(client.post(CHAT, json=chat_body("hi")).status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(40):
        server.reload(Options(port=0, temperature=number / 10))
    ended.set()
    for thread in threads:
        thread.join()
    assert statuses
    assert set(statuses) == {200}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"port": 1}, "cannot change port"),
        ({"host": "127.0.0.2", "max_headers": 1}, "cannot change host, max_headers"),
        ({"tls_certificate": "a.pem", "tls_key": "b.pem"}, "cannot change tls_certificate"),
        ({"access_log": "/nowhere/at/all"}, "cannot be written"),
    ],
)
def test_options_that_cannot_change_change_nothing(start: Callable[..., HttpServer], options: dict[str, Any], sentence: str) -> None:
    server = start()
    before = server._application
    with pytest.raises(ConfigError, match=sentence):
        server.reload(Options(**{"port": 0, "temperature": 0.1, **options}))
    assert server._applications() == [before]


def test_a_renewed_certificate_is_shown_to_new_connections(start: Callable[..., HttpServer], tmp_path: Path) -> None:
    """From the same files."""
    authorities = [trustme.CA(), trustme.CA()]
    options = {"tls_certificate": str(tmp_path / "chain.pem"), "tls_key": str(tmp_path / "key.pem")}

    def issue(authority: trustme.CA) -> None:
        issued = authority.issue_cert("127.0.0.1")
        (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
        (tmp_path / "chain.pem").write_bytes(issued.cert_chain_pems[0].bytes())

    def trusted(authority: trustme.CA) -> bool:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        try:
            return httpx.get(f"{server.endpoints[0].url}/healthz", verify=context).status_code == 200
        except httpx.ConnectError:
            return False

    issue(authorities[0])
    server = start(**options)
    assert [trusted(authority) for authority in authorities] == [True, False]
    issue(authorities[1])
    assert [trusted(authority) for authority in authorities] == [True, False]
    server.reload(Options(port=0, **options))
    assert [trusted(authority) for authority in authorities] == [False, True]


CONFIG = """
[model]
source = {source}
[loader]
use = "onnx"
threads = 1
[scheduler]
use = "fifo"
max_sequences = {sequences}
[[server]]
use = "http"
port = {port}
allowed_origins = ["https://{page}.example"]
"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no such signal")
def test_serve_reads_its_config_again(tmp_path: Path) -> None:
    """On SIGHUP and where an administrator asks for it, while a stream is written; a config that is wrong changes nothing."""
    pytest.importorskip("llmasos")
    tiny_checkpoint(folder=tmp_path / "tiny")
    config = tmp_path / "llmasos.toml"

    def write(**values: Any) -> None:
        known = {"source": repr(str(tmp_path / "tiny")), "sequences": 2, "port": 0, "page": "old"}
        config.write_text(CONFIG.format(**{**known, **values}), encoding="utf-8")

    write()
    environment = {**os.environ, "LLMASOS_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "llmasos", "serve", "-c", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    assert process.stderr is not None
    notes = iter(process.stderr)
    try:
        url = next(line for line in notes if "Listening on http://127.0.0.1:" in line).strip().rpartition(" ")[2]

        def asked(origin: str) -> int:
            return httpx.get(f"{url}/v1/models", headers={"origin": f"https://{origin}.example"}, timeout=30).status_code

        body = chat_body("天气", stream=True, max_tokens=200, ignore_eos=True)
        with httpx.stream("POST", f"{url}{CHAT}", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            write(page="new", sequences=3)
            process.send_signal(signal.SIGHUP)
            assert "server[0] changed" in next(line for line in notes if "read again" in line)
            assert (asked("old"), asked("new")) == (403, 200)
            assert list(events(lines))[-1]["choices"][0]["finish_reason"] == "length"
        write(page="newer", source="'elsewhere'")
        process.send_signal(signal.SIGHUP)
        assert "models.default cannot change" in next(line for line in notes if "read again" in line)
        refused = httpx.post(f"{url}/admin/reload", timeout=30)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "config_refused")
        assert asked("new") == 200
        write(page="newer", sequences=3)
        assert httpx.post(f"{url}/admin/reload", timeout=30).json()["data"] == ["server[0]"]
        assert (asked("new"), asked("newer")) == (403, 200)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
