"""What all pipelines of this process share: the memory budget, the threads, and the residency of models."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Final

from llmasos.residency.memory import Budget
from llmasos.residency.residency import Residency

if TYPE_CHECKING:
    from llmasos.api.pipeline import Pipeline


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
        self.pipelines: Final[weakref.WeakSet[Pipeline]] = weakref.WeakSet()


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
