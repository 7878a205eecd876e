"""What encoders made of media, kept for later prompts that hold the same image or the same source."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from llmasos_hookspecs import EngineLimits, Media

T = TypeVar("T")

#: Largest share of what a memory limit leaves beside the weights: the KV cache has the rest.
_SHARE: Final = 4


class EncodedMedia(Generic[T]):
    """Encoder outputs by sharer (``Row.sharer``) and digest, within a number of bytes; those used least recently go first.

    An output serves rows of its own sharer only, so that the time of a step reveals nothing about other tenants' media. An engine prepares
    media in one way (``EngineInfo.preprocessing``), so the digest names the output. Nobody may write to an output.

    Attributes:
        capacity: bytes that are kept at most; ``EngineInfo.media_bytes``.
        used: bytes that are kept.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity: Final = capacity
        self.used = 0
        self._kept: OrderedDict[tuple[str, str, str], tuple[T, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, sharer: str, media: Media) -> T | None:
        """What was made of ``media`` for this sharer; None where nothing is kept. The empty sharer shares with nobody."""
        key = (sharer, media.kind, media.digest)
        if not sharer or key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def add(self, sharer: str, media: Media, made: T, nbytes: int) -> None:
        """Keep what was made of ``media``, which takes ``nbytes`` bytes, unless it is larger than the whole."""
        if not sharer or nbytes > self.capacity:
            return
        key = (sharer, media.kind, media.digest)
        if key in self._kept:
            self.used -= self._kept.pop(key)[1]
        while self.used + nbytes > self.capacity:
            self.used -= self._kept.popitem(last=False)[1][1]
        self._kept[key] = (made, nbytes)
        self.used += nbytes

    def obtain(self, sharer: str, media: Media, make: Callable[[], T], nbytes: Callable[[T], int]) -> T:
        """What is kept of ``media`` for this sharer, or else what ``make`` gives, which is kept."""
        found = self.get(sharer, media)
        if found is None:
            found = make()
            self.add(sharer, media, found, nbytes(found))
        return found

    def clear(self) -> None:
        """Forget all outputs."""
        self._kept.clear()
        self.used = 0


def media_bytes(limits: EngineLimits, weight_bytes: int, most: int) -> int:
    """Bytes for encoder outputs: ``most``, or a quarter of what the memory limit leaves beside the weights where that is less."""
    return most if limits.memory is None else max(0, min(most, (limits.memory - weight_bytes) // _SHARE))
