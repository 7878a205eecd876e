"""Writing an ONNX graph whose weights stand in one file beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

#: Name of the weights' file in the model's folder.
WEIGHTS: Final = "weights.bin"
#: Domain of ONNX Runtime's own operators.
CONTRIB: Final = "com.microsoft"
_ALIGNMENT: Final = 4096
_SMALL: Final = 1024


class GraphWriter:
    """Collects nodes; writes every large initializer to ``folder / WEIGHTS`` as it comes, so that one tensor at a time is in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weight_bytes = 0
        self._file = (folder / WEIGHTS).open("wb")
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._values: set[str] = set()
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def input(self, name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, _onnx_type(np.dtype(dtype)), shape))
        return name

    def output(self, name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> str:
        self._outputs.append(helper.make_tensor_value_info(name, _onnx_type(np.dtype(dtype)), shape))
        return name

    def node(self, op: str, inputs: Sequence[str], outputs: str | Sequence[str], *, domain: str = "", **attributes: Any) -> str:
        """Add a node and return its first output; an empty name stands for an input or output left out."""
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        self._nodes.append(helper.make_node(op, list(inputs), names, name=f"{names[0]}:{op}", domain=domain, **attributes))
        self._values.update(names)
        return names[0]

    def has(self, value: str) -> bool:
        """Whether a node already gives this value."""
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
            self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT))
            self._refer(proto, self._file.tell(), array.nbytes)
            self._file.write(array.view(np.uint8).reshape(-1).data)
        self.weight_bytes += array.nbytes
        self._initializers[name] = proto
        return name

    def view(self, name: str, source: str, shape: Sequence[int]) -> str:
        """Add an initializer of another shape over the bytes of the one called ``source``."""
        original = self._initializers[source]
        proto = TensorProto()
        proto.CopyFrom(original)
        proto.name = name
        del proto.dims[:]
        proto.dims.extend(shape)
        self._initializers[name] = proto
        return name

    def save(self, name: str, *, float_activations: bool = False) -> None:
        """Write the graph itself as ``folder / name``; several may share the weights.

        ``float_activations``: 4-bit products take their inputs as they are, not rounded to 8 bits.
        """
        nodes = [_with_float_activations(node) for node in self._nodes] if float_activations else self._nodes
        graph = helper.make_graph(nodes, "decoder", self._inputs, self._outputs, list(self._initializers.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)], ir_version=10)
        onnx.save_model(model, self.folder / name)

    def _refer(self, proto: TensorProto, offset: int, length: int) -> None:
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(length))):
            proto.external_data.add(key=key, value=value)


def _with_float_activations(node: onnx.NodeProto) -> onnx.NodeProto:
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type != "MatMulNBits" or attributes["bits"].i != 4:
        return node
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    next(attribute for attribute in changed.attribute if attribute.name == "accuracy_level").i = 1
    return changed


def _onnx_type(dtype: np.dtype[Any]) -> int:
    return int(TensorProto.BFLOAT16) if dtype.name == "bfloat16" else int(helper.np_dtype_to_tensor_dtype(dtype))
