"""Several copies of one model, each in a process of its own, behind a router."""

from llmasos.runtime.replicas.replica_set import ReplicaSet
from llmasos.runtime.replicas.routing import Router
from llmasos.runtime.replicas.worker import WorkerSpec

__all__ = ["ReplicaSet", "Router", "WorkerSpec"]
