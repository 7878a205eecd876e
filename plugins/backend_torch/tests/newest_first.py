"""A policy that preempts."""

from __future__ import annotations

from typing import Any

from llmasos_hookspecs import Admit


class Newest:
    """The newest first, so that those before it are preempted; a step reads few tokens of a prompt."""

    def admit(self, request: Any, stats: Any) -> Admit:
        return Admit()

    def rank(self, sequence: Any, now: float) -> Any:
        return -sequence.request.arrival

    def victim(self, running: Any, needy: Any, now: float) -> str | None:
        worst = max(running, key=lambda each: -each.request.arrival)
        return str(worst.request.id) if worst.request.arrival < needy.request.arrival else None

    def quantum(self, sequence: Any, budget: int) -> int:
        return min(budget, 4)

    def on_commit(self, charges: Any) -> None:
        pass
