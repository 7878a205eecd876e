"""A guard around a task: it returns an instance of the task's output class within its bound, or raises an error that names the plugin."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final

from llmasos_hookspecs import PluginError, Task, TaskCall, TaskEvent, TaskModel, TaskOutput
from llmasos_hookspecs.guarding.edge import kind_of
from llmasos_plugin_calls.bounded import UNBOUNDED, Bound, PluginThread
from llmasos_plugin_calls.deadlines import deadline_within


def guarded(task: Task, label: str, bound: Bound = UNBOUNDED) -> Task:
    """``task`` behind the guard; it has ``stream`` where the task has, and ``events`` in any case. ``label`` names the plugin in messages.

    The requests of an answer end ``bound`` after it was asked for. The task is given up where it does not return even then, or does not
    give its next piece within ``bound``.
    """
    return (GuardedTask if getattr(task, "stream", None) is None else _StreamingTask)(task, label, bound)


class GuardedTask:
    """Runs a task and enforces the task contract."""

    def __init__(self, task: Task, label: str, bound: Bound) -> None:
        self.inputs: type = task.inputs
        self.output: type = task.output
        self._task: Any = task
        #: What the task says of itself beyond the protocol; empty where it says nothing.
        self.metrics: tuple[str, ...] = getattr(task, "metrics", ())
        self._label: Final = label
        self._bound: Final = bound

    def run(self, model: TaskModel, inputs: Any) -> Any:
        """The task's answer.

        Raises:
            PluginError: the task failed with an error it did not mean, returned something else, or did not return in time.
        """
        with deadline_within(self._bound.seconds), PluginThread(self._label, self._bound) as thread:
            answer = thread.call("run", lambda: self._task.run(model, inputs))
        if not isinstance(answer, self.output):
            raise PluginError(
                f"The {self._label} returned {kind_of(answer)} from run, and its output is {self.output.__name__}; this is a fault of the "
                "plugin."
            )
        return answer

    def events(self, model: TaskModel, inputs: Any) -> Iterator[TaskEvent]:
        """What the task tells on its way, and as the last its output; of one that tells nothing, its output alone. Raises as ``run``."""
        if getattr(self._task, "events", None) is None:
            yield TaskOutput(self.run(model, inputs))
            return
        told = self._each("events", lambda: self._task.events(model, inputs), str | TaskCall | TaskOutput, "text, a call or the output")
        with contextlib.closing(told):
            for event in told:
                if not isinstance(event, TaskOutput):
                    yield event
                elif isinstance(event.output, self.output):
                    yield event
                    return
                else:
                    raise PluginError(
                        f"The {self._label} ended events with {kind_of(event.output)}, and its output is {self.output.__name__}; this is a "
                        "fault of the plugin."
                    )
        raise PluginError(f"The {self._label} ended events without its output; this is a fault of the plugin.")

    def _each(self, name: str, begin: Callable[[], Iterator[Any]], kinds: Any, must: str) -> Generator[Any, None, None]:
        """What an iterator of the task gives, as it gives it; each has to be of ``kinds``."""
        with deadline_within(self._bound.seconds):
            thread = PluginThread(self._label, self._bound)
        with thread:
            pieces = thread.call(name, lambda: iter(begin()))
            try:
                while True:
                    piece = thread.call(name, lambda: next(pieces, None))
                    if piece is None:
                        return
                    if not isinstance(piece, kinds):
                        raise PluginError(f"The {self._label} gave {kind_of(piece)} from {name}, and every piece must be {must}.")
                    yield piece
            finally:
                if not thread.lost:
                    thread.call(name, getattr(pieces, "close", _nothing))  # where the reader had enough


class _StreamingTask(GuardedTask):
    def stream(self, model: TaskModel, inputs: Any) -> Iterator[str]:
        """The task's pieces of text, as it yields them."""
        return self._each("stream", lambda: self._task.stream(model, inputs), str, "text")


def _nothing() -> None:
    """What closing an iterator does that is no generator."""
