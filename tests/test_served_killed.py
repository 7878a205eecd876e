"""A server that is killed in the middle of answers: what it recorded verifies, and what it had reserved is free."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmasos_access_keys.access import KeysAccess
from llmasos_access_keys.keys import KeyLimits
from llmasos_access_keys.store import Store, open_store
from llmasos_hookspecs import Credentials
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

pytestmark = pytest.mark.slow

STREAMS = 8
CONFIG = """
[model]
source = "{folder}/tiny"
[loader]
use = "onnx"
threads = 1
[scheduler]
use = "fifo"
max_sequences = 2
[access]
use = "keys"
folder = "{folder}/access"
[[server]]
use = "http"
port = 0
"""


def reserved(store: Store) -> int:
    with store.database.read() as connection:
        found: int = connection.execute("SELECT count(*) FROM reservations").fetchone()[0]
    return found


def read(client: httpx.Client, body: dict[str, Any]) -> None:
    """Read a stream until its server is gone."""
    with contextlib.suppress(httpx.TransportError):
        client.post("/v1/chat/completions", json=body)


def test_what_a_killed_server_recorded_verifies_and_what_it_reserved_is_free(tmp_path: Path, new_home: Callable[[Path], Path]) -> None:
    """SIGKILL with streams in decode and in the queue: the chain of the audit log has no problem, the database is whole, the reservations
    of the dead process are there until the folder is opened again, and the key may then use all of its quota that was not settled."""
    tiny_checkpoint(folder=tmp_path / "tiny")
    store = open_store(tmp_path / "access")
    _, key = store.keys.create("k", tenant="t", now=time.time(), limits=KeyLimits(tokens_per_day=100_000))
    (tmp_path / "llmasos.toml").write_text(CONFIG.format(folder=tmp_path.as_posix()), encoding="utf-8")
    command = [sys.executable, "-m", "llmasos", "serve", "--config", str(tmp_path / "llmasos.toml")]
    environment = {**os.environ, "LLMASOS_HOME": str(new_home(tmp_path / "home"))}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    assert process.stderr is not None
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 200, "ignore_eos": True}
    try:
        url = next(line for line in process.stderr if "Listening on http://127.0.0.1:" in line).strip().rpartition(" ")[2]
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=120) as client:
            whole = client.post("/v1/chat/completions", json={**body, "max_tokens": 2}).json()["usage"]["total_tokens"]
            assert client.post("/v1/chat/completions", json={"messages": []}).status_code == 400
            readers = [threading.Thread(target=read, args=(client, {**body, "stream": True}), daemon=True) for _ in range(STREAMS)]
            for reader in readers:
                reader.start()
            while reserved(store) < STREAMS // 2:  # two are computed, the others wait
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            for reader in readers:
                reader.join(60)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert reserved(store) > 1
    access = KeysAccess(open_store(tmp_path / "access"), bound=3600.0)
    assert reserved(store) == 0
    assert store.log.verify().problems == []
    assert {event["action"] for _, event in store.log.events()} >= {"generate"}
    with store.database.read() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    principal = access.authenticate(Credentials(scheme="bearer", secret=key))
    access.reserve(principal, 100_000 - whole)
