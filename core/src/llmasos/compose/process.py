"""What all pipelines of this process share: the memory budget, the threads, and the residency of models."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from typing import Any, Final, Protocol

from llmasos.compose.host import ModelHost
from llmasos_residency.memory import Budget
from llmasos_residency.residency import Residency


class OpenPipeline(Protocol):
    """What the process knows of a pipeline that is open.

    Attributes:
        number: counts the pipelines of the process.
    """

    number: int

    @property
    def hosts(self) -> Mapping[str, ModelHost]:
        """The host of each of its models by name."""
        ...

    @property
    def models(self) -> Mapping[str, Any]:
        """Its models by name, as its users see them."""
        ...

    def observers(self) -> list[dict[str, Any]]:
        """Each observer's name, its queued events, and the events that it was too slow for."""
        ...


class ProcessResources:
    """The bounds for all pipelines together, in addition to each pipeline's own.

    Attributes:
        residency: decides which models are in memory.
        budget: bytes for weights and KV of all models of the process.
        threads: compute threads of models whose pipeline names none; None: the loader's choice.
        keep_alive: seconds after its last use when a model whose pipeline names none is unloaded.
        pipelines: all that are open.
    """

    def __init__(self, residency: Residency | None = None) -> None:
        self.residency: Final = residency or Residency()
        self.budget: Final = Budget("the memory that llmasos.resources.configure allows")
        self.threads: int | None = None
        self.keep_alive: float | None = None
        self.pipelines: Final[weakref.WeakSet[OpenPipeline]] = weakref.WeakSet()

    def _open(self) -> list[OpenPipeline]:
        """All open pipelines, in the order in which they were opened."""
        return sorted(self.pipelines, key=lambda pipeline: pipeline.number)

    def hosts(self) -> dict[str, ModelHost]:
        """All models of all open pipelines by label: the model's name, with a number where another pipeline has the same name."""
        hosts: dict[str, ModelHost] = {}
        for pipeline in self._open():
            for name, host in pipeline.hosts.items():
                label, number = name, 1
                while label in hosts:
                    number += 1
                    label = f"{name}#{number}"
                hosts[label] = host
        return hosts

    def usage(self) -> dict[str, Any]:
        """Memory and models in use, as plain data: see ``llmasos.resources.usage``."""
        budget = self.budget
        accounts = [model.account for model in self.residency.models()]
        weights, kv = sum(account.weights for account in accounts), sum(account.kv for account in accounts)
        return {
            "memory": {
                "limit": budget.limit,
                "reserve": budget.reserve,
                "used": weights + kv,
                "free": None if budget.limit is None else int(budget.free),
                "weights": weights,
                "kv": kv,
                "waiting": self.residency.waiting,
            },
            "threads": self.threads,
            "models": {name: host.usage() for name, host in self.hosts().items()},
            "observers": [observer for pipeline in self._open() for observer in pipeline.observers()],
        }


_process = ProcessResources()


def process_resources() -> ProcessResources:
    """The resources of this process."""
    return _process


def _after_fork_in_child() -> None:
    """In a forked child: the models exist in the parent only, and a thread of the parent may have held the lock."""
    global _process
    _process = ProcessResources()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
