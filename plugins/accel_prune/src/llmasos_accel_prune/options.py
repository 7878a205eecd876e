"""The config options of ``prune``."""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.frozen(kw_only=True)
class Options:
    """Options of ``prune``. ``layers`` and ``mlp`` change the structure; the other methods mask weights."""

    method: Literal["layers", "mlp", "magnitude", "wanda", "sparsegpt"] = attrs.field(
        default="layers",
        metadata={"help": "Drop layers, narrow the MLPs, or mask weights by magnitude, Wanda or SparseGPT."},
    )
    drop: int | None = attrs.field(default=None, metadata={"help": "layers: how many to drop, chosen on calibration text."})
    layers: tuple[int, ...] = attrs.field(
        default=(), metadata={"help": "layers: the numbers of those to drop, counted from 0, in place of drop."}
    )
    width: int | None = attrs.field(default=None, metadata={"help": "mlp: neurons that every layer keeps; a multiple of 16."})
    sparsity: float | None = attrs.field(default=None, metadata={"help": "Masks: the share of weights set to zero; 0.5 by default."})
    pattern: Literal["unstructured", "2:4"] = attrs.field(
        default="unstructured", metadata={"help": "Masks: any weights, or two of every four neighbours."}
    )
    windows: int = attrs.field(default=16, validator=attrs.validators.ge(1), metadata={"help": "Windows of calibration text."})
    length: int = attrs.field(default=512, validator=attrs.validators.ge(2), metadata={"help": "Tokens of a calibration window."})

    @property
    def masks(self) -> bool:
        """Whether the method masks weights rather than changing the structure."""
        return self.method in ("magnitude", "wanda", "sparsegpt")

    @property
    def share(self) -> float:
        """The sparsity in force."""
        return 0.5 if self.sparsity is None else self.sparsity

    @property
    def calibrated(self) -> bool:
        """Whether the method runs the model on calibration text."""
        return self.method != "magnitude" and not self.layers
