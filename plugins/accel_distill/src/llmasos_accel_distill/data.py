"""Training and held-out sequences."""

from __future__ import annotations

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import AccelerationError

Tokens = npt.NDArray[np.int32]

#: Consecutive tokens that two sequences must share to count as overlapping; fewer may be a common phrase.
_SHARED = 16


@attrs.frozen(eq=False)
class Sequences:
    """Token ids, int32 [sequences, length]; no held-out sequence shares text with a training one."""

    training: Tokens
    held_out: Tokens

    @classmethod
    def split(cls, windows: Tokens, held_out: int) -> Sequences:
        """Hold out the last windows, and drop the training windows that overlap them.

        Raises:
            AccelerationError: the text is too short; no training window is left.
        """
        training, held = windows[:-held_out], windows[-held_out:]
        apart = [index for index, window in enumerate(training) if not any(_overlap(window, other) for other in held)]
        if not apart:
            raise AccelerationError("The calibration text is too short: every sequence reaches into those held out; give a longer corpus.")
        return cls(training[apart], held)

    def batch(self, step: int, size: int, seed: int) -> Tokens:
        """The sequences of a step, int32 [size, length]; every epoch has its own shuffle. Depends only on its arguments, so that a resumed
        run sees the same batches as an uninterrupted one."""
        count = len(self.training)
        places = range(step * size, (step + 1) * size)
        chosen = [np.random.default_rng((seed, place // count)).permutation(count)[place % count] for place in places]
        return self.training[chosen]


def _overlap(left: Tokens, right: Tokens) -> bool:
    """Whether two windows of one text overlap."""
    probe = right[:_SHARED], right[-_SHARED:]
    spans = np.lib.stride_tricks.sliding_window_view(left, min(_SHARED, len(left)))
    return any(bool((spans == part).all(axis=1).any()) for part in probe)
