"""The rotary tables that the graph's layers read.

If a rope has a ``switch``, a sequence longer than the switch has other frequencies. Between two switches a sequence is in one *phase*:
phase 0 up to the first switch, and so on; a model without switches has only phase 0.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_backend_onnx.heads import head_width
from llmasos_hookspecs import DecoderConfig, Rope

Floats = npt.NDArray[np.float32]


@attrs.frozen
class Ropes:
    """The distinct ropes of a decoder's layers.

    Attributes:
        ropes: each once, in the order of the layers.
        width: elements of a head in the graph.
        switches: lengths up to which a phase holds, ascending.
    """

    ropes: tuple[Rope, ...]
    width: int
    switches: tuple[int, ...]

    @classmethod
    def of(cls, config: DecoderConfig, context_length: int | None = None) -> Ropes:
        """The ropes of a decoder for sequences of at most ``context_length`` tokens; None: the model's own limit."""
        longest = config.context_length if context_length is None else context_length
        layers = [config.layer(index) for index in range(config.num_layers)]
        ropes = tuple(dict.fromkeys(layer.rope for layer in layers if layer.rope is not None))
        switches = {rope.switch for rope in ropes if rope.switch is not None and rope.switch < longest}
        return cls(ropes=ropes, width=head_width(config), switches=tuple(sorted(switches)))

    def inputs(self, rope: Rope) -> tuple[str, str]:
        """Names of the graph's inputs that hold a rope's cosines and sines."""
        number = self.ropes.index(rope)
        return ("cos", "sin") if number == 0 else (f"cos.{number}", f"sin.{number}")

    def phase(self, length: int) -> int:
        """The phase of a sequence of ``length`` tokens."""
        return bisect_left(self.switches, length)

    def tables(self, places: int, phase: int) -> Mapping[str, Floats]:
        """The contents of the inputs in a phase: float32 [places, width / 2], a row for each position."""
        length = self.switches[phase - 1] + 1 if phase else 1
        found: dict[str, Floats] = {}
        for rope in self.ropes:
            still = self.width // 2 - rope.dim // 2  # pairs that are not rotated
            for name, table, filler in zip(self.inputs(rope), rope.tables(places, length), (1, 0), strict=True):
                found[name] = np.pad(table, ((0, 0), (0, still)), constant_values=filler) if still else table
        return found
