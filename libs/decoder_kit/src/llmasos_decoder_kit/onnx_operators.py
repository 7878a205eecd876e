"""Operators that a package adds to ONNX Runtime for linear layers, found by their entry points.

A package offers them in the group ``llmasos.onnx_operators``: an entry point names a class without arguments that is an ``OnnxOperators``.
A loader that builds ONNX graphs asks for those that are installed, and puts them in the place of ONNX Runtime's own where they take a
layer's weights. So neither knows the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final, Protocol

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import ConfigError, PluginError, QuantizedTensor

#: The group of entry points.
GROUP: Final = "llmasos.onnx_operators"


@attrs.frozen(eq=False, kw_only=True)
class PackedLinear:
    """Weights of a linear layer, packed for operators of another domain than ONNX's.

    ``product`` computes ``x @ weights.T + bias`` from (x float32 [..., columns], ``data``, bias float32 [rows] or nothing), with the same
    bits for a row of x in any batch. ``rows_of`` gives rows of the weights, dequantised, from (``data``, indices int64 [...]).

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
    attributes: Mapping[str, int]
    data: npt.NDArray[np.uint8]
    rows: int
    columns: int
    bits: int


class OnnxOperators(Protocol):
    """Operators of one package.

    Attributes:
        name: what the cache of built graphs tells them by, with the version of their layout, such as "mine/1".
        library: the shared library that registers them with a session.
    """

    name: str
    library: Path

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
    points = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if wanted != "auto":
        if wanted not in points:
            known = ", ".join(sorted(points)) or "none are"
            raise ConfigError(
                f'kernels is "{wanted}", and no installed package offers operators of that name (installed: {known}); '
                f"pip install llmasos-kernels-{wanted}, or leave it at 'auto'.",
                "loader.kernels",
            )
        return _made(points[wanted])
    for name in sorted(points):
        operators = _made(points[name])
        if operators.refusal() is None:
            return operators
    return None


def _made(point: metadata.EntryPoint) -> OnnxOperators:
    try:
        made: OnnxOperators = point.load()()
    except Exception as error:
        raise PluginError(f'The operators "{point.name}" of {point.value} cannot be loaded: {error}; install it again.') from error
    return made
