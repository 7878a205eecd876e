"""Operators that a package adds to ONNX Runtime for linear layers, found by their entry points.

A package offers them in the group ``llmasos.onnx_operators``: an entry point names a class without arguments that is an ``OnnxOperators``.
Its name is that of the package llmasos-kernels-NAME, or NAME_VARIANT for operators that are only asked for by name. A loader that builds
ONNX graphs asks for those that are installed, and puts them in the place of ONNX Runtime's own where they take a layer's weights. So
neither knows the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_decoder_kit.installed import find_installed
from llmasos_hookspecs import Draw, QuantizedTensor

#: The group of entry points.
GROUP: Final = "llmasos.onnx_operators"


@attrs.frozen(eq=False, kw_only=True)
class PackedLinear:
    """Weights of a linear layer, packed for operators of another domain than ONNX's.

    ``product`` computes ``x @ weights.T + bias`` from (x float32 [..., columns], ``data``, bias float32 [rows] or nothing), with the same
    bits for a row of x in any batch. ``rows_of`` gives rows of the weights, dequantised, from (``data``, indices int64 [...]).

    With ``fuses`` two more inputs of ``product`` may follow: gamma float32 [columns], for which x becomes its RMS norm with the attribute
    ``epsilon``, and an addend of the shape of x, which is added first; the sum of both is the second output. With ``gates`` its attribute
    ``gated`` set to 1 makes the first half of the rows gates of the other: the result is ``silu(gate) * value``, float32 [..., rows / 2].

    Attributes:
        domain: of both operators.
        product, rows_of: their names.
        attributes: of both.
        data: uint8 [n, bytes], a constant of the graph.
        rows, columns: of the weights.
        bits: of a weight's code.
    """

    domain: str
    product: str
    rows_of: str
    attributes: Mapping[str, int | float]
    data: npt.NDArray[np.uint8]
    rows: int
    columns: int
    bits: int
    fuses: bool = False
    gates: bool = False


@attrs.frozen
class InstalledAttention:
    """An operator that computes attention of new tokens over a KV cache that it writes to, with the same bits for a token in any batch.

    Its inputs:

        query                   float32 [tokens, heads * width]
        past_key, past_value    float32 [sequences, kv_heads, length, width]
        packed                  int64 [tokens, 2]    the sequence of each token, and its place among the new ones of that
        queries                 int32 [sequences]    new tokens of each sequence
        seqlens                 int32 [sequences]    its length with them, less 1
        cosines, sines          float32 [positions, width / 2], or left out
        key, value              float32 [tokens, kv_heads * width], or left out: they stand behind each token's queries

    Its outputs: float32 [tokens, heads * width], present_key and present_value, which may be the memory of the past ones. Its attributes:
    ``heads``, ``kv_heads``, ``window`` (tokens that one sees, itself among them; 0: all), ``scale`` and ``softcap`` (0.0: none).
    """

    domain: str
    operator: str


class TokenDraws(Protocol):
    """Draws tokens from logits in the place of the runtime."""

    def draw(
        self, rows: Sequence[npt.NDArray[np.float32]] | npt.NDArray[np.float32], draws: Sequence[Draw], *, threads: int = 1
    ) -> npt.NDArray[np.int64]:
        """The token of each row of logits, [vocab] each or [n, vocab], int64 [n], as its ``Draw`` says; -1 where it holds NaN or infinity,
        or no token may be chosen. A row's token depends on that row and its draw alone. ``threads``: how many of the processor's cores it
        may use."""


class OnnxOperators(Protocol):
    """Operators of one package.

    Attributes:
        name: what the cache of built graphs tells them by, with the version of their layout, such as "mine/1".
        library: the shared library that registers them with a session.
        attention: the operator for attention, if there is one.
        draws: what draws tokens from the logits of a graph with these operators; None: the runtime does.
        pool: the entry of a session's configuration whose value, a number of threads, has the session's nodes run on so many threads of a
            pool that ``draws`` and other sessions use too; None: they run on the session's own. Operators made for earlier versions of
            this library do not have it.
    """

    name: str
    library: Path
    attention: InstalledAttention | None
    draws: TokenDraws | None
    pool: str | None

    def refusal(self) -> str | None:
        """Why they are not faster than ONNX Runtime's own on this machine, as the end of a sentence; None if they are.

        Raises ``ConfigError`` where an environment variable asks for what the machine does not have.
        """

    def linear(self, tensors: Sequence[QuantizedTensor]) -> PackedLinear | None:
        """One layer with the rows of all tensors, unchanged in value; None where the operators do not take their form."""


def find_operators(wanted: str) -> OnnxOperators | None:
    """The installed operators under ``wanted``, a name in ``GROUP``; with "auto" the first that are faster on this machine, or None.

    Raises:
        ConfigError: none of that name are installed, or an environment variable asks for what the machine does not have.
        PluginError: they cannot be imported.
    """
    found: OnnxOperators | None = find_installed(GROUP, wanted)
    return found
