"""The config options of this loader."""

from __future__ import annotations

from typing import Literal

import attrs

Precision = Literal["auto", "fp32", "int8"]


@attrs.frozen(kw_only=True)
class Options:
    """Options of the ``tf`` loader."""

    precision: Precision = attrs.field(
        default="auto",
        validator=attrs.validators.in_(("auto", "fp32", "int8")),
        metadata={
            "help": "Weight format of the linear layers; auto is int8 for quantised checkpoints, else fp32.",
            "choices": ("auto", "fp32", "int8"),
        },
    )
    kernels: str = attrs.field(
        default="auto",
        validator=attrs.validators.matches_re("[a-z][a-z0-9_]*"),
        metadata={
            "help": "What computes quantised layers where precision is auto: auto takes installed kernels that are faster on this CPU "
            "(llmasos-kernels-cpu), tf only TensorFlow, any other name the installed ones of that name."
        },
    )
    threads: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.ge(1)),
        metadata={"help": "Compute threads; by default the limit that the runtime sets, else all cores. One setting a process."},
    )
    prefill_chunk: int = attrs.field(
        default=256,
        validator=attrs.validators.ge(8),
        metadata={"help": "Prompt tokens computed in one run of the graph; bounds the memory of a prefill."},
    )
