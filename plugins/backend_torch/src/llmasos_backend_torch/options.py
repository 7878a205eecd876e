"""The config options of this loader."""

from __future__ import annotations

import re
from typing import Literal

import attrs

from llmasos_encoder_kit.options import EncoderOptions

DType = Literal["auto", "float32", "bfloat16", "int8", "int4"]
Implementation = Literal["auto", "fused", "transformers"]
Sampling = Literal["auto", "device", "host"]

_DTYPES = ("auto", "float32", "bfloat16", "int8", "int4")
_IMPLEMENTATIONS = ("auto", "fused", "transformers")
_SAMPLING = ("auto", "device", "host")


def _positive(instance: object, attribute: attrs.Attribute[int | None], value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{attribute.name} must be 1 or more, not {value}.")


def _device(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, not {value!r}.")


@attrs.frozen(kw_only=True)
class Options(EncoderOptions):
    """Options of the ``torch`` loader."""

    device: str = attrs.field(
        default="auto", validator=_device, metadata={"help": "auto (a CUDA GPU if there is one, else the CPU), cpu, cuda or cuda:N."}
    )
    dtype: DType = attrs.field(
        default="auto",
        validator=attrs.validators.in_(_DTYPES),
        metadata={
            "help": "Weight format of the linear layers; auto keeps each tensor near its stored precision.",
            "choices": _DTYPES,
        },
    )
    threads: int | None = attrs.field(
        default=None,
        validator=_positive,
        metadata={"help": "Compute threads of this process; by default the limit that the runtime sets, else PyTorch's own choice."},
    )
    compile: bool = attrs.field(
        default=False,
        metadata={
            "help": "Compile decode steps of the fused forward with torch.compile; each new shape takes minutes, later steps are faster."
        },
    )
    implementation: Implementation = attrs.field(
        default="auto",
        validator=attrs.validators.in_(_IMPLEMENTATIONS),
        metadata={
            "help": "Implementation of the layers: fused is our own forward for the Llama family, transformers the model's own code; "
            "auto takes fused if it supports the model.",
            "choices": _IMPLEMENTATIONS,
        },
    )
    kernels: str = attrs.field(
        default="auto",
        validator=attrs.validators.matches_re("[a-z][a-z0-9_]*"),
        metadata={
            "help": "What computes 4-bit layers of the Llama family where dtype is auto: auto takes installed kernels that are faster on "
            "this CPU (llmasos-kernels-cpu), torch only PyTorch's own, any other name the installed ones of that name."
        },
    )
    packed_copy: bool = attrs.field(
        default=True,
        metadata={
            "help": "On a CPU, keep float32, int8 and int4 weights in two layouts, one fast for single tokens and one for many, "
            "where memory is ample."
        },
    )
    sampling: Sampling = attrs.field(
        default="auto",
        validator=attrs.validators.in_(_SAMPLING),
        metadata={
            "help": "Where tokens are sampled: device, so that logits are not copied to the host; host, by the runtime; "
            "auto is device on a GPU and host on a CPU.",
            "choices": _SAMPLING,
        },
    )
    media_cache: int = attrs.field(
        default=64,
        validator=attrs.validators.ge(0),
        metadata={
            "help": "MiB for what vision towers and encoders of sources gave, which a later prompt of the same tenant "
            "with the same image or source uses again; 0: none is kept."
        },
    )
