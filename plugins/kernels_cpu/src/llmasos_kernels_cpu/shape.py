"""The shape of a packed matrix; ``native/matrix.h`` has the same members."""

from __future__ import annotations

import ctypes
from typing import Final, Literal

import attrs

#: Rows of a panel, and columns of a step: see ``native/matrix.h``.
ROWS: Final = 16
STEP: Final = 4
_LINE: Final = ROWS * STEP

Zero = Literal["fixed", "stored", "minimum"]
Scale = Literal["half", "single", "two_level"]
#: What activations are rounded to.
Precision = Literal["int8", "bf16"]
_ZEROS: Final[tuple[Zero, ...]] = ("fixed", "stored", "minimum")
_SCALES: Final[tuple[Scale, ...]] = ("half", "single", "two_level")
PRECISIONS: Final[tuple[Precision, ...]] = ("int8", "bf16")
#: Bytes of a scale; of two levels those of the lower one.
_WIDTHS: Final = {"half": 2, "single": 4, "two_level": 1}


@attrs.frozen(kw_only=True)
class Shape:
    """The shape of a packed matrix.

    Attributes:
        rows, columns: of the matrix that it stands for.
        bits: of a stored code, 4, 6 or 8.
        unit: 16 or 32 columns, whose activations share a scale.
        group: units whose weights share a scale.
        zero: "fixed": the code ``2 ** (bits - 1)`` stands for 0; "stored": a byte for each row and group; "minimum": weights are
            ``scale * code + minimum``.
        scale: "half" and "single": float16 and float32; "two_level": float16 for ``super`` groups, times int8 for each.
    """

    rows: int
    columns: int
    bits: int
    unit: int
    group: int
    zero: Zero
    scale: Scale
    super: int = 1

    @property
    def panels(self) -> int:
        return -(-self.rows // ROWS)

    @property
    def units(self) -> int:
        return -(-self.columns // self.unit)

    @property
    def groups(self) -> int:
        return -(-self.units // self.group)

    @property
    def supers(self) -> int:
        """Groups of groups that share the upper scale of two levels; else none."""
        return -(-self.groups // self.super) if self.scale == "two_level" else 0

    @property
    def panel_bytes(self) -> int:
        """Bytes of a panel: the parts of its scales, padded to a line, and its codes."""
        parts = 1 + (self.zero == "minimum")
        scales = ROWS * (self.groups * _WIDTHS[self.scale] * parts + self.supers * 2 * parts + self.groups * (self.zero == "stored"))
        return -(-scales // _LINE) * _LINE + self.units * ROWS * self.unit * self.bits // 8

    def attributes(self) -> dict[str, int]:
        """The members as numbers, in their order in ``native/matrix.h``."""
        return {
            "rows": self.rows,
            "columns": self.columns,
            "bits": self.bits,
            "unit": self.unit,
            "group": self.group,
            "zero": _ZEROS.index(self.zero),
            "scale": _SCALES.index(self.scale),
            "super": self.super,
        }


class NativeShape(ctypes.Structure):
    """``Shape`` as the library takes it."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("bits", "unit", "group", "zero", "scale", "super")),
    )

    @classmethod
    def of(cls, shape: Shape) -> NativeShape:
        return cls(*shape.attributes().values())
