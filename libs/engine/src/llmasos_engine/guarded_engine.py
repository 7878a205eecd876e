"""A guard around an engine: it turns what the plugin raises into errors that name it, and checks what the plugin returns."""

from __future__ import annotations

import logging
from collections import abc
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_engine.guard import Guard
from llmasos_hookspecs import Engine, EngineFailed, EngineInfo, Media, Row
from llmasos_hookspecs.guarding.edge import crossing, kind_of
from llmasos_hookspecs.guarding.watchdog import Watch

_log = logging.getLogger("llmasos_engine")

_LISTS: Final = (list, tuple)
_FLOAT32: Final = np.dtype(np.float32)


class GuardedEngine(Guard):
    """An ``Engine`` that enforces the contract on a plugin's engine.

    ``open`` and ``fork`` may raise ``CapacityExceeded``; ``step`` may also raise any other ``Exception``, after which its slots can be
    truncated back; other errors of ``fork`` pass through, because core can recompute a prefix instead. Any other exception, and a return
    value that breaks the contract, means that the engine is lost: this call and all later ones raise ``EngineFailed``. ``close`` and
    ``shutdown`` never raise, so that a sequence can always be removed; the next ``check`` reports a failed ``close``.

    Attributes:
        info: the engine's ``EngineInfo``, read once.
    """

    short_of_memory = frozenset(("open", "fork", "step"))
    may_fail = frozenset(("fork", "step"))

    def __init__(self, engine: Engine, label: str = "engine", watch: Watch | None = None) -> None:
        super().__init__(engine, label, watch)
        self.info: Final[EngineInfo] = engine.info
        self._engine = engine
        self._slots: set[int] = set()
        self._usual_shape: Final = (1, self.info.vocab_size)

    def open(self) -> int:
        return self._new_slot("open", self._call("open", self._engine.open))

    def fork(self, slot: int) -> int:
        return self._new_slot("fork", self._call("fork", self._engine.fork, slot))

    def step(self, rows: abc.Sequence[Row]) -> list[npt.NDArray[Any]]:
        results: Any = self._call("step", self._engine.step, rows)
        if not isinstance(results, _LISTS) or len(results) != len(rows):
            raise self.lose(f"The {self.label} returned {_described(results)} from step for {len(rows)} rows.")
        usual = self._usual_shape
        for row, result in zip(rows, results, strict=True):
            if row.want == "last" and row.draw is None and getattr(result, "shape", None) == usual and result.dtype is _FLOAT32:
                continue  # which is quicker to tell than the rest
            if not self._fits(row, result):
                raise self.lose(f'The {self.label} returned {_described(result)} from step for a row that wants "{row.want}".')
        return results if isinstance(results, list) else list(results)

    def media_length(self, media: Media) -> int:
        """The positions that the media takes; from any thread. Raises ``RequestError`` where the engine takes no such media, and
        ``PluginError`` where it fails to tell, which loses nothing."""
        with crossing(self.label, "media_length"):
            length: Any = self._engine.media_length(media)  # type: ignore[attr-defined] # asked only of a MediaEngine, and checked by _engine
            if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 1:
                raise TypeError(f"{_described(length)} is no number of positions")
        return int(length)

    def truncate(self, slot: int, length: int) -> None:
        self._call("truncate", self._engine.truncate, slot, length)

    def close(self, slot: int) -> None:
        self._slots.discard(slot)
        if self.lost is None:
            try:
                self._call("close", self._engine.close, slot)
            except EngineFailed as error:
                _log.error("%s", error)

    def _new_slot(self, method: str, slot: Any) -> int:
        if isinstance(slot, bool) or not isinstance(slot, int | np.integer):
            raise self.lose(f"The {self.label} returned {_described(slot)} from {method}, and a slot is a whole number.")
        if slot in self._slots:
            raise self.lose(f"The {self.label} returned the slot {slot} from {method}, which is open already.")
        self._slots.add(int(slot))
        return int(slot)

    def _fits(self, row: Row, result: Any) -> bool:
        if not isinstance(result, np.ndarray):
            return False
        if row.draw is not None:
            return result.shape == (1,) and result.dtype.kind in "iu" and -1 <= int(result[0]) < self.info.vocab_size
        wanted = {"last": 1, "none": 0}.get(row.want, len(row.tokens))
        width = self.info.hidden_size if row.want == "hidden" else self.info.vocab_size
        return result.dtype.kind == "f" and len(result) == wanted and (not wanted or result.shape[1:] == (width,))


def _described(value: Any) -> str:
    """A plugin's return value in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    if isinstance(value, list | tuple):
        return f"{len(value)} results"
    return kind_of(value)
