"""A Ray cluster of three nodes on the loopback interface of this machine, one of which counts as another machine."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

#: The node that has an address of its own, at which seats can listen: those on it are reached by calls of Ray, unless they are told to use
#: a socket.
ELSEWHERE, ADDRESS = "node-2", "127.0.0.2"
PATIENCE = 300.0  # seconds until all nodes of the cluster know each other


@attrs.define
class Nodes:
    """The cluster, whose head has the connection of this process and no seat.

    Attributes:
        address: of the head.
        workers: the other nodes by name.
    """

    cluster: Any
    address: str
    workers: dict[str, Any] = attrs.field(factory=dict)

    def add(self, name: str, cpus: int = 2) -> None:
        self.workers[name] = self.cluster.add_node(
            wait=False,
            num_cpus=cpus,
            resources={name: 1},  # for seats that must run on this node
            node_name=name,
            object_store_memory=80 << 20,
            memory=1 << 30,
            include_log_monitor=False,
        )

    def raylet(self, name: str) -> int:
        """The process id of a node's own process."""
        (found,) = self.workers[name].all_processes["raylet"]
        pid: int = found.process.pid
        return pid

    def remove(self, name: str) -> None:
        """The node's processes are killed."""
        self.cluster.remove_node(self.workers.pop(name), allow_graceful=False)


def address_of(node: str) -> str:
    """As ``cluster.address_of``; Ray itself would listen on every interface for a node that has another address than 127.0.0.1."""
    import ray

    return ADDRESS if any(each["NodeID"] == node and each["NodeName"] == ELSEWHERE for each in ray.nodes()) else "127.0.0.1"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two nodes of two CPUs each beside the head, which has none."""
    folder = tempfile.mkdtemp(prefix="ray-")
    with pytest.MonkeyPatch.context() as patch:
        # What Ray takes from the environment, here and in the processes that it starts.
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_DISABLE_MEMORY_MONITOR", "1")
        patch.setenv("RAY_prestart_worker_first_driver", "0")  # a process for each CPU of each node, which no seat would use
        from ray._private import ray_constants
        from ray.cluster_utils import Cluster

        patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)  # so that all listen on the loopback interface alone
        slow = SimpleNamespace(**vars(time) | {"monotonic": lambda: time.monotonic() / 10})
        # It tells others of this cluster in a folder that a machine new to Ray has not, and whose readers are not ours.
        patch.setattr("ray._private.utils.write_ray_address", lambda *_: None)
        patch.setattr("ray._private.node.time", slow)  # Ray gives a process 30 seconds to start: too few on a busy machine
        # Its pages, which none looks at, have a process that imports all of Ray, as the one has that would add machines.
        patch.setattr("ray._private.node.Node.start_api_server", lambda *_, **__: None)
        head = {"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False, "node_name": "head", "temp_dir": folder}
        cluster = Cluster(initialize_head=True, head_node_args={**head, "include_log_monitor": False, "no_monitor": True})
        try:
            patch.setenv("RAY_ADDRESS", cluster.address)
            made = Nodes(cluster, cluster.address)
            for name in ("node-1", "node-2"):
                made.add(name)
            cluster.wait_for_nodes(PATIENCE)
            patch.setattr("llmasos_placement_ray.cluster.address_of", address_of)
            yield made
        finally:
            import ray

            ray.shutdown()
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
