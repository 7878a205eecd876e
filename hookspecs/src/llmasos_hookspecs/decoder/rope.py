"""Rotary position embeddings and the scalings that stretch them.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv:2104.09864.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:  # numpy takes 50 ms to import, more than a plugin's module may cost
    import numpy as np
    import numpy.typing as npt

KINDS = ("linear", "llama3", "yarn", "longrope")


@attrs.frozen(kw_only=True)
class RopeScaling:
    """Frequency scaling of rotary embeddings.

    Attributes:
        kind: ``linear`` (positions divided by ``factor``), ``llama3`` (low frequencies divided by ``factor``, high ones kept, those between
            blended; see the Llama 3.1 model card's reference code), ``yarn`` (the same idea with a ramp over dimensions; Peng et al.,
            arXiv:2309.00071) or ``longrope`` (a divisor for each frequency, one set up to ``original_max_position`` tokens and another for
            longer sequences; Ding et al., arXiv:2402.13753).
        factor: of ``linear``, ``llama3`` and ``yarn``.
        low_freq_factor, high_freq_factor: where the blend of ``llama3`` begins and ends, in turns over ``original_max_position`` tokens.
        original_max_position: tokens of the context that the model was first trained for.
        beta_fast, beta_slow: turns over ``original_max_position`` tokens between which ``yarn`` ramps.
        truncate: whether the ramp of ``yarn`` begins and ends at whole dimensions.
        attention_factor: what cosines and sines are multiplied by.
        short_factor, long_factor: divisors of ``longrope``, one a frequency.
    """

    kind: str = attrs.field(validator=attrs.validators.in_(KINDS))
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()


@attrs.frozen(kw_only=True)
class Rope:
    """How the queries and keys of a layer are rotated.

    Attributes:
        theta: base of the wavelengths.
        dim: elements of each head that are rotated, the first ones; even.
        interleaved: pairs are neighbours (0, 1), (2, 3); otherwise an element and its counterpart half of ``dim`` away.
        scaling: None where frequencies are as trained.
    """

    theta: float
    dim: int
    interleaved: bool = False
    scaling: RopeScaling | None = None

    @property
    def switch(self) -> int | None:
        """Tokens up to which a sequence has other frequencies than a longer one; None where the length does not matter.

        A longer sequence has other frequencies at *every* position, also at its first tokens, so that keys that were rotated before the
        sequence grew past ``switch`` are invalid after that.
        """
        if self.scaling is None or self.scaling.kind != "longrope" or self.scaling.short_factor == self.scaling.long_factor:
            return None
        return self.scaling.original_max_position

    def inverse_frequencies(self, length: int = 1) -> npt.NDArray[np.float32]:
        """Angular frequency of each pair in radians per position, for a sequence of ``length`` tokens: float32 [dim / 2]."""
        import numpy as np

        exponents = np.arange(0, self.dim, 2, dtype=np.float32) / np.float32(self.dim)
        wavelengths = np.power(self.theta, exponents.astype(np.float64))  # over 2 pi
        plain = (1.0 / wavelengths).astype(np.float32)
        scaling = self.scaling
        if scaling is None:
            return plain
        if scaling.kind == "linear":
            return (plain / np.float32(scaling.factor)).astype(np.float32)
        if scaling.kind == "llama3":
            return _llama3(plain, scaling)
        if scaling.kind == "yarn":
            return _yarn(wavelengths, self, scaling)
        divisors = scaling.long_factor if length > scaling.original_max_position else scaling.short_factor
        return (1.0 / (np.asarray(divisors, dtype=np.float32) * wavelengths.astype(np.float32))).astype(np.float32)

    def tables(self, positions: int, length: int = 1) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Cosines and sines of positions 0 .. ``positions`` - 1 in sequences of ``length`` tokens: float32 [positions, dim / 2] each, times
        the scaling's ``attention_factor``."""
        import numpy as np

        # The angle is rounded to float32 before its cosine is taken, as the reference implementations do: at position 8,000 a more
        # exact angle would differ from theirs by up to 5e-4.
        angles = np.arange(positions, dtype=np.float32)[:, None] * self.inverse_frequencies(length)[None, :]
        factor = np.float32(1.0 if self.scaling is None else self.scaling.attention_factor)
        return np.cos(angles) * factor, np.sin(angles) * factor


def _llama3(plain: npt.NDArray[np.float32], scaling: RopeScaling) -> npt.NDArray[np.float32]:
    import numpy as np

    turns = scaling.original_max_position * plain.astype(np.float64) / (2 * math.pi)
    blend = np.clip((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0)
    scaled: npt.NDArray[np.float32] = ((1 - blend) * plain / scaling.factor + blend * plain).astype(np.float32)
    return scaled


def _yarn(wavelengths: npt.NDArray[np.float64], rope: Rope, scaling: RopeScaling) -> npt.NDArray[np.float32]:
    import numpy as np

    def dimension(turns: float) -> float:
        """The dimension whose pair turns so often over the original context."""
        return rope.dim * math.log(scaling.original_max_position / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(rope.dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    scaled: npt.NDArray[np.float32] = (ramp / (scaling.factor * wavelengths) + (1 - ramp) / wavelengths).astype(np.float32)
    return scaled
