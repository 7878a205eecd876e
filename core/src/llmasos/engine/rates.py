"""Prefill and decode rates in tokens a second, smoothed."""

from __future__ import annotations

from typing import Final

#: Seconds of computing after which an old measurement counts half.
_HALF_LIFE: Final = 10.0


class _Rate:
    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        keep = 0.5 ** (seconds / _HALF_LIFE)
        self._tokens = self._tokens * keep + tokens
        self._seconds = self._seconds * keep + seconds

    @property
    def value(self) -> float:
        return self._tokens / self._seconds if self._seconds > 0 else 0.0


class Rates:
    """Tokens a second of prefill and of decode; 0 before the first measurement."""

    def __init__(self) -> None:
        self._prefill = _Rate()
        self._decode = _Rate()

    def add(self, prefill: int, decode: int, seconds: float) -> None:
        """Add a step of ``seconds``. A mixed step is split: decode is charged its usual time, prefill the rest."""
        if prefill == 0:
            self._decode.add(decode, seconds)
            return
        usual = decode / self.decode if decode and self.decode else 0.0
        self._prefill.add(prefill, max(seconds - usual, seconds * prefill / (prefill + decode)))

    @property
    def prefill(self) -> float:
        return self._prefill.value

    @property
    def decode(self) -> float:
        return self._decode.value
