"""Stored weights: plain arrays, or quantised codes with scales."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

if TYPE_CHECKING:  # numpy takes 50 ms to import, more than a plugin's module may cost; it is imported where arrays are touched
    import numpy as np
    import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[Any]"


@attrs.frozen(eq=False, kw_only=True)
class QuantizedTensor:
    """A matrix of integer codes with a scale for each group of columns.

    A weight is ``scale * (code - zero)``, or ``scale * code + minimum`` where ``minimums`` is given. Groups run along the
    columns (the input dimension); the last one is shorter where ``group`` does not divide the columns.

    Attributes:
        codes: uint8 [rows, columns], one code an element, each below ``2 ** bits``.
        scales: float32 [rows, groups].
        bits: width of a code, 2 to 8.
        group: columns that share a scale; the number of columns for one scale a row.
        zeros: uint8 [rows, groups]; None for symmetric codes, whose zero is ``2 ** (bits - 1)``.
        minimums: float32 [rows, groups], the float offsets of GGUF's Q4_1, Q5_1 and K blocks; excludes ``zeros``.
    """

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    bits: int = attrs.field(validator=[attrs.validators.ge(2), attrs.validators.le(8)])
    group: int = attrs.field(validator=attrs.validators.gt(0))
    zeros: npt.NDArray[np.uint8] | None = None
    minimums: npt.NDArray[np.float32] | None = None

    def __attrs_post_init__(self) -> None:
        rows, columns = self.codes.shape
        expected = (rows, -(-columns // self.group))
        for name in ("scales", "zeros", "minimums"):
            array = getattr(self, name)
            if array is not None and array.shape != expected:
                raise ValueError(
                    f"QuantizedTensor.{name} has shape {array.shape}; codes {self.codes.shape} in groups of {self.group} need {expected}."
                )
        if self.zeros is not None and self.minimums is not None:
            raise ValueError("QuantizedTensor takes zeros or minimums, not both.")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, as of the matrix it stands for."""
        rows, columns = self.codes.shape
        return rows, columns

    @property
    def symmetric(self) -> bool:
        """Whether the zero of every group is ``2 ** (bits - 1)``."""
        return self.zeros is None and self.minimums is None

    @property
    def nbytes(self) -> int:
        """Bytes when packed: codes at ``bits`` each, scales and minimums in 16 bits, zeros at ``bits`` each."""
        size = self.codes.size * self.bits // 8 + self.scales.size * 2
        if self.minimums is not None:
            size += self.minimums.size * 2
        if self.zeros is not None:
            size += self.zeros.size * self.bits // 8
        return size

    def dequantize(self) -> npt.NDArray[np.float32]:
        """The matrix as float32 [rows, columns]."""
        import numpy as np

        scales = self._spread(self.scales)
        out = self.codes.astype(np.float32)
        if self.minimums is not None:
            out *= scales
            out += self._spread(self.minimums)
            return out
        if self.zeros is None:
            out -= np.float32(2 ** (self.bits - 1))
        else:
            out -= self._spread(self.zeros.astype(np.float32))
        out *= scales
        return out

    def take_rows(self, index: npt.NDArray[np.intp] | slice) -> QuantizedTensor:
        """The same tensor with only the rows that ``index`` names, in that order."""
        return attrs.evolve(
            self,
            codes=self.codes[index],
            scales=self.scales[index],
            zeros=None if self.zeros is None else self.zeros[index],
            minimums=None if self.minimums is None else self.minimums[index],
        )

    def _spread(self, groups: Array) -> Array:
        import numpy as np

        columns = self.codes.shape[1]
        return np.repeat(groups, self.group, axis=1)[:, :columns]


#: A tensor of a checkpoint: a numpy array, or codes with their scales.
Tensor: TypeAlias = "Array | QuantizedTensor"


def as_float32(tensor: Tensor) -> npt.NDArray[np.float32]:
    """Any stored weight as a float32 array of the same shape."""
    import numpy as np

    if isinstance(tensor, QuantizedTensor):
        return tensor.dequantize()
    return np.asarray(tensor).astype(np.float32, copy=False)


#: Elements that are checked at once: few enough to stay in a core's cache.
_CHUNK = 1 << 16
#: The bits of the exponent, by type: all of them set is an infinity or no number.
_EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80}


def is_finite(tensor: Tensor) -> bool:
    """Whether a stored weight holds no NaN and no infinity; of codes their scales and minimums are looked at.

    0.35 ns an element of float32, 0.2 of 16 bits: 50 ms for a float32 model of 135 million weights, 3 ms where these are 4-bit codes.
    """
    import numpy as np

    if isinstance(tensor, QuantizedTensor):
        return _is_finite(tensor.scales) and (tensor.minimums is None or _is_finite(tensor.minimums))
    return _is_finite(np.asarray(tensor))


def _is_finite(array: Array) -> bool:
    import numpy as np

    flat = np.ascontiguousarray(array).reshape(-1)
    exponent = _EXPONENTS.get(flat.dtype.name)
    if exponent is not None:
        flat = flat.view(np.uint16)
        bits = np.empty(min(_CHUNK, flat.size), np.uint16)
        parts = (flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))
        return all(int(np.bitwise_and(part, exponent, out=bits[: part.size]).max()) != exponent for part in parts)
    if flat.dtype.kind != "f":
        return True
    finite = np.empty(min(_CHUNK, flat.size), np.bool_)
    parts = (flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))
    return all(bool(np.isfinite(part, out=finite[: part.size]).all()) for part in parts)
