"""A guard around an encoder: it turns what the plugin raises into errors that name it, and checks what the plugin returns."""

from __future__ import annotations

import logging
from collections import abc
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import CapacityExceeded, Encoder, EncoderInfo, EncoderRow, EngineFailed
from llmasos_hookspecs.guarding.edge import in_words, interrupted, kind_of
from llmasos_hookspecs.guarding.watchdog import Watch

_log = logging.getLogger("llmasos.engine")

Vectors = npt.NDArray[np.float32]


class GuardedEncoder:
    """An ``Encoder`` that enforces the contract on a plugin's encoder.

    ``encode`` may raise ``CapacityExceeded`` or any other ``Exception``, after which fewer rows can be tried. Any other exception, and a
    return value that breaks the contract, means that the encoder is lost: this call and all later ones raise ``EngineFailed``.
    ``shutdown`` never raises.

    Attributes:
        info: the encoder's ``EncoderInfo``, read once.
        label: names the plugin in messages.
        lost: why the encoder is lost; None while it is not.
    """

    def __init__(self, encoder: Encoder, label: str = "encoder", watch: Watch | None = None) -> None:
        self.info: Final[EncoderInfo] = encoder.info
        self.label: Final = label
        self.lost: EngineFailed | None = None
        self._encoder = encoder
        self._watch = watch or Watch()

    def check(self) -> None:
        """Raises ``EngineFailed`` where the encoder is lost."""
        if self.lost is not None:
            raise self.lost

    def lose(self, why: str) -> EngineFailed:
        """Mark the encoder as lost; returns the ``EngineFailed`` that says so."""
        if self.lost is None:
            self.lost = EngineFailed(why)
        return self.lost

    def encode(self, rows: abc.Sequence[EncoderRow]) -> Vectors:
        self.check()
        watch = self._watch
        before, watch.calling = watch.calling, (self.label, "encode")
        try:
            found: Any = self._encoder.encode(rows)
        except MemoryError as error:
            raise CapacityExceeded(f"The {self.label} ran out of memory in encode.") from error
        except EngineFailed as error:
            raise self.lose(f"The {self.label} failed in encode: {str(error).rstrip().rstrip('.')}.") from error
        except BaseException as error:
            if interrupted(error) or isinstance(error, Exception):
                raise
            raise self.lose(f"The {self.label} failed in encode: {in_words(error)}.") from error
        finally:
            watch.calling = before
        self.check()  # it may have been given up while it computed
        wanted = (len(rows), self.info.dimensions)
        if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.shape != wanted:
            shown = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else kind_of(found)
            raise self.lose(f"The {self.label} returned {shown} from encode for {len(rows)} rows, and float32 of shape {wanted} is due.")
        return found

    def shutdown(self) -> None:
        try:
            self._encoder.shutdown()
        except BaseException as error:
            if interrupted(error):
                raise
            _log.warning("The %s failed to shut down: %s.", self.label, in_words(error))
