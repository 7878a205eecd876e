"""Prefill and decode rates in tokens a second, smoothed."""

from __future__ import annotations

from typing import Final

#: Seconds of computing after which an old measurement counts half.
_HALF_LIFE: Final = 10.0
#: Seconds of computing that are one measurement: steps are added up to it, because a power is the dearest operation of a short step.
_MEASURED: Final = 0.1


class _Rate:
    """Attributes: new_tokens, new_seconds: what was added since the last ``settle``."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0
        self.new_tokens = 0
        self.new_seconds = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self.new_tokens += tokens
        self.new_seconds += seconds
        if self.new_seconds > _MEASURED:
            self.settle()

    def settle(self) -> None:
        """Make what is new one measurement."""
        self._tokens, self._seconds = self._sums()
        self.new_tokens, self.new_seconds = 0, 0.0

    def _sums(self) -> tuple[float, float]:
        keep = 0.5 ** (self.new_seconds / _HALF_LIFE)
        return self._tokens * keep + self.new_tokens, self._seconds * keep + self.new_seconds

    @property
    def value(self) -> float:
        tokens, seconds = self._sums()
        return tokens / seconds if seconds > 0 else 0.0


class Rates:
    """Tokens a second of prefill and of decode; 0 before the first measurement."""

    def __init__(self) -> None:
        self._prefill = _Rate()
        self._decode = _Rate()

    def add(self, prefill: int, decode: int, seconds: float) -> None:
        """Add a step of ``seconds``. A mixed step is split: decode is charged its usual time, prefill the rest."""
        if prefill == 0:  # as most steps, which get by without another call
            rate = self._decode
            rate.new_tokens += decode
            rate.new_seconds += seconds
            if rate.new_seconds > _MEASURED:
                rate.settle()
            return
        usual = decode / self.decode if decode and self.decode else 0.0
        self._prefill.add(prefill, max(seconds - usual, seconds * prefill / (prefill + decode)))

    @property
    def prefill(self) -> float:
        return self._prefill.value

    @property
    def decode(self) -> float:
        return self._decode.value
