"""What the placement refuses before anything runs."""

from __future__ import annotations

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
