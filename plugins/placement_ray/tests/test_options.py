"""What the placement refuses before anything runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from llmasos_hookspecs import ConfigError, PluginError
from llmasos_placement_ray import Options, cluster


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"resources": {"CPU": 1}}, r"resources\.CPU is set by cpus"),
        ({"resources": {"memory": 1}}, r"resources\.memory is set by resources\.memory"),
        ({"resources": {"GPU": 0}}, r"resources\.GPU is 0, and it must be more than 0"),
    ],
)
def test_resources_that_have_a_key_of_their_own_are_refused(options: dict[str, dict[str, float]], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Options(**options)


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "[2001:db8::1]:6379", "head.example.org:6379"])
def test_a_cluster_that_others_reach_must_ask_for_a_token(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before anything is sent there."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(PluginError, match=r"without a token anybody could run code on it; set RAY_AUTH_MODE=token"):
        cluster.join(address, "llmasos")
    assert not cluster.ray.is_initialized()


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["localhost", "[::1]"], ["127.8.0.1", "::1"]])
def test_no_token_is_needed_on_the_loopback_interface(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    cluster._check_token(addresses)
    with pytest.raises(PluginError, match=r"listens at 192\.0\.2\.1"):
        cluster._check_token([*addresses, "192.0.2.1"])
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    cluster._check_token([*addresses, "192.0.2.1"])


def test_an_address_of_the_ray_client_is_refused() -> None:
    with pytest.raises(PluginError, match="run this process on a node of the cluster"):
        cluster.join("ray://127.0.0.1:10001", "llmasos")


@pytest.mark.long
def test_a_cluster_of_ones_own_listens_on_the_loopback_interface(tmp_path: Path) -> None:
    """Alone, and the placement ends it, at the end of the program at the latest; the token that Ray makes is kept in the user's home."""
    code = """
        import json, queue, signal, threading
        import ray
        from llmasos_hookspecs import SeatSpec
        from llmasos_placement_ray import Options
        from llmasos_placement_ray.placement import RayPlacement
        struck = []
        signal.signal(signal.SIGTERM, lambda *_: struck.append(1))
        made = []
        for _ in range(2):  # as core does: on threads that end
            thread = threading.Thread(target=lambda: made.append(RayPlacement(Options(address="local"))))
            thread.start()
            thread.join()
        first, second = made
        addresses = [node["NodeManagerAddress"] for node in ray.nodes()] + [ray.get_runtime_context().gcs_address]
        spec = SeatSpec(model="m", number=0, entry="llmasos_hookspecs.seat_program:serve")
        told = queue.SimpleQueue()
        assert first.start(spec, told.put, told.put).send(b"echo here")
        assert told.get() == b"here"
        signal.raise_signal(signal.SIGTERM)
        own = struck == [1] and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)  # Ray would have set an alarm that aborts
        first.close()
        still = ray.is_initialized()
        second.close()
        print(json.dumps([addresses, still, ray.is_initialized(), own]), flush=True)

        # A program that closes nothing ends its seats all the same, and has its own status.
        told = queue.SimpleQueue()
        seat = RayPlacement(Options(address="local")).start(spec, told.put, told.put)
        seat.send(b"pid")
        print(told.get().decode(), flush=True)
        raise SystemExit(7)
    """
    folder = tempfile.mkdtemp(prefix="ray-")  # Ray's sockets lie in it, and their paths must be short
    try:
        environment = {**os.environ, "HOME": str(tmp_path), "RAY_TMPDIR": folder}
        command = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 7, done.stderr
    assert "Traceback" not in done.stderr
    found, pid = done.stdout.splitlines()
    addresses, still, after, own = json.loads(found)
    assert all(address.startswith("127.") for address in addresses), addresses
    assert (still, after, own) == (True, False, True)
    assert not Path(f"/proc/{pid}").exists()
