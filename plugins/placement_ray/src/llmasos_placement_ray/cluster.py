"""The connection of this process to a Ray cluster, which Ray allows one of."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from queue import SimpleQueue
from typing import Any

import ray

from llmasos_hookspecs import Host, PluginError

_lock = threading.Lock()
#: Placements that use the connection which ``join`` made; not counted where the program had connected itself.
_users = 0
_ours = False
#: Set when the connection that ``join`` made is closed.
_left = threading.Event()


def join(address: str, namespace: str) -> None:
    """Connect to a cluster, once for all placements of the process. Where the program is connected already, that connection is used.

    Raises:
        PluginError: there is no cluster at ``address``, this process is connected to another one, or the cluster can be reached by other
            machines and does not ask for a token.
    """
    global _users, _ours
    if address.startswith("ray://"):
        raise PluginError(
            f'placement.address is "{address}", and seats need a connection as a driver; run this process on a node of the cluster, and '
            "give HOST:PORT of its head."
        )
    with _lock:
        if not ray.is_initialized():
            _check_token([address.rpartition(":")[0]] if ":" in address else [])
            _connect(address, namespace)
            _ours = True
        elif ":" in address and address != (there := ray.get_runtime_context().gcs_address):
            raise PluginError(
                f'placement.address is "{address}", and this process is connected to {there}; Ray allows one cluster a process.'
            )
        try:
            _check_token([node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]])
        except PluginError:
            _disconnect()
            raise
        _users += _ours


def leave() -> None:
    """Give up one use of the connection; it is closed with the last."""
    global _users
    with _lock:
        _users -= _ours
        _disconnect()


def _disconnect() -> None:
    global _ours
    if _ours and not _users:
        ray.shutdown()
        _left.set()
        _ours = False


def _connect(address: str, namespace: str) -> None:
    global _left
    _left = threading.Event()
    outcome: SimpleQueue[Exception | None] = SimpleQueue()
    threading.Thread(target=_stay, args=(address, namespace, outcome, _left), name="llmasos-ray", daemon=True).start()
    if (error := outcome.get()) is None:
        return
    why = str(error).strip().partition("\n")[0] or type(error).__name__
    cure = "start one by `ray start --head`" if address == "auto" else "see whether it runs, and whether it can be reached from here"
    raise PluginError(
        f'There is no Ray cluster at "{address}" ({why}); {cure}, or set placement.address to "local" for one of this process alone.'
    ) from error


def _stay(address: str, namespace: str, outcome: SimpleQueue[Exception | None], left: threading.Event) -> None:
    """Connect, on a thread that stays as long as the connection: the processes of a cluster that Ray starts die with the thread that starts
    them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        with _own_sigterm(), _loopback() if address == "local" else contextlib.nullcontext():
            ray.init(address=address, namespace=namespace, log_to_driver=False, configure_logging=False, **own)
    except Exception as error:
        outcome.put(error)
        return
    outcome.put(None)
    left.wait()


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """A cluster that is started listens on the loopback interface alone. Ray has no option for it: it replaces a loopback address."""
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Leave SIGTERM to the program, which ends in its own order: Ray's handler, below Python's, prints a stack and aborts the process three
    seconds later. Python's functions for signals work on the main thread alone, hence the C library's."""
    logger, library = logging.getLogger("ray._private.worker"), ctypes.CDLL(None)
    level, action = logger.level, ctypes.create_string_buffer(512)  # more than any system's ``struct sigaction``
    library.sigaction(int(signal.SIGTERM), None, action)
    logger.setLevel(logging.ERROR)  # it warns that it leaves Python's handler alone
    try:
        yield
    finally:
        logger.setLevel(level)
        library.sigaction(int(signal.SIGTERM), action, None)


def _check_token(addresses: list[str]) -> None:
    """Everybody who reaches a Ray cluster can run code on it, so one that other machines reach must ask for a token."""
    open_to_others = [each for each in addresses if not _is_loopback(each)]
    if open_to_others and os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        raise PluginError(
            f"The Ray cluster listens at {open_to_others[0]}, where other machines reach it, and without a token anybody could run code on "
            "it; set RAY_AUTH_MODE=token, and the same token, on every node and here (`ray get-auth-token --generate`)."
        )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"


def nodes() -> list[tuple[str, Host, Mapping[str, float]]]:
    """Ray's id, the host, and the resources of every node with at least one CPU."""
    found = [node for node in ray.nodes() if node["Resources"].get("CPU", 0) >= 1 or not node["Alive"]]
    leaving = _draining()
    made = []
    for node in found:
        resources = node["Resources"]
        host = Host(
            name=_name(node),
            cpus=max(1, int(resources.get("CPU", 1))),
            memory=int(resources["memory"]) if "memory" in resources else None,
            accelerators=tuple(f"gpu:{index}" for index in range(int(resources.get("GPU", 0)))),
            alive=node["Alive"] and node["NodeID"] not in leaving,
            leaving=node["Alive"] and node["NodeID"] in leaving,
        )
        made.append((node["NodeID"], host, resources))
    return made


def own_address() -> str:
    """The address, on the cluster's network, of the machine that this process runs on."""
    return address_of(ray.get_runtime_context().get_node_id())


def address_of(node: str) -> str:
    """The address of a node on the cluster's network, by Ray's id of it. Raises ``ConnectionError`` where Ray knows no such node."""
    for each in ray.nodes():
        if each["NodeID"] == node:
            return str(each["NodeManagerAddress"])
    raise ConnectionError(f"the node {node[:8]} is gone")


def _name(node: Mapping[str, Any]) -> str:
    """The name that its owner gave it; else that of the machine and a part of Ray's id. It stays the same whatever other nodes come and go,
    also those that were there before under the same name."""
    named = node.get("NodeName") or ""
    unnamed = named in ("", node["NodeManagerAddress"])
    return f"{node['NodeManagerHostname']}-{node['NodeID'][:6]}" if unnamed else str(named)


def _draining() -> Mapping[str, int]:
    """The nodes that Ray was told to drain, on which it starts nothing more."""
    from ray._private.state import state  # has no public name

    found: Mapping[str, int] = state.get_draining_nodes()
    return found


def free_resources() -> dict[str, Mapping[str, float]]:
    """What is free on each node now, by Ray's id of it."""
    from ray._private.state import available_resources_per_node  # has no public name

    found: dict[str, Mapping[str, float]] = available_resources_per_node()
    return found
