"""What config may set for this loader."""

from __future__ import annotations

from typing import Literal

import attrs

Precision = Literal["auto", "f32", "f16", "bf16"]
Activations = Literal["auto", "float", "int8"]


@attrs.frozen(kw_only=True)
class Options:
    """Options of the ``openvino`` loader."""

    device: str = attrs.field(
        default="CPU",
        validator=attrs.validators.instance_of(str),
        metadata={"help": "What computes: CPU, or another device that OpenVINO finds on the machine, by its name: GPU, GPU.1, NPU."},
    )
    precision: Precision = attrs.field(
        default="auto",
        validator=attrs.validators.in_(("auto", "f32", "f16", "bf16")),
        metadata={
            "help": "What is computed in, keys and values too; auto is bf16 on CPUs with AMX or AVX-512 for it, f16 on other devices that "
            "compute in it, else f32. Stored codes keep their bits.",
            "choices": ("auto", "f32", "f16", "bf16"),
        },
    )
    activations: Activations = attrs.field(
        default="auto",
        validator=attrs.validators.in_(("auto", "float", "int8")),
        metadata={
            "help": "What stored codes are multiplied by: floats, or activations rounded to 8 bits with a scale for every 32; auto is int8 "
            "where precision is auto and the device is a CPU with instructions for it.",
            "choices": ("auto", "float", "int8"),
        },
    )
    threads: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.ge(1)),
        metadata={"help": "Compute threads of a CPU; by default the limit that the runtime sets, else all cores."},
    )
    prefill_chunk: int = attrs.field(
        default=1024,
        validator=attrs.validators.ge(16),
        metadata={"help": "Tokens computed in one call of OpenVINO; bounds the memory of a prefill."},
    )
