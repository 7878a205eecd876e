"""The transcriber or speaker of the config, made when it is first used."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from llmasos_hookspecs import Context

T = TypeVar("T")


class Reached(Generic[T]):
    """A component of the config. Tasks are made to be listed too, so that making one must load no weights."""

    def __init__(self, context: Context, kind: str) -> None:
        self._context = context
        self._kind = kind
        self._made: T | None = None
        self._lock = threading.Lock()

    def get(self) -> T:
        """The component, made once. Raises ``PluginError`` where it is not installed, and what making it raises."""
        with self._lock:
            if self._made is None:
                self._made = self._context.component(self._kind).make()
            return self._made
