"""The config options of ``quant``."""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.frozen(kw_only=True)
class Options:
    """Options of ``quant``; a group of 0 is one scale a row."""

    bits: Literal[4, 8] = attrs.field(default=8, metadata={"help": "Width of a weight."})
    group: int | None = attrs.field(
        default=None,
        metadata={"help": "Columns that share a scale (16, 32, 64, 128, 256), 0 for one scale a row; by default 0 at 8 bits and 32 at 4."},
    )
    symmetric: bool = attrs.field(default=True, metadata={"help": "Scales only; false adds an integer zero point to each group."})
    method: Literal["rtn", "gptq", "awq"] | None = attrs.field(
        default=None,
        metadata={"help": "Round to nearest, or calibrated on text (needs torch); by default rtn at 8 bits and gptq at 4."},
    )
    head_bits: Literal[4, 8, 16] = attrs.field(
        default=8,
        metadata={"help": "Width of the output head, which is rounded to nearest; 16 leaves it as it is, tied to the embedding or not."},
    )
    head_group: int | None = attrs.field(
        default=None, metadata={"help": "As group, for the head; by default the group of the rest at 8 bits and 32 at 4."}
    )
    windows: int = attrs.field(default=16, validator=attrs.validators.ge(1), metadata={"help": "Windows of calibration text."})
    length: int = attrs.field(default=512, validator=attrs.validators.ge(2), metadata={"help": "Tokens of a calibration window."})
    damping: float = attrs.field(
        default=0.01,
        validator=[attrs.validators.gt(0), attrs.validators.le(1)],
        metadata={"help": "GPTQ: damping added to the Hessian's diagonal, as a share of its mean."},
    )

    @property
    def rounding(self) -> str:
        """The effective method."""
        return self.method or ("gptq" if self.bits == 4 else "rtn")

    @property
    def columns_per_scale(self) -> int:
        """The effective group size of the layers; 0 is one scale a row."""
        if self.group is None:
            return 32 if self.bits == 4 else 0
        return self.group

    @property
    def head_columns_per_scale(self) -> int:
        """The effective group size of the head; 0 is one scale a row."""
        if self.head_group is None:
            return 32 if self.head_bits == 4 else self.columns_per_scale
        return self.head_group
