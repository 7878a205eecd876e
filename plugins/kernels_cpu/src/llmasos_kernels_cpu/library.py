"""The native library, and its calls on numpy arrays."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import ConfigError, LLMasOSError, PluginError
from llmasos_kernels_cpu.packing import PackedMatrix
from llmasos_kernels_cpu.shape import NativeShape, Shape

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

#: Forces an instruction set: one of ``names()``.
VARIABLE: Final = "LLMASOS_KERNELS"
#: Where the build put the library: see ``hatch_build.py``.
PATH: Final = Path(__file__).with_name("libllmasos_kernels_cpu" + (".dylib" if sys.platform == "darwin" else ".so"))
_ERRORS: Final = {
    1: "The shape is that of no packed matrix",
    2: "This processor has not the instructions that were asked for",
    3: "There is no memory for the rounded activations",
    4: "An index is no row of the matrix",
    5: "The packed matrix has not the size of its shape",
}


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(PATH))
    except OSError as error:
        raise PluginError(f"The library of llmasos-kernels-cpu cannot be loaded ({error}); install it again on this machine.") from error
    shape, pointer, number, text = ctypes.POINTER(NativeShape), ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p
    for name, result, arguments in (
        ("names", text, []),
        ("runs", ctypes.c_int, [text]),
        ("chosen", text, []),
        ("bytes", number, [shape]),
        ("multiply", ctypes.c_int, [text, shape, pointer, number, pointer, pointer, number, number, pointer]),
        ("take_rows", ctypes.c_int, [shape, pointer, number, pointer, number, pointer]),
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


def packed_bytes(shape: Shape) -> int:
    """Bytes of a packed matrix."""
    return int(_library().llmasos_kernels_bytes(NativeShape.of(shape)))


def multiply(matrix: PackedMatrix, x: Floats, bias: Floats | None = None, *, name: str | None = None, threads: int = 1) -> Floats:
    """``x @ matrix.T + bias``, float32 [n, rows], with ``x`` [n, columns] rounded to int8 by units.

    ``name``: the instruction set; None: the one that is ``chosen``.
    """
    shape = matrix.shape
    x = np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2 or x.shape[1] != shape.columns:
        raise ValueError(f"x has the shape {x.shape}; the matrix has {shape.columns} columns.")
    if bias is not None:
        bias = np.ascontiguousarray(bias, dtype=np.float32)
        if bias.shape != (shape.rows,):
            raise ValueError(f"bias has the shape {bias.shape}; the matrix has {shape.rows} rows.")
    output = np.empty((len(x), shape.rows), dtype=np.float32)
    _checked(
        _library().llmasos_kernels_multiply(
            None if name is None else name.encode(),
            NativeShape.of(shape),
            matrix.data.ctypes.data,
            matrix.data.nbytes,
            None if bias is None else bias.ctypes.data,
            x.ctypes.data,
            len(x),
            threads,
            output.ctypes.data,
        )
    )
    return output


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


def _checked(code: int) -> None:
    if code:
        raise LLMasOSError(f"{_ERRORS[code]}.")
