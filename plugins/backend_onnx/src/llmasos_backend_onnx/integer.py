"""Linear layers as int8 GEMM: int16 activations, int8 or int16 weights, one scale a row.

CPUs with VNNI or AMX compute int8 GEMM many times as fast as float GEMM, but only along whole rows; blocks with their own scales are too
short. One scale a row is less accurate, which a second int8 code compensates: a weight is ``scale * (high + low / 254)`` with both codes
between -127 and 127, and so is an activation. The product of the two low codes, 1/64,516 of a quantisation step, is left out. Integer sums
are exact, so the result of a token is bitwise identical regardless of the batch composition.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_backend_onnx.graph import CONTRIB, GraphWriter

Floats = npt.NDArray[np.float32]

#: The largest code; -128 is not used, so that codes are symmetric.
_TOP: Final = 127
#: Steps of the low code in one step of the high code, whose rounding error is at most half a step either way.
_FINER: Final = 2 * _TOP
#: Largest ratio of a bound to the usual maximum. It costs 5 of the 15 bits; 10 bits remain, 4 times the codes of one int8.
_SLACK: Final = 32
#: Zero point of the activations, which are uint8 because the operator's fast kernels need that.
_ZERO: Final = 128


@attrs.frozen(eq=False)
class RowMatrix:
    """A matrix with one scale for every row: ``scales * (high + low / 254)``.

    Attributes:
        high: int8 [rows, columns].
        low: int8 [rows, columns]; None for 8-bit weights.
        scales: float32 [rows].
    """

    high: npt.NDArray[np.int8]
    low: npt.NDArray[np.int8] | None
    scales: Floats

    def dequantize(self) -> Floats:
        """The dequantised matrix, float32 [rows, columns]."""
        codes = self.high.astype(np.float32)
        if self.low is not None:
            codes += self.low.astype(np.float32) / np.float32(_FINER)
        return codes * self.scales[:, None]


def round_rows(weights: Floats, *, bits: int) -> RowMatrix:
    """Round ``weights`` [rows, columns] to the nearest codes of 8 or 16 ``bits``; does not change them."""
    scales = np.abs(weights).max(axis=1) / np.float32(_TOP)
    scales = np.where(scales == 0, np.float32(1), scales).astype(np.float32)
    codes = weights / scales[:, None]
    high = np.clip(np.rint(codes), -_TOP, _TOP)
    low: npt.NDArray[np.int8] | None = None
    if bits == 16:
        codes -= high
        codes *= np.float32(_FINER)
        low = np.clip(np.rint(codes), -_TOP, _TOP).astype(np.int8)
    return RowMatrix(high=high.astype(np.int8), low=low, scales=scales)


def bound_of_norm(gamma: Floats, beta: Floats | None = None) -> float | None:
    """An upper bound of the magnitude of a norm's output with weights ``gamma`` and biases ``beta``; None if it is too loose to be useful.

    Each of n normalised elements is below sqrt(n), with or without mean subtraction. Without outliers the largest is about 4; a bound over
    ``_SLACK`` times as high would leave too few codes for the activations.
    """
    shift = np.zeros_like(gamma) if beta is None else beta
    bound = float((np.sqrt(gamma.size) * np.abs(gamma) + np.abs(shift)).max())
    usual = float(np.sqrt(np.mean(np.square(4 * gamma, dtype=np.float64) + np.square(shift, dtype=np.float64))))
    return bound if 0 < bound <= _SLACK * usual else None


def emit_product(
    writer: GraphWriter, name: str, matrix: RowMatrix, value: str, bias: Floats | None, *, only: str, bound: float | None = None
) -> str:
    """Emit nodes for ``value @ matrix.T + bias`` in the graph ``only``; return the name of the result.

    ``bound``: upper bound of the value's magnitude; None: the graph computes the largest magnitude of each token.
    """
    halves = _halves(writer, value, only, bound)
    scales = writer.constant(f"{name}.row_scales", matrix.scales * np.float32(bound or 1))
    high_step, low_step = _step(writer, "high", _TOP, 1), _step(writer, "low", _TOP * _FINER, 1)

    def product(codes: str, weights: str, step: str, result: str) -> str:
        inputs = [codes, weights, step, scales, _zero(writer)]
        return writer.node("MatMulIntegerToFloat", inputs, f"{name}.{result}", domain=CONTRIB, only=only)

    if matrix.low is None:
        # One GEMM over the stacked high and low codes of the activations reads the weights once.
        stacked = _shared(writer, "Concat", [halves.high, halves.low], f"{value}.stacked", only=only, axis=0)
        both = product(stacked, writer.constant(f"{name}.high", matrix.high.T), high_step, "stacked")
        parts = [f"{name}.high_part", f"{name}.low_part"]
        writer.node("Split", [both], parts, only=only, axis=0)
        finer = writer.constant("finer", np.array([1 / _FINER], dtype=np.float32))
        parts[1] = writer.node("Mul", [parts[1], finer], f"{name}.low_scaled", only=only)
    else:
        # The two mixed terms, high activations by low weights and low activations by high weights, are one GEMM of twice the columns.
        planes = writer.constant(f"{name}.planes", np.concatenate([matrix.high.T, matrix.low.T]))
        joined = _shared(writer, "Concat", [halves.low, halves.high], f"{value}.joined", only=only, axis=-1)
        parts = [
            product(halves.high, writer.view(f"{name}.high", planes, matrix.high.T.shape), high_step, "high_part"),
            product(joined, planes, low_step, "low_part"),
        ]
    steps: list[tuple[str, str]] = [("Add", parts[1])]
    steps += [] if halves.largest is None else [("Mul", halves.largest)]
    steps += [] if bias is None else [("Add", writer.constant(f"{name}.bias", bias))]
    result = parts[0]
    for number, (op, operand) in enumerate(steps, start=1):
        output = f"{name}.product" if number == len(steps) else f"{name}.sum{number}"
        result = writer.node(op, [result, operand], output, only=only)
    return result


@attrs.frozen
class _Halves:
    """High and low codes of a value [n, columns] in units of ``largest`` [n, 1], the largest magnitude of each token, or of its bound."""

    high: str
    low: str
    largest: str | None


def _halves(writer: GraphWriter, value: str, only: str, bound: float | None) -> _Halves:
    found = _Halves(f"{value}.high", f"{value}.low", None if bound else f"{value}.largest")
    if writer.has(found.high):
        return found
    zero, unit = _zero(writer), value
    if found.largest is not None:
        magnitudes = writer.node("Abs", [value], f"{value}.magnitudes", only=only)
        most = writer.node("ReduceMax", [magnitudes], f"{value}.most", only=only, axes=[-1], keepdims=1)
        writer.node("Max", [most, writer.constant("tiny", np.array([1e-30], dtype=np.float32))], found.largest, only=only)
        unit = writer.node("Div", [value, found.largest], f"{value}.unit", only=only)
    prefix = f"{value}." if bound else ""
    high_step, low_step = _step(writer, f"{prefix}high", _TOP, bound or 1), _step(writer, f"{prefix}low", _TOP * _FINER, bound or 1)
    writer.node("QuantizeLinear", [unit, high_step, zero], found.high, only=only)
    coarse = writer.node("DequantizeLinear", [found.high, high_step, zero], f"{value}.coarse", only=only)
    rest = writer.node("Sub", [unit, coarse], f"{value}.rest", only=only)
    writer.node("QuantizeLinear", [rest, low_step, zero], found.low, only=only)
    return found


def _shared(writer: GraphWriter, op: str, inputs: list[str], output: str, *, only: str, axis: int) -> str:
    return output if writer.has(output) else writer.node(op, inputs, output, only=only, axis=axis)


def _step(writer: GraphWriter, name: str, codes: int, most: float) -> str:
    return writer.constant(f"{name}_step", np.array(most / codes, dtype=np.float32))


def _zero(writer: GraphWriter) -> str:
    return writer.constant("byte_zero", np.array(_ZERO, dtype=np.uint8))
