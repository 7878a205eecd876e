"""What the guards around a plugin's engine and a plugin's encoder have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol, TypeVar

from llmasos_hookspecs import CapacityExceeded, EngineFailed
from llmasos_hookspecs.guarding.edge import in_words, interrupted
from llmasos_hookspecs.guarding.watchdog import Watch

_log = logging.getLogger("llmasos_engine")

R = TypeVar("R")


class _Closable(Protocol):
    def shutdown(self) -> None: ...


class Guard:
    """Calls the methods of a plugin's object: what they raise becomes an error that names the plugin.

    Once the object is lost, every later call raises ``EngineFailed``. ``shutdown`` never raises.

    Attributes:
        label: names the plugin in messages.
        lost: why the object is lost; None while it is not.
    """

    #: Methods that may raise ``CapacityExceeded``, or run out of memory, without the object being lost.
    short_of_memory: ClassVar[frozenset[str]]
    #: Methods that may raise any ``Exception`` without the object being lost.
    may_fail: ClassVar[frozenset[str]]

    def __init__(self, guarded: _Closable, label: str, watch: Watch | None) -> None:
        self.label: Final = label
        self.lost: EngineFailed | None = None
        self._guarded = guarded
        self._watch = watch or Watch()

    def check(self) -> None:
        """Raises ``EngineFailed`` where the object is lost."""
        if self.lost is not None:
            raise self.lost

    def lose(self, why: str) -> EngineFailed:
        """Mark the object as lost; returns the ``EngineFailed`` that says so."""
        if self.lost is None:
            self.lost = EngineFailed(why)
        return self.lost

    def shutdown(self) -> None:
        """Free what the object holds."""
        try:
            self._guarded.shutdown()
        except BaseException as error:
            if interrupted(error):
                raise
            _log.warning("The %s failed to shut down: %s.", self.label, in_words(error))

    def _call(self, method: str, function: Callable[..., R], *arguments: Any) -> R:
        if self.lost is not None:
            raise self.lost
        watch = self._watch
        before, watch.calling = watch.calling, (self.label, method)
        try:
            result = function(*arguments)
        except CapacityExceeded:
            if method in self.short_of_memory:
                raise
            raise self.lose(f"The {self.label} raised CapacityExceeded from {method}, which needs no memory.") from None
        except MemoryError as error:
            if method in self.short_of_memory:
                raise CapacityExceeded(f"The {self.label} ran out of memory in {method}.") from error
            raise self.lose(f"The {self.label} ran out of memory in {method}.") from error
        except EngineFailed as error:
            raise self.lose(f"The {self.label} failed in {method}: {_sentence(error)}") from error
        except BaseException as error:
            if interrupted(error) or (isinstance(error, Exception) and method in self.may_fail):
                raise
            raise self.lose(f"The {self.label} failed in {method}: {in_words(error)}.") from error
        finally:
            watch.calling = before
        if self.lost is not None:  # it may have been given up while it computed
            raise self.lost
        return result


def _sentence(error: Exception) -> str:
    text = str(error).rstrip()
    return text if text.endswith(".") else f"{text}."
