"""Weights of 8-bit floats with a scale for the matrix, a row, or a block of it: ``weight * scale``.

So store them fp8 of transformers and DeepSeek (``weight_scale_inv``, which despite its name multiplies), compressed-tensors
(``weight_scale``), FBGEMM and NVIDIA's ModelOpt. No grid of whole numbers holds them, so they are read as float32.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from llmasos_hookspecs import UnsupportedModel
from llmasos_huggingface_folder.quantization import FLOAT8, Array, Headers, Read, damaged, parts_of

_SCALES: Final = ("weight_scale_inv", "weight_scale")
_NOTE: Final = "Its weights are 8-bit floats with scales, and are held as float32."


class ScaledFloats:
    """Implements ``QuantizedForm`` for every matrix of 8-bit floats; ``block`` is rows and columns that share a scale, where there are
    such blocks.

    Raises:
        UnsupportedModel: one of them is no matrix.
        CheckpointError: one of them has no scale, or one of a shape that does not fit.
    """

    def __init__(self, headers: Headers, where: str, block: tuple[int, int] | None = None) -> None:
        self._where, self._headers, self._block = where, headers, block
        modules = []
        for name, stored in headers.items():
            if stored.dtype.name in FLOAT8:
                if len(stored.shape) != 2 or not name.endswith(".weight"):
                    raise UnsupportedModel(
                        f"{where} holds {name[:80]!r} as 8-bit floats, which is read of matrices only; get the unquantised model."
                    )
                modules.append(name.removesuffix(".weight"))
        self.parts = {module: parts_of(headers, module, ("weight", *_SCALES)) for module in modules}
        for module in modules:
            self._spread(module)
        self.notes = (_NOTE,) if modules else ()

    def shape(self, module: str, read: Read) -> tuple[int, int]:
        rows, columns = self._headers[f"{module}.weight"].shape
        return rows, columns

    def tensor(self, module: str, read: Read) -> Array:
        weight = read(f"{module}.weight")
        scale = read(f"{module}.{self._scale(module)}")
        assert weight is not None
        assert scale is not None
        rows, columns = weight.shape
        height, width = self._spread(module)
        scale = scale.astype(np.float32).reshape(-(-rows // height), -(-columns // width))
        out: Array = weight.astype(np.float32)
        out *= scale.repeat(height, axis=0)[:rows].repeat(width, axis=1)[:, :columns]
        return out

    def _scale(self, module: str) -> str:
        found = [leaf for leaf in _SCALES if f"{module}.{leaf}" in self._headers]
        if len(found) != 1:
            raise damaged(self._where, module)
        return found[0]

    def _spread(self, module: str) -> tuple[int, int]:
        """Rows and columns that share a scale."""
        rows, columns = self._headers[f"{module}.weight"].shape
        stored = self._headers[f"{module}.{self._scale(module)}"]
        count = int(np.prod(stored.shape))
        if stored.dtype.kind not in "fV" or not rows or not columns or not count:
            raise damaged(self._where, module)
        if count == 1:
            return rows, columns
        if self._block is None and stored.shape in ((rows, 1), (rows,)):
            return 1, columns
        if self._block is not None:
            height, width = self._block
            if stored.shape == (-(-rows // height), -(-columns // width)):
                return min(height, rows), min(width, columns)  # a file may claim blocks of any size
        if len(stored.shape) == 2 and stored.shape[0] == rows and columns % stored.shape[1] == 0:
            return 1, columns // stored.shape[1]
        raise damaged(self._where, module)
