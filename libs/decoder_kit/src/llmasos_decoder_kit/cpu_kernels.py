"""Kernels that a package offers for quantised layers and attention on CPUs, over memory, for loaders whose framework has none as fast.

A package offers them in the group ``llmasos.cpu_kernels``: an entry point names a class without arguments that is a ``CpuKernels``.
Memory is given by its address, because a step of a small model makes hundreds of calls: the caller answers for contiguous float32 (or
int64) memory of the sizes that are told, which lives until the call returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_decoder_kit.installed import find_installed
from llmasos_hookspecs import QuantizedTensor

Floats = npt.NDArray[np.float32]

#: The group of entry points.
GROUP: Final = "llmasos.cpu_kernels"


@attrs.frozen(eq=False)
class RmsNorm:
    """The RMS norm of a layer's input: gamma float32 [columns], and what is added to the mean square."""

    gamma: Floats
    epsilon: float


@attrs.frozen(eq=False, kw_only=True)
class AttentionOf:
    """How a model attends.

    Attributes:
        heads, kv_heads: of queries, and of keys and values.
        width: of a head.
        scale: of scores.
        window: tokens that one sees, itself among them; 0: all before it.
        cosines, sines: float32 [positions, width / 2], by which the halves of queries and keys are rotated.
    """

    heads: int
    kv_heads: int
    width: int
    scale: float
    window: int
    cosines: Floats
    sines: Floats


class CpuLinear(Protocol):
    """A linear layer. ``nbytes``: of its weights, scales and bias."""

    nbytes: int

    def __call__(self, count: int, x: int, out: int, *, addend: int = 0, total: int = 0) -> None:
        """``out`` [count, rows], or [count, rows / 2] of gates, of ``x`` [count, columns]; with ``addend`` [count, columns], which is added
        first, of their sum, which is written to ``total`` unless that is 0. ``total`` and ``out`` overlap no input.

        Raises ``LLMasOSError`` where there is no memory.
        """
        ...


class CpuAttention(Protocol):
    """Attention of new tokens over keys and values, which it writes."""

    def __call__(self, count: int, states: int, places: int, keys: int, values: int, length: int, out: int) -> None:
        """``out`` [count, heads * width].

        Args:
            count: new tokens.
            states: queries, keys and values of each, side by side, [count, (heads + 2 * kv_heads) * width].
            places: int64 [count, 2], the sequence and the position of each; those of a sequence are neighbours, in order.
            keys, values: [sequences, kv_heads, length, width].
            length: positions of a sequence.
            out: what each token attended to.

        Raises ``LLMasOSError`` for a position beyond ``length``, and where there is no memory.
        """
        ...


class CpuKernels(Protocol):
    """The kernels of one package; the result for a token has the same bits in any batch."""

    def refusal(self) -> str | None:
        """Why they are not faster than a framework's own on this machine, as the end of a sentence; None if they are.

        Raises ``ConfigError`` where an environment variable asks for what the machine does not have.
        """
        ...

    def linear(
        self,
        tensors: Sequence[QuantizedTensor],
        *,
        threads: int,
        bias: Floats | None = None,
        norm: RmsNorm | None = None,
        gated: bool = False,
    ) -> CpuLinear | None:
        """One layer with the rows of all tensors, unchanged in value; None where they are not taken.

        Args:
            tensors: of the same columns.
            threads: that compute it.
            bias: float32 [rows], added last.
            norm: of the input, after the addend.
            gated: the first half of the rows are gates of the other; the result is ``silu(gate) * value``.
        """
        ...

    def attention(self, form: AttentionOf, *, threads: int) -> CpuAttention | None:
        """Attention of that form; None where it is not taken."""
        ...


def find_kernels(wanted: str) -> CpuKernels | None:
    """The installed kernels under ``wanted``, a name in ``GROUP``; with "auto" the first that are faster on this machine, or None.

    Raises:
        ConfigError: none of that name are installed, or an environment variable asks for what the machine does not have.
        PluginError: they cannot be imported.
    """
    found: CpuKernels | None = find_installed(GROUP, wanted)
    return found
