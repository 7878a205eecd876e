"""Media: what a prompt holds beside text tokens, such as an image, or the source text of an encoder-decoder.

Each position of media in a prompt is a *virtual token*: a number past the vocabulary that depends on the content of the media and on the
place within it. What compares token ids (the prefix cache, forks of running sequences) thereby tells one image from another, and what
counts them (the KV ledger, scheduling policies) needs to know nothing of media.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any, Final

import attrs

from llmasos_hookspecs.errors import RequestError

if TYPE_CHECKING:
    import numpy.typing as npt

#: The kind of the source of an encoder-decoder: its data are token ids, int64 [n], which the decoder attends to.
SOURCE: Final = "source"

#: Bits of a virtual token past the vocabulary: with the largest vocabulary it still fits a signed 64-bit number.
_BITS: Final = 62


@attrs.frozen
class Media:
    """One image, sound or source text, ready for an engine. Media are equal where their kinds and digests are.

    Attributes:
        kind: ``source``, or what the engine says that it takes, such as ``image``.
        data: a numpy array of numbers, as the kind has it; nobody writes to it.
        digest: hexadecimal SHA-256 of kind, dtype, shape and bytes.
    """

    kind: str
    data: npt.NDArray[Any] = attrs.field(eq=False, repr=False)
    digest: str

    @classmethod
    def of(cls, kind: str, data: npt.ArrayLike) -> Media:
        """Media of this content. Raises ``RequestError`` where ``data`` is no array of numbers, or empty."""
        import numpy as np  # here, because scheduling policies import the contract and no numpy

        array = np.ascontiguousarray(data)
        if array is data:
            array = array.copy()
        if array.dtype.kind not in "biuf" or not array.size:
            raise RequestError(f"The {kind} is {array.dtype} of shape {array.shape}, and media are numbers, one at least.")
        array.flags.writeable = False
        return cls(kind, array, media_digest(kind, array))


def media_digest(kind: str, data: npt.NDArray[Any]) -> str:
    """Hexadecimal SHA-256 of kind, dtype, shape and bytes of media."""
    found = hashlib.sha256(f"{kind}\0{data.dtype.str}\0{data.shape}\0".encode())
    found.update(data.tobytes())
    return found.hexdigest()


@attrs.frozen
class PlacedMedia:
    """Media at its place in a sequence.

    Attributes:
        media: the media.
        start: position of its first virtual token.
        length: its virtual tokens, as ``MediaEngine.media_length`` counts them.
        whole: all of it is computed in one step, because its positions attend to each other in both directions. A source always is.
    """

    media: Media
    start: int
    length: int
    whole: bool = False

    @property
    def end(self) -> int:
        """The position after its last virtual token."""
        return self.start + self.length


def virtual_tokens(media: Media, length: int, vocab_size: int, preprocessing: str = "") -> list[int]:
    """The ``length`` virtual tokens of media: ``vocab_size`` plus 62 bits of SHA-256 over digest, preprocessing and offset.

    ``preprocessing`` is ``EngineInfo.preprocessing``: engines that prepare the same media in different ways share no prefix.
    """
    start = hashlib.sha256(f"{media.digest}\0{preprocessing}\0".encode())
    tokens = []
    for offset in range(length):
        each = start.copy()
        each.update(struct.pack("<Q", offset))
        tokens.append(vocab_size + (int.from_bytes(each.digest()[:8], "little") >> (64 - _BITS)))
    return tokens
