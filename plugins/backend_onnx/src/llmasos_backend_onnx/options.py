"""The config options of this loader."""

from __future__ import annotations

from typing import Literal

import attrs

from llmasos_encoder_kit.options import EncoderOptions

Precision = Literal["auto", "fp32", "int8", "int8_channel", "int4"]
Provider = Literal["cpu", "cuda"]
PrefillActivations = Literal["auto", "fp32", "int16", "int8"]


@attrs.frozen(kw_only=True)
class Options(EncoderOptions):
    """Options of the ``onnx`` loader."""

    precision: Precision = attrs.field(
        default="auto",
        validator=attrs.validators.in_(("auto", "fp32", "int8", "int8_channel", "int4")),
        metadata={
            "help": "Weight format of the linear layers; auto keeps each tensor in its stored precision. int8 and int4 have a scale for "
            "every 32 weights; int8_channel has one a row, for throughput: slower for one sequence, faster from about 4 on.",
            "choices": ("auto", "fp32", "int8", "int8_channel", "int4"),
        },
    )
    prefill_activations: PrefillActivations = attrs.field(
        default="auto",
        validator=attrs.validators.in_(("auto", "fp32", "int16", "int8")),
        metadata={
            "help": "Format of a prompt's activations in quantised layers; fp32 (for 4 bits) packs the weights twice, int16 takes 3 more "
            "bytes a weight; auto takes that of installed kernels, else the fastest for which there is ample memory.",
            "choices": ("auto", "fp32", "int16", "int8"),
        },
    )
    provider: Provider = attrs.field(
        default="cpu",
        validator=attrs.validators.in_(("cpu", "cuda")),
        metadata={"help": "The ONNX Runtime execution provider; cuda needs onnxruntime-gpu.", "choices": ("cpu", "cuda")},
    )
    kernels: str = attrs.field(
        default="auto",
        validator=attrs.validators.matches_re("[a-z][a-z0-9_]*"),
        metadata={
            "help": "Operators that compute quantised layers: auto takes installed ones that are faster on this CPU (llmasos-kernels-cpu), "
            "onnx only ONNX Runtime's own, any other name the installed ones of that name."
        },
    )
    threads: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.ge(1)),
        metadata={"help": "Compute threads; by default the limit that the runtime sets, else all cores."},
    )
    spin: bool = attrs.field(
        default=True, metadata={"help": "Let compute threads spin while they wait: steps are up to a fifth faster, cores are busier."}
    )
    exact_drafts: bool = attrs.field(
        default=True,
        metadata={
            "help": "Make the logits of several tokens in a row bitwise identical to one token at a time, so that prompt lookup changes no "
            "text; false: decode is up to a tenth faster at larger batches."
        },
    )
    prefill_chunk: int = attrs.field(
        default=512,
        validator=attrs.validators.ge(16),
        metadata={"help": "Prompt tokens computed in one run of the graph; bounds the memory of a prefill."},
    )
    media_cache: int = attrs.field(
        default=64,
        validator=attrs.validators.ge(0),
        metadata={
            "help": "MiB for what encoders of sources gave (encoder-decoders), which a later prompt of the same tenant "
            "with the same source uses again; 0: none is kept."
        },
    )
