"""Several copies of one model, each in a process of its own, behind a router."""

from typing import Final

from llmasos_replicas.replica_set import ReplicaSet
from llmasos_replicas.routing import Router
from llmasos_replicas.spec import WorkerSpec, cores_of_seat

#: What the seat of a replica runs.
WORKER_ENTRY: Final = "llmasos.compose.replicas.worker:serve"

__all__ = ["WORKER_ENTRY", "ReplicaSet", "Router", "WorkerSpec", "cores_of_seat"]
