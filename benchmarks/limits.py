"""What the machine allows: how fast it reads memory and multiplies, which no engine passes."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from llmasos_devtools.doctor.hardware import measure_bandwidth

#: Side of the square matrices that are multiplied.
_SIDE = 1536


@attrs.frozen
class Limits:
    """Measured on two threads.

    Attributes:
        bandwidth: bytes read a second.
        float32, int8: operations a second of large products, two for each multiplication with its addition.
    """

    bandwidth: float
    float32: float
    int8: float

    def decode(self, weight_bytes: int) -> float:
        """Tokens a second of one sequence, each of which reads all weights once."""
        return self.bandwidth / weight_bytes

    def prefill(self, linear_weights: int) -> float:
        """Tokens a second of a prompt, each of which is multiplied by all weights of the linear layers, in the faster of the two forms."""
        return max(self.float32, self.int8) / (2 * linear_weights)

    @property
    def sentence(self) -> str:
        """The limits in words."""
        return (
            f"This machine reads {self.bandwidth / 1e9:.1f} GB/s and multiplies {self.float32 / 1e9:.0f} GFLOP/s in float32 and "
            f"{self.int8 / 1e9:.0f} GOP/s in int8 on two threads."
        )


def measure_limits() -> Limits:
    """Takes about three seconds."""
    return Limits(
        bandwidth=measure_bandwidth(2, available=4 << 30).read,
        float32=_rate(_product(np.float32, 2)),
        int8=int8_rate(2),
    )


def int8_rate(threads: int) -> float:
    """Operations a second of a large product of bytes by ONNX Runtime."""
    return _rate(_product(np.uint8, threads))


def bfloat16_rate(threads: int) -> float:
    """Operations a second of a large product of bfloat16 by torch."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    one, two = (torch.ones(_SIDE, _SIDE, dtype=torch.bfloat16) for _ in range(2))
    try:
        return _rate(lambda: one @ two)
    finally:
        torch.set_num_threads(before)


def _product(kind: type, threads: int) -> Callable[[], object]:
    """Multiplies two square matrices with ONNX Runtime."""
    whole = kind is np.uint8
    stored = TensorProto.UINT8 if whole else TensorProto.FLOAT
    result = TensorProto.INT32 if whole else TensorProto.FLOAT
    rng = np.random.default_rng(0)
    one, two = (rng.integers(0, 127, (_SIDE, _SIDE)).astype(kind) for _ in range(2))
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if whole else "MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", stored, [_SIDE, _SIDE])],
        [helper.make_tensor_value_info("y", result, [_SIDE, _SIDE])],
        [onnx.numpy_helper.from_array(two, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": one})


def _rate(run: Callable[[], object], seconds: float = 1.0) -> float:
    """Operations a second of the best run."""
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return 2 * _SIDE**3 / best
