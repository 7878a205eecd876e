"""The config options of loaders that concern encoders."""

from __future__ import annotations

from typing import Final, Literal

import attrs

PoolingChoice = Literal["auto", "mean", "cls", "last", "max"]
_POOLINGS: Final = ("auto", "mean", "cls", "last", "max")


@attrs.frozen(kw_only=True)
class EncoderOptions:
    """What a loader's options say of encoders."""

    pooling: PoolingChoice = attrs.field(
        default="auto",
        validator=attrs.validators.in_(_POOLINGS),
        metadata={
            "help": "How tokens become a vector; auto: as the model's folder says, else their mean. Torch makes decoders embed by it.",
            "choices": _POOLINGS,
        },
    )
    query_prompt: str | None = attrs.field(
        default=None, metadata={"help": "Encoders: what comes before a query; by default what the model's folder says."}
    )
    passage_prompt: str | None = attrs.field(
        default=None, metadata={"help": "Encoders: what comes before a passage; by default what the model's folder says."}
    )
    batch_tokens: int = attrs.field(
        default=8192,
        validator=attrs.validators.ge(1),
        metadata={"help": "Encoders: tokens that are encoded together at most; at least as many as one text may have."},
    )
