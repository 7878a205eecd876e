"""The native library, and its calls on numpy arrays."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_decoder_kit.cpu_kernels import RmsNorm
from llmasos_hookspecs import ConfigError, LLMasOSError, PluginError
from llmasos_kernels_cpu.packing import PackedMatrix
from llmasos_kernels_cpu.shape import PRECISIONS, NativeShape, Precision, Shape

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

#: Forces an instruction set: one of ``names()``.
VARIABLE: Final = "LLMASOS_KERNELS"
#: Where the build put the library: see ``hatch_build.py``.
PATH: Final = Path(__file__).with_name("libllmasos_kernels_cpu" + (".dylib" if sys.platform == "darwin" else ".so"))
_FLOAT: Final = np.dtype(np.float32)
_ERRORS: Final = {
    1: "The shape is that of no packed matrix",
    2: "This processor has not the instructions that were asked for",
    3: "There is no memory for what is computed on the way",
    4: "An index is no row of the matrix",
    5: "The packed matrix has not the size of its shape",
    6: "The place of a token is beyond the memory of keys, or its sequence is not in order",
    7: "Activations are rounded to int8 or to bfloat16 only",
}


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(PATH))
    except OSError as error:
        raise PluginError(f"The library of llmasos-kernels-cpu cannot be loaded ({error}); install it again on this machine.") from error
    shape, pointer, number, text = ctypes.POINTER(NativeShape), ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p
    real, flag = ctypes.c_float, ctypes.c_int
    for name, result, arguments in (
        ("names", text, []),
        ("runs", flag, [text]),
        ("chosen", text, []),
        ("bytes", number, [shape]),
        ("multiply", flag, [text, number, shape, pointer, number, *[pointer] * 4, real, pointer, flag, number, number, pointer]),
        ("attend", flag, [text, *[number] * 4, real, real, pointer, pointer, number, *[pointer] * 4, number, number, pointer]),
        ("draw", flag, [text, pointer, pointer, number, number, pointer, pointer, number]),
        ("take_rows", flag, [shape, pointer, number, pointer, number, pointer]),
        ("read", ctypes.c_uint64, [pointer, number, number]),
    ):
        function = getattr(library, f"llmasos_kernels_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def names() -> tuple[str, ...]:
    """The instruction sets that were compiled in, best first; the last, "scalar", is plain C++."""
    return tuple(_library().llmasos_kernels_names().decode().split())


def runs(name: str) -> bool:
    """Whether this processor has the instruction set."""
    return bool(_library().llmasos_kernels_runs(name.encode()))


def chosen() -> str:
    """The instruction set that products use: the fastest of this processor, or the one that ``LLMASOS_KERNELS`` names.

    Raises ``ConfigError`` where it names none that runs here.
    """
    found = _library().llmasos_kernels_chosen()
    if found is None:
        here = " or ".join(name for name in names() if runs(name))
        raise ConfigError(f"{VARIABLE} is {os.environ.get(VARIABLE)!r}, and this processor runs {here}; set it to one, or unset it.")
    return str(found.decode())


def refusal() -> str | None:
    """Why the library is not faster than what frameworks have for every processor, as the end of a sentence; None if it is.

    Raises ``ConfigError`` as ``chosen`` does.
    """
    return "this processor has none of the instruction sets that they are faster with" if chosen() == "scalar" else None


def packed_bytes(shape: Shape) -> int:
    """Bytes of a packed matrix."""
    return int(_library().llmasos_kernels_bytes(NativeShape.of(shape)))


class Product:
    """A packed matrix with all that its product has but the input; see ``multiply`` for its arguments.

    Attributes:
        nbytes: of the matrix, the bias and the norm.
    """

    def __init__(
        self,
        matrix: PackedMatrix,
        bias: Floats | None = None,
        norm: RmsNorm | None = None,
        *,
        gated: bool = False,
        precision: Precision = "int8",
        name: str | None = None,
        threads: int = 1,
    ) -> None:
        shape = matrix.shape
        bias = _floats("bias", bias, (shape.rows,))
        gamma = _floats("gamma", None if norm is None else norm.gamma, (shape.columns,))
        self.nbytes = matrix.data.nbytes + sum(array.nbytes for array in (bias, gamma) if array is not None)
        self._kept = (matrix, bias, gamma)  # their memory is that of the addresses
        self._call = _library().llmasos_kernels_multiply
        data = matrix.data
        self._matrix = (_named(name), PRECISIONS.index(precision), NativeShape.of(shape), data.ctypes.data, data.nbytes, _address(bias))
        self._norm = (_address(gamma), 0.0 if norm is None else norm.epsilon)
        self._gated, self._threads = gated, threads

    def __call__(self, count: int, x: int, out: int, *, addend: int = 0, total: int = 0) -> None:
        """The product of ``count`` rows; see ``CpuLinear``. Addresses of contiguous float32 memory."""
        _checked(self._call(*self._matrix, x, addend or None, *self._norm, total or None, self._gated, count, self._threads, out))


def multiply(
    matrix: PackedMatrix,
    x: Floats,
    bias: Floats | None = None,
    *,
    addend: Floats | None = None,
    norm: RmsNorm | None = None,
    gated: bool = False,
    precision: Precision = "int8",
    name: str | None = None,
    threads: int = 1,
) -> Floats:
    """``x @ matrix.T + bias``, float32 [n, rows], with ``x`` [n, columns] rounded to int8 by units, or to bfloat16.

    ``addend``, of the shape of ``x``, is added to it first, and then its ``norm`` is taken. ``gated``: the first half of the rows gate the
    other, and the result is ``silu(gate) * value``, float32 [n, rows / 2]. ``name``: the instruction set; None: the one that is ``chosen``.
    """
    shape = matrix.shape
    x = np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2 or x.shape[1] != shape.columns:
        raise ValueError(f"x has the shape {x.shape}; the matrix has {shape.columns} columns.")
    addend = _floats("addend", addend, x.shape)
    output = np.empty((len(x), shape.rows // 2 if gated else shape.rows), dtype=np.float32)
    product = Product(matrix, bias, norm, gated=gated, precision=precision, name=name, threads=threads)
    product(len(x), x.ctypes.data, output.ctypes.data, addend=_address(addend) or 0)
    return output


@attrs.frozen(eq=False, kw_only=True)
class Attention:
    """How a layer attends.

    Attributes:
        heads, kv_heads: of queries, and of keys and values.
        scale: of scores.
        window: tokens that one sees, itself among them; 0: all before it.
        softcap: scores become ``cap * tanh(score / cap)``; 0: they stay.
        rotations: cosines and sines, float32 [positions, width / 2] each; None: nothing is rotated.
    """

    heads: int
    kv_heads: int
    scale: float
    window: int = 0
    softcap: float = 0.0
    rotations: tuple[Floats, Floats] | None = None


class Attending:
    """Attention of heads of ``width``, with all but what it attends to; see ``attend`` for the other arguments."""

    def __init__(self, attention: Attention, width: int, *, name: str | None = None, threads: int = 1) -> None:
        tables = [_floats("rotations", table, (len(table), width // 2)) for table in attention.rotations or ()] or [None, None]
        self._kept = tables  # their memory is that of the addresses
        self._call = _library().llmasos_kernels_attend
        form = (attention.heads, attention.kv_heads, width, attention.window, attention.scale, attention.softcap)
        self._form = (_named(name), *form)
        self._tables = [_address(table) for table in tables]
        self._threads = threads

    def __call__(self, count: int, states: int, places: int, keys: int, values: int, length: int, out: int) -> None:
        """Attention of ``count`` tokens; see ``CpuAttention``. Addresses of contiguous memory."""
        _checked(self._call(*self._form, states, places, count, *self._tables, keys, values, length, self._threads, out))


def attend(
    attention: Attention, states: Floats, places: Integers, keys: Floats, values: Floats, *, name: str | None = None, threads: int = 1
) -> Floats:
    """Attention of new tokens, float32 [n, heads * width]; writes their keys and values into ``keys`` and ``values``.

    Args:
        states: queries, keys and values of each token side by side, [n, (heads + 2 * kv_heads) * width].
        places: sequence and position of each token, [n, 2]; tokens of a sequence are neighbours, in order.
        keys, values: contiguous float32 [sequences, kv_heads, length, width].
    """
    sequences, kv_heads, length, width = keys.shape
    states, places = np.ascontiguousarray(states, dtype=np.float32), np.ascontiguousarray(places, dtype=np.int64)
    if states.shape != (len(places), (attention.heads + 2 * kv_heads) * width) or kv_heads != attention.kv_heads:
        raise ValueError(f"states have the shape {states.shape}, and keys {keys.shape}.")
    if not keys.flags.c_contiguous or not values.flags.c_contiguous or values.shape != keys.shape or {keys.dtype, values.dtype} != {_FLOAT}:
        raise ValueError("keys and values are no contiguous float32 arrays of one shape.")
    if len(places) and places[:, 0].max() >= sequences:
        raise ValueError(f"places name the sequence {places[:, 0].max()} of {sequences}.")
    for table in attention.rotations or ():
        _floats("rotations", table, (length, width // 2))
    output = np.empty((len(places), attention.heads * width), dtype=np.float32)
    given = (states.ctypes.data, places.ctypes.data, keys.ctypes.data, values.ctypes.data)
    Attending(attention, width, name=name, threads=threads)(len(places), *given, length, output.ctypes.data)
    return output


def draw(rows: Sequence[Floats] | Floats, choices: npt.NDArray[Any], *, threads: int = 1, name: str | None = None) -> Integers:
    """A token of each row of logits, contiguous float32 [vocab] each or [n, vocab]: int64 [n], -1 where a row has none; ``choices`` [n] as
    in ``drawing``."""
    count = len(rows)
    tokens = np.empty(count, np.int64)
    if not count:
        return tokens
    if isinstance(rows, np.ndarray):
        _check_logits([rows], 2)
        vocab, addresses, first = rows.shape[1], None, _place(rows)
    else:
        _check_logits(rows, 1)
        vocab, addresses, first = len(rows[0]), _addresses(rows), None
    if len(choices) != count:
        raise ValueError(f"There are {count} rows of logits, and {len(choices)} choices.")
    where = None if addresses is None else _place(addresses)
    _checked(_library().llmasos_kernels_draw(_named(name), where, first, count, vocab, _place(choices), _place(tokens), threads))
    return tokens


def _check_logits(arrays: Sequence[Floats], dimensions: int) -> None:
    shape = arrays[0].shape
    if len(shape) != dimensions or any(each.shape != shape or each.dtype != _FLOAT or not each.flags.c_contiguous for each in arrays):
        raise ValueError("The rows of logits are no contiguous float32 arrays of one length.")


def take_rows(matrix: PackedMatrix, indices: Integers) -> Floats:
    """Rows of the matrix, dequantised, float32 [n, columns]."""
    indices = np.ascontiguousarray(indices, dtype=np.int64)
    output = np.empty((len(indices), matrix.shape.columns), dtype=np.float32)
    _checked(
        _library().llmasos_kernels_take_rows(
            NativeShape.of(matrix.shape), matrix.data.ctypes.data, matrix.data.nbytes, indices.ctypes.data, len(indices), output.ctypes.data
        )
    )
    return output


def read(memory: npt.NDArray[np.uint64], threads: int) -> int:
    """The sum of the words, read by the threads that multiply."""
    return int(_library().llmasos_kernels_read(memory.ctypes.data, memory.size, threads))


def _addresses(rows: Sequence[Floats]) -> npt.NDArray[np.uint64]:
    """Where each row is, uint64 [n]."""
    try:
        # A quarter of the time of ``__array_interface__``.
        return np.array([ctypes.addressof(ctypes.c_char.from_buffer(row.data)) for row in rows], np.uint64)
    except TypeError:  # a row is not writable
        return np.array([_place(row) for row in rows], np.uint64)


def _place(array: npt.NDArray[Any]) -> int:
    """The address of an array, in less time than ``array.ctypes``."""
    address: int = array.__array_interface__["data"][0]
    return address


def _floats(what: str, array: Floats | None, shape: tuple[int, ...]) -> Floats | None:
    """The array as contiguous float32. Raises ``ValueError`` if it has another shape."""
    if array is None:
        return None
    array = np.ascontiguousarray(array, dtype=np.float32)
    if array.shape != shape:
        raise ValueError(f"{what} has the shape {array.shape}, not {shape}.")
    return array


def _address(array: Floats | None) -> int | None:
    return None if array is None else array.ctypes.data


def _named(name: str | None) -> bytes | None:
    return None if name is None else name.encode()


def _checked(code: int) -> None:
    if code:
        raise LLMasOSError(f"{_ERRORS[code]}.")
