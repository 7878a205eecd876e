"""A guard around a task: it returns an instance of the task's output class, or raises an error that names the plugin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from llmasos_hookspecs import PluginError, Task, TaskModel
from llmasos_hookspecs.edge import crossing, kind_of


def guarded(task: Task, label: str) -> Task:
    """``task`` behind the guard; it has ``stream`` where the task has. ``label`` names the plugin in messages."""
    return (GuardedTask if getattr(task, "stream", None) is None else _StreamingTask)(task, label)


class GuardedTask:
    """Runs a task and enforces the task contract."""

    def __init__(self, task: Task, label: str) -> None:
        self.inputs: type = task.inputs
        self.output: type = task.output
        self._task: Any = task
        self._label: Final = label

    def run(self, model: TaskModel, inputs: Any) -> Any:
        """The task's answer. Raises ``PluginError`` where the task failed with an error it did not mean, or returned something else."""
        with crossing(self._label, "run"):
            answer = self._task.run(model, inputs)
        if not isinstance(answer, self.output):
            raise PluginError(
                f"The {self._label} returned {kind_of(answer)} from run, and its output is {self.output.__name__}; this is a fault of the "
                "plugin."
            )
        return answer


class _StreamingTask(GuardedTask):
    def stream(self, model: TaskModel, inputs: Any) -> Iterator[str]:
        """The task's pieces of text, as it yields them."""
        with crossing(self._label, "stream"):
            pieces = iter(self._task.stream(model, inputs))
        try:
            while True:
                with crossing(self._label, "stream"):
                    piece = next(pieces, None)
                if piece is None:
                    return
                if not isinstance(piece, str):
                    raise PluginError(f"The {self._label} gave {kind_of(piece)} from stream, and every piece must be text.")
                yield piece
        finally:
            with crossing(self._label, "stream"):
                getattr(pieces, "close", _nothing)()  # where the reader had enough


def _nothing() -> None:
    """What closing an iterator does that is no generator."""
