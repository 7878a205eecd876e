"""Sound at another sample rate."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Sound = npt.NDArray[np.float32]

#: Zero crossings of the filter on either side: frequencies below 0.9 of the lower rate's half pass, and what would be mirrored does not.
_CROSSINGS: Final = 16
_PASSED: Final = 0.94
#: Samples that are made at once; each takes some 60 products.
_BLOCK: Final = 4096


class Resampler:
    """A recording at another rate, piece by piece; however it is cut, the samples are the same. float32 [n] in and out."""

    def __init__(self, source: int, target: int) -> None:
        self._source: Final = source
        self._target: Final = target
        self._cutoff: Final = _PASSED * min(1.0, target / source)
        self._reach: Final = int(np.ceil(_CROSSINGS / self._cutoff))
        #: What is still needed of the input; it begins at the sample ``_begun``. Before the recording there is silence.
        self._kept: Sound = np.zeros(self._reach, np.float32)
        self._begun = -self._reach
        self._taken = 0
        self._made = 0

    def push(self, audio: Sound) -> Sound:
        """The samples that no later input can change."""
        if self._source == self._target:
            return np.array(audio, np.float32)
        self._taken += len(audio)
        self._kept = np.concatenate([self._kept, audio])
        # Output n lies at n * source / target of the input; as integers, because minutes of sound leave the exact range of float32.
        return self._up_to(-(-max(0, self._taken - self._reach) * self._target // self._source))

    def finish(self) -> Sound:
        """The rest: as many samples in all as the recording is long."""
        if self._source == self._target:
            return np.zeros(0, np.float32)
        self._kept = np.concatenate([self._kept, np.zeros(2 * self._reach, np.float32)])
        return self._up_to(-(-self._taken * self._target // self._source))

    def _up_to(self, end: int) -> Sound:
        """The samples from the next one to ``end``."""
        blocks = [np.zeros(0, np.float32)]
        while self._made < end:
            number = np.arange(self._made, min(end, self._made + _BLOCK), dtype=np.int64) * self._source
            whole, part = number // self._target, (number % self._target) / self._target
            offsets = np.arange(-self._reach + 1, self._reach + 1)
            distance = offsets[None, :] - part[:, None]
            window = 0.5 + 0.5 * np.cos(np.pi * np.clip(distance / self._reach, -1, 1))
            weights = self._cutoff * np.sinc(self._cutoff * distance) * window
            found = self._kept[(whole[:, None] + offsets[None, :]) - self._begun]
            blocks.append((found * weights).sum(axis=1).astype(np.float32))
            self._made += len(number)
        needed = self._made * self._source // self._target - self._reach
        if needed > self._begun:
            self._kept, self._begun = self._kept[needed - self._begun :], needed
        return np.concatenate(blocks)


def resampled(audio: Sound, source: int, target: int) -> Sound:
    """A whole recording at another rate."""
    resampler = Resampler(source, target)
    return np.concatenate([resampler.push(audio), resampler.finish()])
