"""Several copies of one model, each in a process of its own, behind a router."""

from llmasos.compose.replicas.replica_set import ReplicaSet
from llmasos.compose.replicas.routing import Router
from llmasos.compose.replicas.spec import WorkerSpec

__all__ = ["ReplicaSet", "Router", "WorkerSpec"]
