"""The files of a built model, by name, and what stands in their place where nothing may touch the disk.

Apart from ``graph``, which writes them: that imports onnx, which a graph that is there does not need.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

#: Name of the weights' file in the model's folder.
WEIGHTS: Final = "weights.bin"
#: The graph of a model.
MODEL: Final = "model.onnx"
#: The same with float activations for its 4-bit layers.
FLOAT_MODEL: Final = "model_float_activations.onnx"
#: The same with int8 GEMM for its quantised layers: see ``integer``.
INTEGER_MODEL: Final = "model_integer_products.onnx"


@attrs.define(eq=False)
class InMemory:
    """Graphs that were written into no file.

    Attributes:
        graphs: name -> the graph, serialised, and the names of the large initializers in it.
        weights: name of each large initializer -> ONNX's number of its type, its shape, and its bytes, uint8 [n].
    """

    graphs: dict[str, tuple[bytes, tuple[str, ...]]] = attrs.field(factory=dict)
    weights: dict[str, tuple[int, tuple[int, ...], npt.NDArray[np.uint8]]] = attrs.field(factory=dict)
