"""The voice contracts: sound to text, and text to sound.

Sound is mono float32 [n], -1 to 1, at the ``sample_rate`` of the component that takes or makes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@attrs.frozen(kw_only=True)
class Segment:
    """Words that were heard.

    Attributes:
        text: the words, without blanks at either end; not empty.
        start, end: seconds since the transcription began.
    """

    text: str
    start: float
    end: float


class Transcription(Protocol):
    """One recording on its way into text; used by one thread at a time.

    However a recording is cut into pieces, the words are the same. The caller may use its array again once ``push`` has returned.
    """

    def push(self, audio: npt.NDArray[np.float32]) -> Sequence[Segment]:
        """The next piece of the recording, float32 [n]: the segments that are final now, and not told before."""
        ...

    def finish(self) -> Sequence[Segment]:
        """The recording is complete: the rest of its segments. Nothing is pushed after it."""
        ...


@runtime_checkable
class Transcriber(Protocol):
    """Writes down what is said. Thread-safe; its transcriptions do not know of one another.

    Attributes:
        sample_rate: of the recordings that it takes, in Hertz.
        languages: ISO 639 codes of those that it understands; empty where it does not say.
    """

    @property
    def sample_rate(self) -> int: ...
    @property
    def languages(self) -> tuple[str, ...]: ...

    def open(self, language: str = "") -> Transcription:
        """Begin a recording in ``language``, one of ``languages``; empty: the transcriber's own choice. Raises ``RequestError`` for a
        language that it does not understand."""
        ...


@runtime_checkable
class Speaker(Protocol):
    """Says texts aloud. Thread-safe.

    Attributes:
        sample_rate: of the sound that it makes, in Hertz.
        languages: ISO 639 codes of those that it speaks; empty where it does not say.
    """

    @property
    def sample_rate(self) -> int: ...
    @property
    def languages(self) -> tuple[str, ...]: ...

    def speak(self, text: str) -> Iterator[npt.NDArray[np.float32]]:
        """The sound of any text, float32 [n] piece by piece, each an array of its own. Nothing, or silence, for a text that has no words.
        Closing the iterator before its end frees all that it holds."""
        ...
