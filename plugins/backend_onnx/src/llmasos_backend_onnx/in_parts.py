"""Graphs in memory as named parts of bytes and back, for where builds of sealed models are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_backend_onnx.graph_files import InMemory

_FACTS: Final = "facts"


def packed(place: InMemory, built: Mapping[str, Any]) -> dict[str, npt.NDArray[np.uint8]]:
    """Parts that ``unpacked`` makes the same graphs of. Weights over the same bytes, or over the first of them, are one part."""
    whole: dict[int, tuple[str, npt.NDArray[np.uint8]]] = {}
    for name, (_, _, data) in place.weights.items():
        start = data.ctypes.data
        if start not in whole or whole[start][1].nbytes < data.nbytes:
            whole[start] = (f"weight {name}", data)
    weights = {name: (kind, shape, whole[data.ctypes.data][0], data.nbytes) for name, (kind, shape, data) in place.weights.items()}
    facts = {"built": built, "weights": weights, "graphs": {name: large for name, (_, large) in place.graphs.items()}}
    graphs = {f"graph {name}": np.frombuffer(graph, dtype=np.uint8) for name, (graph, _) in place.graphs.items()}
    return {_FACTS: np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8), **graphs, **dict(whole.values())}


def unpacked(parts: Mapping[str, npt.NDArray[np.uint8]]) -> tuple[InMemory, dict[str, Any]]:
    """The graphs, and what was said of them when they were built."""
    facts = json.loads(parts[_FACTS].tobytes())
    return InMemory(
        graphs={name: (parts[f"graph {name}"].tobytes(), tuple(large)) for name, large in facts["graphs"].items()},
        weights={name: (kind, tuple(shape), parts[part][:size]) for name, (kind, shape, part, size) in facts["weights"].items()},
    ), facts["built"]
