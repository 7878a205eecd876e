"""The placement: which nodes there are, and starting seats on them."""

from __future__ import annotations

import atexit
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import ray

from llmasos_hookspecs import Host, ResourceError, SeatSpec
from llmasos_placement_ray import cluster
from llmasos_placement_ray.actor import GROUPS, SeatProcess
from llmasos_placement_ray.options import Options
from llmasos_placement_ray.seat import RaySeat

#: What a seat takes that needs no CPU: no node without any, which is no host, gets it.
_LEAST_CPU: Final = 0.001
#: Where seats on this machine listen.
_LOOPBACK: Final = "127.0.0.1"


class RayPlacement:
    """Seats as actors of the cluster that the options name."""

    def __init__(self, options: Options) -> None:
        """Connect. Raises ``PluginError`` where there is no cluster, or one that is open to other machines."""
        self._options: Final = options
        self._lock = threading.Lock()
        self._seats: list[RaySeat] = []
        self._closed = False
        cluster.join(options.address, options.namespace)
        atexit.register(self.close)  # before Ray leaves the cluster, which it does at exit too
        self._actors = ray.remote(concurrency_groups=GROUPS)(SeatProcess)

    def hosts(self) -> Sequence[Host]:
        return [host for _, host, _ in cluster.nodes()]

    def start(self, spec: SeatSpec, on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> RaySeat:
        needs = self._needs(spec)
        if not any(host.alive and _fits(needs, resources) for _, host, resources in cluster.nodes()):
            raise ResourceError(
                f"A replica of {spec.model} needs {_in_words(needs)}, and no node of the Ray cluster has that much even when idle; lower "
                "model.replicas or the placement's cpus and resources, or add a larger node."
            )
        custom = {key: amount for key, amount in needs.items() if key not in ("CPU", "GPU", "memory")}
        with self._lock:
            if self._closed:
                raise ResourceError("The placement is closed.")
            self._seats = [seat for seat in self._seats if seat.thread.is_alive()]
            actor = self._actors.options(
                name=f"{spec.model}-{spec.number}-{uuid.uuid4().hex[:8]}",
                namespace=self._options.namespace,
                num_cpus=needs.get("CPU", _LEAST_CPU),
                num_gpus=needs.get("GPU", 0),
                memory=needs.get("memory", 0),
                resources=custom,
                scheduling_strategy="SPREAD" if self._options.spread else "DEFAULT",
                max_restarts=0,  # core starts seats again, and would not know of one that Ray started
                max_task_retries=0,  # a message that is sent again would arrive twice
                enable_task_events=False,
            ).remote(spec.entry, list(spec.path))
            seat = RaySeat(
                actor,
                name=f"{spec.model}-{spec.number}",
                start_timeout=self._options.start_timeout,
                silence=self._options.silence,
                node_name=_node_name,
                listens_at=lambda node: listens_at(self._options.channel, cluster.own_address(), cluster.address_of(node)),
                no_room=lambda: _no_room(needs),
                on_message=on_message,
                on_end=on_end,
            )
            self._seats.append(seat)
        return seat

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            atexit.unregister(self.close)
            seats, self._seats = self._seats, []
        for seat in seats:
            seat.kill()
        for seat in seats:
            if seat.thread is not threading.current_thread():
                seat.thread.join()
        cluster.leave()

    def _needs(self, spec: SeatSpec) -> dict[str, float]:
        """What a seat takes of its node, by Ray's names."""
        own = {"CPU": spec.cpus if self._options.cpus is None else self._options.cpus, "memory": spec.memory or 0, "GPU": spec.accelerators}
        return {key: amount for key, amount in {**own, **self._options.resources}.items() if amount}


def listens_at(channel: str, here: str, there: str) -> str | None:
    """Where a seat on the machine with the address ``there`` listens for its connection; None: messages travel by calls of Ray.

    ``channel`` is that of the options, and ``here`` the address of this machine.
    """
    if channel == "ray" or (channel == "auto" and there != here):
        return None
    return _LOOPBACK if there == here else there


def _fits(needs: Mapping[str, float], there: Mapping[str, float]) -> bool:
    return all(there.get(key, 0) >= amount for key, amount in needs.items())


def _in_words(needs: Mapping[str, Any]) -> str:
    return ", ".join(f"{amount:g} {key}" if key != "memory" else f"{amount:,.0f} bytes" for key, amount in needs.items()) or "nothing"


def _node_name(node: str) -> str:
    return next((host.name for found, host, _ in cluster.nodes() if found == node), node[:8])


def _no_room(needs: Mapping[str, float]) -> str:
    """Why an actor waits for a node, in words."""
    free = cluster.free_resources()
    there = [
        f"{host.name}: {_in_words({key: free.get(node, {}).get(key, 0) for key in needs})}"
        for node, host, _ in cluster.nodes()
        if host.alive
    ]
    return f"it needs {_in_words(needs)}, and what is free is {'; '.join(there) or 'nothing'}"
