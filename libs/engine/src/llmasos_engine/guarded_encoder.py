"""A guard around an encoder: it turns what the plugin raises into errors that name it, and checks what the plugin returns."""

from __future__ import annotations

from collections import abc
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_engine.guard import Guard
from llmasos_hookspecs import Encoder, EncoderInfo, EncoderRow
from llmasos_hookspecs.guarding.edge import kind_of
from llmasos_hookspecs.guarding.watchdog import Watch

Vectors = npt.NDArray[np.float32]


class GuardedEncoder(Guard):
    """An ``Encoder`` that enforces the contract on a plugin's encoder.

    ``encode`` may raise ``CapacityExceeded`` or any other ``Exception``, after which fewer rows can be tried. Any other exception, and a
    return value that breaks the contract, means that the encoder is lost: this call and all later ones raise ``EngineFailed``.
    ``shutdown`` never raises.

    Attributes:
        info: the encoder's ``EncoderInfo``, read once.
    """

    short_of_memory = may_fail = frozenset(("encode",))

    def __init__(self, encoder: Encoder, label: str = "encoder", watch: Watch | None = None) -> None:
        super().__init__(encoder, label, watch)
        self.info: Final[EncoderInfo] = encoder.info
        self._encoder = encoder

    def encode(self, rows: abc.Sequence[EncoderRow]) -> Vectors:
        found: Any = self._call("encode", self._encoder.encode, rows)
        wanted = (len(rows), self.info.dimensions)
        if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.shape != wanted:
            shown = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else kind_of(found)
            raise self.lose(f"The {self.label} returned {shown} from encode for {len(rows)} rows, and float32 of shape {wanted} is due.")
        return found
