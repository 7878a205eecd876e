"""Writes an ONNX graph with its weights beside it: in one external file, or in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from llmasos_backend_onnx.graph_files import WEIGHTS, InMemory

#: Domain of ONNX Runtime's own operators.
CONTRIB: Final = "com.microsoft"
_ALIGNMENT: Final = 4096
_SMALL: Final = 1024


class GraphWriter:
    """Collects nodes; writes every large initializer to ``folder / WEIGHTS`` at once, so that only one tensor is in memory at a time.
    Given an ``InMemory`` in the place of a folder it fills that, and touches no disk."""

    def __init__(self, output: Path | InMemory) -> None:
        self._output = output
        self._file: BinaryIO | None = (output / WEIGHTS).open("wb") if isinstance(output, Path) else None
        self._nodes: list[tuple[onnx.NodeProto, str | None]] = []
        self._initializers: dict[str, TensorProto] = {}
        self._sizes: dict[str, int] = {}
        self._sources: dict[str, str] = {}
        self._values: set[str] = set()
        self._left_out: set[tuple[str, str]] = set()
        self._saved: dict[str, frozenset[str]] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def input(self, name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, _onnx_type(np.dtype(dtype)), shape))
        return name

    def output(self, name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> str:
        self._outputs.append(helper.make_tensor_value_info(name, _onnx_type(np.dtype(dtype)), shape))
        return name

    def node(
        self, op: str, inputs: Sequence[str], outputs: str | Sequence[str], *, domain: str = "", only: str | None = None, **attributes: Any
    ) -> str:
        """Add a node and return its first output; an empty name stands for an input or output left out. None is written at the end
        of the inputs.

        ``only``: the one graph that contains it; None: every graph that ``save`` writes and that needs it.
        """
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        given = list(inputs)
        while given and not given[-1]:
            given.pop()
        self._nodes.append((helper.make_node(op, given, names, name=f"{names[0]}:{op}", domain=domain, **attributes), only))
        self._values.update(names)
        return names[0]

    def leave_out(self, value: str, graph: str) -> None:
        """Have the node that computes a value for every graph left out of this one, where another node computes what is needed of it."""
        self._left_out.add((value, graph))

    def has(self, value: str) -> bool:
        """Whether a node already computes this value."""
        return value in self._values

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """Add an initializer, once for each name."""
        if name in self._initializers:
            return name
        array = np.ascontiguousarray(array)
        proto = TensorProto(name=name, data_type=_onnx_type(array.dtype), dims=array.shape)
        if array.nbytes <= _SMALL:
            proto.raw_data = array.tobytes()
        else:
            self._refer(proto, self._place(proto, array.reshape(-1).view(np.uint8)), array.nbytes)
        self._initializers[name] = proto
        self._sizes[name] = array.nbytes
        return name

    def view(self, name: str, source: str, shape: Sequence[int]) -> str:
        """Add an initializer of another shape over the bytes of the one called ``source``, or over the first of them."""
        original = self._initializers[source]
        proto = TensorProto()
        proto.CopyFrom(original)
        proto.name = name
        del proto.dims[:]
        proto.dims.extend(shape)
        length = int(np.prod(shape)) * helper.tensor_dtype_to_np_dtype(proto.data_type).itemsize
        if proto.data_location == TensorProto.EXTERNAL:
            next(entry for entry in proto.external_data if entry.key == "length").value = str(length)
            if isinstance(self._output, InMemory):
                self._place(proto, self._output.weights[source][2][:length])
        else:
            proto.raw_data = proto.raw_data[:length]
        self._initializers[name] = proto
        self._sizes[name] = length
        self._sources[name] = source
        return name

    def operators(self, graph: str) -> frozenset[str]:
        """Those of ONNX and ONNX Runtime, without installed ones, in a graph that was saved."""
        return self._saved[graph]

    def save(self, name: str) -> int:
        """Write the graph ``name`` as a file of the folder, without nodes that its outputs do not need; several graphs may share the
        weights.

        Returns the bytes of its weights in memory.
        """
        needed = {output.name for output in self._outputs}
        nodes: list[onnx.NodeProto] = []
        for node, only in reversed(self._nodes):
            left_out = only is None and any((output, name) in self._left_out for output in node.output)
            if only in (None, name) and not left_out and needed.intersection(node.output):
                nodes.append(node)
                needed.update(filter(None, node.input))
        self._saved[name] = frozenset(node.op_type for node in nodes if node.domain in ("", CONTRIB))
        initializers = {key: proto for key, proto in self._initializers.items() if key in needed}
        graph = helper.make_graph(nodes[::-1], "decoder", self._inputs, self._outputs, list(initializers.values()))
        domains = sorted({CONTRIB, *(node.domain for node in nodes)} - {""})
        opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        if isinstance(self._output, InMemory):
            self._output.graphs[name] = (model.SerializeToString(), tuple(initializers.keys() & self._output.weights.keys()))
        else:
            onnx.save_model(model, self._output / name)
        # A view of a whole initializer shares its memory; a view of a part is packed separately.
        shared = {key for key, source in self._sources.items() if source in needed and self._sizes[key] == self._sizes[source]}
        return sum(self._sizes[key] for key in initializers if key not in shared)

    def _place(self, proto: TensorProto, data: npt.NDArray[np.uint8]) -> int:
        """Write the bytes of an initializer; returns where they begin in the file."""
        if isinstance(self._output, InMemory):
            self._output.weights[proto.name] = (proto.data_type, tuple(proto.dims), data)
            return 0
        assert self._file is not None
        self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT))
        start = self._file.tell()
        self._file.write(data.data)
        return start

    def _refer(self, proto: TensorProto, offset: int, length: int) -> None:
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(length))):
            proto.external_data.add(key=key, value=value)


def _onnx_type(dtype: np.dtype[Any]) -> int:
    return int(TensorProto.BFLOAT16) if dtype.name == "bfloat16" else int(helper.np_dtype_to_tensor_dtype(dtype))
